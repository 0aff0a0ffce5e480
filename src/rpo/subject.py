"""The subject: a folder of photos, checked at the door, upright, in RGB, and in a stable order."""

from __future__ import annotations

import hashlib
import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from os import PathLike
from os.path import expanduser  # unlike Path's, it leaves an unknown ~user as it is
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageCms, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

from rpo.errors import UserError

Kind = Literal["live", "object"]

MIN_PHOTOS = 2
MIN_SIDE = 32  # pixels; below it there is nothing to learn from
MAX_PIXELS = 150_000_000  # beyond any phone's full resolution; guards against decompression bombs

# The formats that are read, and the endings under which each is found. Pillow's others stay shut:
# some run foreign programs (EPS), and none of them is a photo.
_ENDINGS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "HEIF": (".heic", ".heif", ".hif"),
    "AVIF": (".avif",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "BMP": (".bmp",),
}
_FORMATS_BY_ENDING = {ending: name for name, endings in _ENDINGS.items() for ending in endings}

# The words that, last in a class noun, make a subject "live" (it gets the live list of prompts),
# unless one of the others stands before them, as in DreamBench's "stuffed animal".
_LIVE = """
    alpaca animal ant ape baby bear beagle bee bird boy budgie bull bulldog bunny butterfly calf
    camel canary cat chameleon chicken child chinchilla chipmunk cockatoo collie corgi cow crab
    crocodile crow dachshund dalmatian deer dog dolphin donkey dove dragonfly duck duckling eagle
    elephant elk falcon ferret fish flamingo foal fox frog gecko gerbil giraffe girl goat goldfish
    goose gorilla hamster hare hawk hedgehog hen hippo horse human husky iguana infant jaguar
    kangaroo kid kitten koala labrador ladybug lamb leopard lion lizard llama lynx macaw man
    meerkat mole monkey moose mouse octopus orangutan ostrich otter owl ox panda panther parakeet
    parrot peacock pelican penguin person pet pig pigeon piglet pony poodle pug puppy quail rabbit
    raccoon ram rat raven retriever rhino rooster salamander seal shark sheep shepherd shrimp
    skunk sloth snail snake sparrow spaniel spider squid squirrel stork swallow swan tarantula
    terrier tiger toad tortoise toucan turkey turtle walrus weasel whale wolf woman yak zebra
"""
LIVE_NOUNS = frozenset(_LIVE.split())
_LIFELESS = frozenset(("ceramic", "hot", "plastic", "plush", "rubber", "stuffed", "teddy", "toy"))


@dataclass(frozen=True)
class PhotoCheck:
    """One photo's verdict: `size` is its upright (width, height) in pixels, None if unreadable.

    `message` says what is wrong and what to do; it is empty where the status is "ok".
    """

    path: Path
    status: Literal["ok", "warning", "rejected"]
    size: tuple[int, int] | None
    message: str


def check_folder(folder: str | PathLike[str], small_below: int = 256) -> list[PhotoCheck]:
    """Judge every photo in `folder`, in natural order of the names ("2.jpg" before "10.jpg").

    Hidden files, folders and other kinds of file are passed over. A short side under
    `small_below` pixels is a warning. A bad photo is a rejected check, never an exception;
    UserError is for a folder that is missing, not a folder, or without photos.
    """
    return [check for check, _ in _inspect(Path(expanduser(folder)), small_below)]


