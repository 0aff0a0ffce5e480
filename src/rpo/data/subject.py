"""The subject: a folder of photos, checked at the door, upright, in RGB, and in a stable order."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from os.path import expanduser  # unlike Path's, it leaves an unknown ~user as it is
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image, ImageOps

from rpo.data.photo import FORMATS_BY_ENDING, Photo, RejectedPhoto, prepare, read_photo
from rpo.data.remarks import nearly_same, remark_on, remark_on_all, signature
from rpo.errors import UserError, printable

if TYPE_CHECKING:
    import torch  # slow, and the photos alone do without it

Kind = Literal["live", "object"]

MIN_PHOTOS = 2
MIN_SIDE = 32  # pixels; below it there is nothing to learn from
_PREVIEW = 256  # pixels of the long side

# Pictures to their owner, but not read here: cameras' RAW files, documents of image editors,
# drawings, and formats that need a library of their own. They are reported, not passed over.
_PICTURES = """
    .3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .gpr .iiq .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf
    .raw .rw2 .rwl .sr2 .srf .srw .x3f
    .afphoto .eps .psb .psd .svg .svgz .xcf
    .exr .hdr .j2k .jp2 .jpx .jxl .jxr .pgm .pnm .ppm .tga .wdp
"""
_NOT_READ = frozenset(_PICTURES.split())

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
    """One photo's verdict: `size` is its upright (width, height) in pixels, None if not read.

    "ok" and "warning" are used; "rejected" stops a training; "ignored" is a picture in a format
    that is not read. `message` says what is wrong and what to do; it is empty where all is "ok".
    `preview` is the picture itself as it was read, 256 pixels at most; None if it was not.
    """

    path: Path
    status: Literal["ok", "warning", "rejected", "ignored"]
    size: tuple[int, int] | None
    message: str
    preview: Image.Image | None = field(default=None, repr=False, compare=False)


def check_folder(folder: str | os.PathLike[str], small_below: int = 256) -> list[PhotoCheck]:
    """Judge every photo in `folder`, in natural order of the names ("2.jpg" before "10.jpg").

    Hidden files, folders and what is no photo (videos, sidecars, texts) are passed over. A short
    side under `small_below` pixels is a warning, a picture in a format that is not read (RAW, PSD)
    or without its ending an ignored check, unless a readable one of the same name lies beside it.
    A bad photo is a rejected check, never an exception; UserError is for a folder that is missing,
    not a folder, or without photos that can be read.
    """
    return [check for check, _ in _inspect(folder, small_below)]


def remark_on_folder(checks: Sequence[PhotoCheck]) -> str:
    """On all photos together: too little variety. Empty where nothing is to be said."""
    usable = [check for check in checks if check.status in ("ok", "warning")]
    return remark_on_all([signature(check.preview) for check in usable if check.preview])


@dataclass(frozen=True)
class Subject:
    """What is learned: its class noun and its photos (RGB, upright), by name order.

    Photos whose short side is over 2048 pixels are kept reduced to it: the job holds them all its
    life, and a phone's full resolution is 150 MB a photo. `sha256` is that of each photo's file as
    it was read, or of the pixels where they came without a file (then `paths` is empty).
    """

    noun: str
    images: tuple[Image.Image, ...]
    paths: tuple[Path, ...]
    kind: Kind
    name: str
    sha256: tuple[str, ...] = ()
    checks: tuple[PhotoCheck, ...] = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.sha256:
            hashes = tuple(pixel_hash(image).hex() for image in self.images)
            object.__setattr__(self, "sha256", hashes)

    @property
    def names(self) -> tuple[str, ...]:
        """The photos' file names, each on one line; "1", "2" … where they came without files."""
        if not self.paths:
            return tuple(str(number + 1) for number in range(len(self.images)))
        return tuple(printable(path.name) for path in self.paths)

    @property
    def folder(self) -> str:
        """Where the photos lie, absolute; empty where they came without files."""
        return printable(str(self.paths[0].resolve().parent)) if self.paths else ""

    @classmethod
    def from_folder(
        cls,
        folder: str | os.PathLike[str],
        noun: str,
        kind: Literal["auto", "live", "object"] = "auto",
        small_below: int = 256,
    ) -> Subject:
        """Read every photo in `folder`; the folder's name becomes the subject's.

        `kind` "auto" is live where the noun's last word is in LIVE_NOUNS ("teddy bear" and the
        like are objects). `checks` holds what `check_folder` says of them. Raises UserError for an
        empty noun, an unknown kind, a folder that `check_folder` refuses, any rejected photo (two
        files with the same picture are such), and fewer than 2 photos. Pictures in formats that
        are not read do not count.
        """
        noun, kind = checked_noun(noun, kind)
        photos: list[Photo] = []
        checks: list[PhotoCheck] = []
        for check, photo in _inspect(folder, small_below):
            checks.append(check)
            if photo:
                photos.append(photo)
        rejected = [check for check in checks if check.status == "rejected"]
        if rejected:
            more = f" (and {len(rejected) - 1} more rejected)" if len(rejected) > 1 else ""
            raise UserError(f"{printable(rejected[0].path)}: {rejected[0].message}{more}")
        if len(photos) < MIN_PHOTOS:
            ignored = [check.path for check in checks if check.status == "ignored"]
            remedy = _export(ignored) if ignored else "add more"
            raise UserError(
                f"{printable(folder)}: only {len(photos)} photo; {remedy}, best are 4 to 6"
            )
        return cls(
            noun,
            tuple(photo.image for photo in photos),
            tuple(check.path for check in checks if check.status in ("ok", "warning")),
            kind,
            printable(_absolute(folder).name)[:_LONGEST_NAME] or "photos",
            tuple(photo.sha256 for photo in photos),
            tuple(checks),
        )

    @classmethod
    def from_images(
        cls,
        images: Sequence[Image.Image] | Sequence[torch.Tensor] | torch.Tensor,
        noun: str,
        name: str = "subject",
        kind: Literal["auto", "live", "object"] = "auto",
    ) -> Subject:
        """Take pictures from memory: PIL images of any mode, or tensors (N, 3, H, W) in [0, 1].

        They are made upright, sRGB and opaque as photos are. `name` names the runs. Raises
        UserError for what `from_folder` refuses in photos, a picture that is neither kind, and a
        tensor of another shape or range.
        """
        noun, kind = checked_noun(noun, kind)
        if (
            not name.strip(" .")
            or printable(name) != name
            or name != Path(name).name
            or len(name) > _LONGEST_NAME
        ):
            raise UserError(f"name {name!r}: give one that can name a folder, such as my-dog")
        if len(images) < MIN_PHOTOS:
            raise UserError(f"images: only {len(images)}; add more, best are 4 to 6")
        taken: dict[bytes, int] = {}
        pictures = []
        for number, image in enumerate(images, 1):
            picture = _from_memory(image, f"image {number}")
            twin = taken.setdefault(pixel_hash(picture), number)
            if twin != number:
                raise UserError(f"image {number}: the same as image {twin}; remove one of the two")
            pictures.append(picture)
        return cls(noun, tuple(pictures), (), kind, name)

    def tensor(self, size: int) -> torch.Tensor:
        """The photos' centre squares, resized by Lanczos: (n, 3, size, size) float32 in [-1, 1]."""
        import torch

        if size < 1:
            raise ValueError(f"size must be >= 1, not {size}")
        squares = [
            np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS))
            for image in self.images
        ]
        pixels = torch.from_numpy(np.stack(squares))  # (n, size, size, 3) uint8
        return pixels.permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1


