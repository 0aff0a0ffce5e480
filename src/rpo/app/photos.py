"""The photos that somebody dropped onto the page: kept, judged, and cut as training will see them.

A collection is a folder: the photos as they came, under plain names, and two hidden things beside
them, which a training passes over: where each is cut, and the squares for the page.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import threading
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, ImageOps

from rpo.about import ASSETS
from rpo.app.home import AGAIN, Home, read_table, write_table
from rpo.data.bundled import bundled_names
from rpo.data.photo import FORMATS_BY_ENDING, read_photo
from rpo.data.subject import MIN_PHOTOS, PhotoCheck, check_folder, remark_on_folder
from rpo.errors import UserError, printable
from rpo.replacing import naming_full_disk
from rpo.runs.folder import next_free
from rpo.runs.pictures import slug

MOST_PHOTOS = 40
MOST_BYTES = 60_000_000  # of one photo
MOST_PIXELS = 120_000_000  # of one photo: what a telephone takes
MOST_TOGETHER = 400_000_000  # bytes of a collection
OLD = 14 * 24 * 3600.0  # seconds after which a collection that nobody taught is thrown away
_CROPS, _SQUARES = ".crops.json", ".squares"
_SIDE = 256  # pixels of a square on the page
_decoding = threading.Lock()  # one at a time: each may take hundreds of megabytes


@dataclass(frozen=True)
class Crop:
    """Where the square is cut: its middle in [0, 1] along each side of its room, its zoom from 1.

    across, down: 0 is as far to the left (up) as it goes, 1 to the right (down).
    """

    across: float = 0.5
    down: float = 0.5
    zoom: float = 1.0

    def box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """The square in a picture of that size, in pixels: left, top, right, bottom."""
        side = max(1, round(min(width, height) / self.zoom))
        left, top = round((width - side) * self.across), round((height - side) * self.down)
        return left, top, left + side, top + side

    @property
    def centred(self) -> bool:
        """Whether it is what a training does by itself."""
        return self == Crop()


@dataclass(frozen=True)
class Square:
    """A photo as the page shows it. file: of its square, None where it cannot be read."""

    name: str
    status: str
    message: str
    file: str | None


@dataclass(frozen=True)
class Judged:
    """What is to be said of a collection. problem: why it cannot be taught yet; empty if it can."""

    squares: tuple[Square, ...] = ()
    remark: str = ""
    problem: str = ""

    @property
    def usable(self) -> int:
        """How many photos a training would use."""
        return sum(square.status in ("ok", "warning") for square in self.squares)


@dataclass(frozen=True)
class Collection:
    """Photos in a folder of their own."""

    home: Home
    name: str

    @classmethod
    def new(cls, home: Home) -> Collection:
        """An empty one."""
        _clear_up(home)
        name = secrets.token_hex(16)
        (home.photos / name).mkdir()
        return cls(home, name)

    @property
    def folder(self) -> Path:
        """Where it is. Raises UserError if it is gone."""
        return self.home.draft(self.name)

    def _files(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if not path.name.startswith(".")]

    # --- taking in -------------------------------------------------------------------------

    def add(self, uploads: Sequence[str | os.PathLike[str]]) -> list[str]:
        """Takes uploaded files in; a zip gives what is in it. Returns what was left out, and why.

        Raises UserError for a file that is none of the uploads.
        """
        left_out: list[str] = []
        for upload in uploads:
            file = self._uploaded(Path(upload))
            with suppress(FileNotFoundError):
                if zipfile.is_zipfile(file) and file.suffix.lower() == ".zip":
                    left_out += self._unpack(file)
                else:
                    with file.open("rb") as stream:
                        left_out += self._keep(file.name, stream)
                file.unlink()
                file.parent.rmdir()  # Gradio gives each file a folder of its own
        return left_out

    def _uploaded(self, path: Path) -> Path:
        """The path, if a plain file of the uploads' folder is there."""
        real, base = path.resolve(), self.home.uploads.resolve()
        plain = path.is_absolute() and not path.is_symlink() and real.is_relative_to(base)
        if not plain or not real.is_file():
            raise UserError(f"{printable(path.name)}: was not sent to this page; drop it again")
        return real

    def _unpack(self, file: Path) -> list[str]:
        left_out: list[str] = []
        try:
            with zipfile.ZipFile(file) as archive:
                inside = [
                    item
                    for item in archive.infolist()
                    if not item.is_dir() and not stat.S_ISLNK(item.external_attr >> 16)
                ]
                for item in inside[: 5 * MOST_PHOTOS]:
                    name = item.filename.replace("\\", "/").rpartition("/")[2]
                    if name.startswith(".") or Path(name).suffix.lower() not in FORMATS_BY_ENDING:
                        continue
                    with archive.open(item) as stream:
                        left_out += self._keep(name, stream)  # type: ignore[arg-type]
        except (
            OSError,
            ValueError,
            RuntimeError,
            NotImplementedError,
            zipfile.BadZipFile,
            EOFError,
        ):
            left_out.append(f"{printable(file.name)}: a damaged or locked zip; drop the photos")
        return left_out

    def _keep(self, name: str, stream: BinaryIO) -> list[str]:
        """Writes one photo under a plain name that is free. Returns why it does not."""
        shown = printable(name)[:80]
        files = self._files()
        if len(files) >= MOST_PHOTOS:
            return [f"{shown}: more than {MOST_PHOTOS} photos; the best are 4 to 6"]
        room = MOST_TOGETHER - sum(file.stat().st_size for file in files)
        path = self._free(name)
        size = 0
        try:
            with naming_full_disk(Path(shown), AGAIN), path.open("xb") as out:
                while block := stream.read(1 << 20):
                    size += len(block)
                    if size > min(MOST_BYTES, room):
                        break
                    out.write(block)
        except BaseException:
            path.unlink(missing_ok=True)  # half a photo is none
            raise
        if size > min(MOST_BYTES, room):
            path.unlink()
            return [f"{shown}: over {MOST_BYTES // 10**6} MB, or all of them too much; reduce it"]
        if too_large(path):
            path.unlink()
            return [f"{shown}: over {MOST_PIXELS // 10**6} megapixels; reduce its size"]
        return []

    def _free(self, name: str) -> Path:
        """A path of this folder for a photo of that name."""
        ending = Path(name).suffix.lower()
        known = ending in FORMATS_BY_ENDING
        stem = "".join(c for c in printable(Path(name).stem) if c.isalnum() or c in " -_()")
        stem = stem.strip()[:60] or "photo"
        ending = ending if known else "".join(c for c in ending if c.isalnum() or c == ".")[:8]
        path, number = self.folder / f"{stem}{ending}", 1
        while path.exists():
            number += 1
            path = self.folder / f"{stem} ({number}){ending}"
        return path

    def add_bundled(self, name: str) -> None:
        """Takes in the photos of a bundled subject. Raises UserError for another name."""
        if name not in bundled_names():
            raise UserError(f"{printable(name)[:80]}: no such example")
        for file in sorted((ASSETS / "emojiland" / "subjects" / name).iterdir()):
            with file.open("rb") as stream:
                self._keep(file.name, stream)

    def remove(self, name: str) -> None:
        """Takes a photo out of the collection, into the bin."""
        file = next((file for file in self._files() if file.name == name), None)
        if file is not None:
            os.replace(file, self.home.bin / f"{secrets.token_hex(4)}-{file.name}")

    # --- judging ---------------------------------------------------------------------------

    def judge(self, small_below: int = 256) -> Judged:
        """Looks at all photos, and cuts their squares."""
        with _decoding:
            return self._judge(small_below)

    def _judge(self, small_below: int) -> Judged:
        if not self._files():
            return Judged()
        try:
            checks = check_folder(self.folder, small_below)
        except UserError:
            shown = tuple(Square(p.name, "ignored", "not a photo", None) for p in self._files())
            return Judged(shown, problem="None of these is a photo that can be read.")
        crops = self.crops()
        squares = tuple(self._square(check, crops) for check in checks)
        usable = sum(check.status in ("ok", "warning") for check in checks)
        problem = ""
        if usable < MIN_PHOTOS:
            problem = f"Add {'more photos' if usable else 'photos'}: the best are 4 to 6."
        return Judged(squares, remark_on_folder(checks), problem)

    def _square(self, check: PhotoCheck, crops: Mapping[str, Crop]) -> Square:
        name = check.path.name
        if check.preview is None:
            return Square(name, check.status, check.message, None)
        crop = crops.get(name, Crop())
        folder = self.folder / _SQUARES
        folder.mkdir(exist_ok=True)
        square = check.preview.crop(crop.box(*check.preview.size))
        if max(square.size) < 128:  # small pictures are enlarged by whole pixels
            square = square.resize((_SIDE, _SIDE), Image.Resampling.NEAREST)
        # a name of its own for each cut, so that no browser shows an old one
        file = f"{slug(name, 40)}-{zlib.crc32(repr((name, crop)).encode()):08x}.png"
        ImageOps.fit(square, (_SIDE, _SIDE)).save(folder / file, format="PNG")
        return Square(name, check.status, check.message, file)

    def square_file(self, name: str) -> Path:
        """The file of a square. Raises UserError for any other name."""
        path = self.folder / _SQUARES / name
        if Path(name).name != name or path.is_symlink() or path.suffix != ".png":
            raise UserError("no such square")
        if not path.is_file():
            raise UserError("no such square")
        return path

    def crops(self) -> dict[str, Crop]:
        """Where the photos are cut that are not cut in their middle."""
        found = {}
        for name, values in read_table(self.folder / _CROPS).items():
            with suppress(TypeError, ValueError):
                found[name] = _crop(*values)
        return found

    def crop(self, name: str, across: float, down: float, zoom: float) -> None:
        """Cuts a photo elsewhere. Raises UserError for a name that is none of them."""
        if name not in {file.name for file in self._files()}:
            raise UserError(f"{printable(name)[:80]}: none of these photos; choose one")
        try:
            crop = _crop(across, down, zoom)
        except (TypeError, ValueError):
            raise UserError("a crop is three numbers; move the sliders") from None
        crops = {**self.crops(), name: crop}
        table = {
            name: [crop.across, crop.down, crop.zoom]
            for name, crop in crops.items()
            if not crop.centred
        }
        write_table(self.folder / _CROPS, table)

    # --- handing over ----------------------------------------------------------------------

    def for_training(self, judged: Judged, run: str) -> Path:
        """A new folder of the photos that can be used, cut as chosen, for the run of that name."""
        target = next_free(self.home.photos, slug(run))
        crops = self.crops()
        target.mkdir()
        for square in judged.squares:
            if square.status not in ("ok", "warning"):
                continue
            source, crop = self.folder / square.name, crops.get(square.name, Crop())
            if crop.centred:
                shutil.copyfile(source, target / source.name)
            else:
                with _decoding:
                    picture = read_photo(source).image
                cut = picture.crop(crop.box(*picture.size))
                cut.save(target / f"{source.stem}.png", format="PNG")
        return target