@dataclass(frozen=True)
class Subject:
    """What is learned: its class noun and its photos (RGB, upright, full size), by name order."""

    noun: str
    images: tuple[Image.Image, ...]
    paths: tuple[Path, ...]
    kind: Kind
    name: str

    @classmethod
    def from_folder(
        cls,
        folder: str | PathLike[str],
        noun: str,
        kind: Literal["auto", "live", "object"] = "auto",
    ) -> Subject:
        """Read every photo in `folder`; the folder's name becomes the subject's.

        `kind` "auto" is live where the noun's last word is in LIVE_NOUNS ("teddy bear" and the
        like are objects). Raises UserError for an empty noun, an unknown kind, a folder that
        `check_folder` refuses, any rejected photo (two files with the same picture are such), and
        fewer than 2 photos.
        """
        noun = " ".join(noun.split())
        if not noun:
            raise UserError("noun is empty; name what the photos show, such as dog")
        if kind not in ("auto", "live", "object"):
            raise UserError(f"subject_kind must be auto, live or object, not {kind!r}")
        if kind == "auto":
            kind = _kind_of(noun)

        folder = Path(expanduser(folder))
        photos, rejected = [], []
        for check, image in _inspect(folder):
            if image is None:
                rejected.append(check)
            else:
                photos.append((check.path, image))
        if rejected:
            more = f" (and {len(rejected) - 1} more rejected)" if len(rejected) > 1 else ""
            raise UserError(f"{rejected[0].path}: {rejected[0].message}{more}")
        if len(photos) < MIN_PHOTOS:
            raise UserError(f"{folder}: only {len(photos)} photo; add more, best are 4 to 6")
        paths, images = zip(*photos, strict=True)
        return cls(noun, images, paths, kind, folder.resolve().name)

    def tensor(self, size: int) -> torch.Tensor:
        """The photos' centre squares, resized by Lanczos: (n, 3, size, size) float32 in [-1, 1]."""
        if size < 1:
            raise ValueError(f"size must be >= 1, not {size}")
        squares = [
            np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS))
            for image in self.images
        ]
        pixels = torch.from_numpy(np.stack(squares))  # (n, size, size, 3) uint8
        return pixels.permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1


def _kind_of(noun: str) -> Kind:
    *before, last = noun.lower().split()
    return "live" if last in LIVE_NOUNS and _LIFELESS.isdisjoint(before) else "object"


class _Rejected(Exception):
    """Why a photo cannot be used, and what to do, in the user's words."""


def _inspect(
    folder: Path, small_below: int = 256
) -> Iterator[tuple[PhotoCheck, Image.Image | None]]:
    """Each photo's check with its picture (None if rejected), one in memory at a time."""
    seen: dict[bytes, str] = {}
    for path in _photo_paths(folder):
        image: Image.Image | None = None
        notes: list[str] = []
        try:
            image, notes = _read_photo(path)
            if min(image.size) < MIN_SIDE:
                raise _Rejected(f"smaller than {MIN_SIDE} pixels; replace it by the original photo")
            twin = seen.setdefault(_digest(image), path.name)
            if twin != path.name:
                raise _Rejected(f"the same picture as {twin}; remove one of the two")
        except _Rejected as reason:
            yield PhotoCheck(path, "rejected", image.size if image else None, str(reason)), None
            continue
        if min(image.size) < small_below:
            notes.append(f"small: under {small_below} pixels; a larger original is better")
        if max(image.size) > 2 * min(image.size):
            notes.append("elongated: only the centre square is used; crop it around the subject")
        yield PhotoCheck(path, "warning" if notes else "ok", image.size, "; ".join(notes)), image


def _photo_paths(folder: Path) -> list[Path]:
    if not folder.exists():
        raise UserError(f"{folder}: no such folder; name the folder that holds the photos")
    if not folder.is_dir():
        raise UserError(f"{folder}: not a folder; name the folder that holds the photos")
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}); allow reading it") from None
    paths = [
        path
        for path in entries
        if path.suffix.lower() in _FORMATS_BY_ENDING
        and not path.name.startswith(".")
        and (path.is_file() or not path.exists())  # a broken link is reported, not passed over
    ]
    if not paths:
        raise UserError(f"{folder}: no photos in it; looked for {', '.join(_FORMATS_BY_ENDING)}")
    return sorted(paths, key=_natural)