_LONGEST_NAME = 60  # characters; in UTF-8, with a number behind, it is still a folder's name


def checked_noun(noun: str, kind: Literal["auto", "live", "object"]) -> tuple[str, Kind]:
    """The noun without stray spaces, and the kind that "auto" stands for. Raises UserError."""
    noun = " ".join(noun.split())
    if not noun:
        raise UserError("noun is empty; name what the photos show, such as dog")
    if kind not in ("auto", "live", "object"):
        raise UserError(f"subject_kind must be auto, live or object, not {kind!r}")
    return noun, _kind_of(noun) if kind == "auto" else kind


def _kind_of(noun: str) -> Kind:
    *before, last = noun.lower().split()
    return "live" if last in LIVE_NOUNS and _LIFELESS.isdisjoint(before) else "object"


def _from_memory(image: Image.Image | torch.Tensor, which: str) -> Image.Image:
    """A PIL image, or a (3, H, W) tensor in [0, 1], as read photos are. Raises UserError."""
    import torch

    if isinstance(image, torch.Tensor):
        if image.ndim != 3 or image.shape[0] != 3 or not image.numel():
            raise UserError(f"{which}: a tensor must be (3, H, W), not {tuple(image.shape)}")
        values = image.detach().cpu().double()
        if not image.is_floating_point() or not ((values >= 0) & (values <= 1)).all():
            raise UserError(f"{which}: a tensor must hold floats from 0 to 1; divide by 255")
        pixels = (values * 255 + 0.5).to(torch.uint8).permute(1, 2, 0).contiguous()
        image = Image.fromarray(pixels.numpy())
    elif not isinstance(image, Image.Image):
        raise UserError(f"{which}: neither a PIL image nor a tensor, but {type(image).__name__}")
    if min(image.size) < MIN_SIDE:
        raise UserError(f"{which}: smaller than {MIN_SIDE} pixels; give a larger one")
    try:
        return prepare(image, [])
    except Exception as error:  # one opened from a damaged file, which raises nearly anything
        raise UserError(f"{which}: cannot be read ({error}); give another") from None