def _crop(across: Any, down: Any, zoom: Any) -> Crop:
    values = float(across), float(down), float(zoom)
    if not (0 <= values[0] <= 1 and 0 <= values[1] <= 1 and 1 <= values[2] <= 8):
        raise ValueError("outside the photo")
    return Crop(*values)


def too_large(path: Path) -> bool:
    """Whether a picture says that it has more pixels than the page takes; what is none, no."""
    try:
        with Image.open(path) as picture:
            return picture.width * picture.height > MOST_PIXELS
    except Image.DecompressionBombError:
        return True
    except Exception:  # a damaged one, which the check will name
        return False


def _clear_up(home: Home) -> None:
    """Moves what nobody taught for two weeks into the bin; and uploads that were cut short."""
    now = time.time()
    for entry in list(_old(home.photos, now - OLD)):
        if len(entry.name) == 32 and not entry.is_symlink():
            with suppress(OSError):
                os.replace(entry, home.bin / entry.name)
    for entry in list(_old(home.uploads, now - 3600)):
        with suppress(OSError):
            os.replace(entry, home.bin / f"{secrets.token_hex(4)}-{entry.name}")


def _old(folder: Path, before: float) -> Iterable[Path]:
    def entries() -> Iterator[Path]:
        for entry in folder.iterdir():
            with suppress(OSError):
                if entry.lstat().st_mtime < before:
                    yield entry

    return entries()