def _natural(path: Path) -> tuple[list[str | int], str]:
    """Sorts "2.jpg" before "10.jpg"; the name itself decides between "1.jpg" and "01.jpg"."""
    # Splitting by a group gives text and digits in turn, so like is always compared with like.
    parts = re.split(r"(\d+)", path.name.casefold())
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], path.name


def _digest(image: Image.Image) -> bytes:
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).digest()


def _read_photo(path: Path) -> tuple[Image.Image, list[str]]:
    """The photo at `path`, upright and in RGB, with notes for the user. Raises _Rejected."""
    notes: list[str] = []
    try:
        with warnings.catch_warnings():
            # What Pillow warns of (large pictures, odd metadata) is judged here, in our words.
            warnings.simplefilter("ignore")
            with Image.open(path, formats=_readable_formats()) as photo:
                if photo.width * photo.height > MAX_PIXELS:
                    raise Image.DecompressionBombError
                found = "JPEG" if photo.format == "MPO" else photo.format  # MPO: a phone's JPEG
                if found != _FORMATS_BY_ENDING[path.suffix.lower()]:
                    notes.append(f"named {path.suffix} but really {found}; better rename it")
                if getattr(photo, "is_animated", False) and photo.format != "MPO":
                    notes.append("several frames; only the first is used")
                photo.load()
                return _to_rgb(_upright(photo, notes), notes), notes
    except Image.DecompressionBombError:
        raise _Rejected(f"over {MAX_PIXELS // 10**6} megapixels; reduce its size") from None
    except UnidentifiedImageError:
        raise _Rejected(_why_unidentified(path)) from None
    except FileNotFoundError:
        raise _Rejected("a link to a file that is gone; remove it") from None
    except PermissionError:
        raise _Rejected("cannot be read; allow reading it") from None
    except Exception as error:  # a damaged file makes decoders raise nearly anything
        if "truncated" in str(error):
            raise _Rejected("damaged, its end is missing; copy it again") from None
        reason = " ".join(str(error).split()) or type(error).__name__
        raise _Rejected(f"damaged ({reason}); copy it again or export it as JPEG") from None


@cache
def _readable_formats() -> tuple[str, ...]:
    """Pillow's names of our formats, HEIC among them where pillow-heif is installed."""
    try:
        import pillow_heif
    except ImportError:
        pass
    else:
        pillow_heif.register_heif_opener()
    Image.init()
    return tuple(name for name in (*_ENDINGS, "MPO") if name in Image.OPEN)