def _inspect(
    folder: str | os.PathLike[str], small_below: int
) -> Iterator[tuple[PhotoCheck, Photo | None]]:
    """Each photo's check with the photo (None if not used), one at a time."""
    seen: dict[bytes, Path] = {}
    kept: list[tuple[Path, np.ndarray]] = []  # with their signatures
    for path in _photo_paths(folder):
        if path.suffix.lower() not in FORMATS_BY_ENDING:
            known = path.suffix.lower() in _NOT_READ
            remedy = "export it as JPEG" if known else f"rename it, it is {_sniffed(path)}"
            yield PhotoCheck(path, "ignored", None, f"not used: {remedy}"), None
            continue
        photo = preview = None
        try:
            photo = read_photo(path)
            preview = photo.image.copy()
            preview.thumbnail((_PREVIEW, _PREVIEW), Image.Resampling.LANCZOS)
            if min(photo.size) < MIN_SIDE:
                raise RejectedPhoto(
                    f"smaller than {MIN_SIDE} pixels; replace it by the original photo"
                )
            twin = seen.setdefault(pixel_hash(photo.image), path)
            if twin != path:
                name = printable(twin.name)
                raise RejectedPhoto(f"the same picture as {name}; remove one of the two")
        except RejectedPhoto as reason:
            size = photo.size if photo else None
            yield PhotoCheck(path, "rejected", size, str(reason), preview), None
            continue
        notes = list(photo.notes)
        if min(photo.size) < small_below:
            notes.append(f"small: under {small_below} pixels; a larger original is better")
        if max(photo.size) > 2 * min(photo.size):
            notes.append("elongated: only the centre square is used; crop it around the subject")
        remark, coarse = remark_on(photo.image), signature(photo.image)
        near = next((other for other, its in kept if nearly_same(coarse, its)), None)
        if near and not remark:
            remark = f"nearly the same as {printable(near.name)}; one of the two is enough"
        kept.append((path, coarse))
        if remark:
            notes.append(remark)
        status: Literal["ok", "warning"] = "warning" if notes else "ok"
        yield PhotoCheck(path, status, photo.size, "; ".join(notes), preview), photo


def _absolute(folder: str | os.PathLike[str]) -> Path:
    return Path(expanduser(folder)).resolve()


def _photo_paths(folder: str | os.PathLike[str]) -> list[Path]:
    """The files to judge, in natural order: photos, and pictures that are not read."""
    where = printable(folder)
    if not os.fspath(folder):
        raise UserError("the photos' folder is empty; name the folder that holds the photos")
    folder = Path(expanduser(folder))
    try:
        if not folder.exists():
            raise UserError(f"{where}: no such folder; name the folder that holds the photos")
        if not folder.is_dir():
            raise UserError(f"{where}: not a folder; name the folder that holds the photos")
        entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
        # a broken link or a pipe is reported, not passed over
        entries = sorted((path for path in entries if not path.is_dir()), key=_natural)
        photos = [path for path in entries if path.suffix.lower() in FORMATS_BY_ENDING]
        names = {path.stem.casefold() for path in photos}
        not_read = [  # less the doubles: cameras write IMG_1.dng beside IMG_1.jpg
            path
            for path in entries
            if path.suffix.lower() not in FORMATS_BY_ENDING
            and path.is_file()
            and path.stem.casefold() not in names
            and (path.suffix.lower() in _NOT_READ or _sniffed(path))
        ]
    except PermissionError:
        raise UserError(f"{where}: cannot be read; allow reading it") from None
    except OSError as error:  # a name that is too long, a drive that is gone
        raise UserError(
            f"{where}: cannot be opened ({error.strerror}); name the folder that holds the photos"
        ) from None
    if not photos and not_read:
        raise UserError(f"{where}: no photos that can be read; {_export(not_read)}")
    if not photos:
        raise UserError(f"{where}: no photos in it; looked for {', '.join(FORMATS_BY_ENDING)}")
    return sorted(photos + not_read, key=_natural)


def _sniffed(path: Path) -> str:
    """The format of a picture whose name has no ending of one; empty for anything else."""
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError:
        return ""
    return next((name for start, name in _SIGNATURES.items() if head.startswith(start)), "")


_SIGNATURES = {b"\xff\xd8\xff": "a JPEG", b"\x89PNG\r\n\x1a\n": "a PNG"}


def _export(paths: list[Path]) -> str:
    """The remedy for pictures in formats that are not read."""
    more = f" (and {len(paths) - 1} more)" if len(paths) > 1 else ""
    return f"export {printable(paths[0].name)}{more} as JPEG"


def _natural(path: Path) -> tuple[list[str | int], str]:
    """Sorts "2.jpg" before "10.jpg"; the name itself decides between "1.jpg" and "01.jpg"."""
    # Splitting by a group gives text and digits in turn, so like is always compared with like.
    parts = re.split(r"(\d+)", path.name.casefold())
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], path.name


def pixel_hash(image: Image.Image) -> bytes:
    """SHA-256 of size and pixels, strip by strip: the bytes in one piece would double a photo."""
    digest = hashlib.sha256(repr(image.size).encode())
    rows = max(_STRIP_PIXELS // image.width, 1)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        digest.update(strip.tobytes())
    return digest.digest()


_STRIP_PIXELS = 2**20