def _why_unidentified(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(12)
    if not head:
        return "empty; copy it again"
    if head[4:8] == b"ftyp" and "HEIF" not in _readable_formats():
        return "HEIC needs `pip install pillow-heif`; install it or export the photo as JPEG"
    return "not a picture, whatever its name says; remove it or export it as JPEG"


def _upright(photo: Image.Image, notes: list[str]) -> Image.Image:
    try:
        return ImageOps.exif_transpose(photo)
    except Exception:  # broken EXIF raises nearly anything; the picture itself is fine
        notes.append("its EXIF data are damaged; see that it stands upright")
        return photo.copy()


def _to_rgb(image: Image.Image, notes: list[str]) -> Image.Image:
    """8-bit sRGB on white, whatever the depth, the colour space and the transparency were."""
    if image.mode.startswith("I;16"):  # Pillow's own conversion would clip all above 255 to white
        image = Image.fromarray((np.asarray(image).astype(np.uint16) / 257 + 0.5).astype(np.uint8))
    elif image.mode in ("I", "F"):
        image = _stretched(image)
        notes.append("no 8-bit picture; its range was stretched from black to white")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            notes.append("transparent; its background becomes white")
        profile = image.info.get("icc_profile")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        image.info["icc_profile"] = profile
    image = _to_srgb(image).convert("RGB")
    image.info = {}  # no EXIF (places, names) and no stale profile in what is written later
    return image


def _stretched(image: Image.Image) -> Image.Image:
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    values -= values.min()
    return Image.fromarray((values * (255 / max(values.max(), 1e-12)) + 0.5).astype(np.uint8))


def _to_srgb(image: Image.Image) -> Image.Image:
    """Phones embed wide-gamut profiles; read as sRGB, their colours would come out dull."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "CMYK"):
        return image
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(source):
            return image
        target = ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, source, target, outputMode="RGB") or image
    except (ImageCms.PyCMSError, ImportError, OSError, TypeError, ValueError):
        return image  # a broken profile, or a Pillow built without colour management


def contact_sheet(checks: Sequence[PhotoCheck], tile: int = 160) -> Image.Image:
    """Every checked photo on one RGB sheet, `tile` pixels each, labelled with name and message.

    Rejected photos are crossed out in red, warnings are amber. Raises ValueError without checks.
    """
    if not checks:
        raise ValueError("no checks to show")
    font = _font(max(tile / 13, 9))
    line = round(font.getbbox("Ag")[3] * 1.25)
    margin, columns = max(tile // 16, 2), min(len(checks), 5)
    width, height = tile + margin, tile + margin + _LABEL_LINES * line
    rows = -(-len(checks) // columns)
    sheet = Image.new("RGB", (columns * width + margin, rows * height + margin), "white")
    draw = ImageDraw.Draw(sheet)
    for index, check in enumerate(checks):
        x, y = margin + index % columns * width, margin + index // columns * height
        sheet.paste(_thumbnail(check, tile), (x, y))
        colour = _LABEL_COLOURS[check.status]
        if check.status == "rejected":
            for start, end in (((x, y), (x + tile, y + tile)), ((x, y + tile), (x + tile, y))):
                draw.line((start, end), fill=colour, width=max(tile // 40, 1))
        for row, text in enumerate(_label(check, font, tile)):
            draw.text((x, y + tile + margin // 3 + row * line), text, fill=colour, font=font)
    return sheet


_LABEL_LINES = 5
_LABEL_COLOURS = {"ok": "#333333", "warning": "#a35c00", "rejected": "#c4161c"}


def _thumbnail(check: PhotoCheck, tile: int) -> Image.Image:
    """The photo, whole, in the middle of a grey square; the square alone if it is unreadable."""
    try:
        photo, _ = _read_photo(check.path)
    except _Rejected:
        return Image.new("RGB", (tile, tile), "#dddddd")
    return ImageOps.pad(photo, (tile, tile), Image.Resampling.LANCZOS, color="#dddddd")


def _label(check: PhotoCheck, font: Any, width: int) -> list[str]:
    """The file's name, then the message in lines of at most `width` pixels."""
    lines = [check.path.name]
    for word in check.message.split():
        joined = f"{lines[-1]} {word}"
        if len(lines) > 1 and font.getlength(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(word)
    if len(lines) > _LABEL_LINES:
        lines[_LABEL_LINES - 1 :] = [lines[_LABEL_LINES - 1] + " ..."]
    return [_shortened(line, font, width) for line in lines]


def _font(size: float) -> Any:
    """A font of the system for names in most languages, else Pillow's own, which has only ASCII."""
    for name in ("DejaVuSans.ttf", "Arial.ttf", "segoeui.ttf"):
        try:
            return ImageFont.truetype(name, size)
        except (OSError, ImportError):
            continue
    return ImageFont.load_default(size)


def _shortened(text: str, font: Any, width: int) -> str:
    """`text` cut to `width` pixels, of characters that the font can draw."""
    if not isinstance(
        getattr(font, "path", None), str
    ):  # Pillow's own: ü becomes u, what cannot be reduced ?
        letters = unicodedata.normalize("NFKD", text)
        text = "".join(letter for letter in letters if not unicodedata.combining(letter))
        text = text.encode("ascii", "replace").decode()
    text = text.encode("utf-8", "replace").decode()  # names that are no valid Unicode
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
