"""The subject: a folder of photos, checked at the door, upright, in RGB, and in a stable order."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from os import PathLike
from os.path import expanduser  # unlike Path's, it leaves an unknown ~user as it is
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from rpo.errors import UserError

Kind = Literal["live", "object"]

MIN_PHOTOS = 2
MIN_SIDE = 32  # pixels; below it there is nothing to learn from
MAX_PIXELS = 150_000_000  # beyond any phone's full resolution; guards against decompression bombs
KEPT_SIDE = 2048  # pixels of the short side that stay in memory; no model here reads more

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
    """

    path: Path
    status: Literal["ok", "warning", "rejected", "ignored"]
    size: tuple[int, int] | None
    message: str


def check_folder(folder: str | PathLike[str], small_below: int = 256) -> list[PhotoCheck]:
    """Judge every photo in `folder`, in natural order of the names ("2.jpg" before "10.jpg").

    Hidden files, folders and what is no photo (videos, sidecars, texts) are passed over. A short
    side under `small_below` pixels is a warning, a picture in a format that is not read (RAW, PSD)
    an ignored check, unless a readable one of the same name lies beside it. A bad photo is a
    rejected check, never an exception; UserError is for a folder that is missing, not a folder,
    or without photos that can be read.
    """
    return [check for check, _ in _inspect(Path(expanduser(folder)), small_below)]


@dataclass(frozen=True)
class Subject:
    """What is learned: its class noun and its photos (RGB, upright), by name order.

    Photos whose short side is over `KEPT_SIDE` pixels are kept reduced to it: the job holds them
    all its life, and a phone's full resolution is 150 MB a photo.
    """

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
        fewer than 2 photos. Pictures in formats that are not read do not count.
        """
        noun = " ".join(noun.split())
        if not noun:
            raise UserError("noun is empty; name what the photos show, such as dog")
        if kind not in ("auto", "live", "object"):
            raise UserError(f"subject_kind must be auto, live or object, not {kind!r}")
        if kind == "auto":
            kind = _kind_of(noun)

        folder = Path(expanduser(folder))
        photos: list[tuple[Path, Image.Image]] = []
        rejected, ignored = [], []
        for check, image in _inspect(folder):
            if image is not None:
                photos.append((check.path, _reduced(image)))
            elif check.status == "rejected":
                rejected.append(check)
            else:
                ignored.append(check.path)
            del image  # in full size; free it before the next photo is read
        if rejected:
            more = f" (and {len(rejected) - 1} more rejected)" if len(rejected) > 1 else ""
            raise UserError(f"{rejected[0].path}: {rejected[0].message}{more}")
        if len(photos) < MIN_PHOTOS:
            remedy = _export(ignored) if ignored else "add more"
            raise UserError(f"{folder}: only {len(photos)} photo; {remedy}, best are 4 to 6")
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


class RejectedPhoto(Exception):
    """Why a photo cannot be used, and what to do, in the user's words."""


def _inspect(
    folder: Path, small_below: int = 256
) -> Iterator[tuple[PhotoCheck, Image.Image | None]]:
    """Each photo's check with its picture in full size (None if not used), one at a time."""
    seen: dict[bytes, str] = {}
    for path in _photo_paths(folder):
        image: Image.Image | None = None
        if path.suffix.lower() in _NOT_READ:
            yield PhotoCheck(path, "ignored", None, "not used: export it as JPEG"), None
            continue
        notes: list[str] = []
        try:
            image, notes = read_photo(path)
            if min(image.size) < MIN_SIDE:
                raise RejectedPhoto(
                    f"smaller than {MIN_SIDE} pixels; replace it by the original photo"
                )
            twin = seen.setdefault(_digest(image), path.name)
            if twin != path.name:
                raise RejectedPhoto(f"the same picture as {twin}; remove one of the two")
        except RejectedPhoto as reason:
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
    entries = sorted((path for path in entries if not path.name.startswith(".")), key=_natural)
    photos = [
        path
        for path in entries
        if path.suffix.lower() in _FORMATS_BY_ENDING
        and (path.is_file() or not path.exists())  # a broken link is reported, not passed over
    ]
    names = {path.stem.casefold() for path in photos}
    not_read = [  # less the doubles: cameras write IMG_1.dng beside IMG_1.jpg
        path
        for path in entries
        if path.suffix.lower() in _NOT_READ and path.is_file() and path.stem.casefold() not in names
    ]
    if not photos and not_read:
        raise UserError(f"{folder}: no photos that can be read; {_export(not_read)}")
    if not photos:
        raise UserError(f"{folder}: no photos in it; looked for {', '.join(_FORMATS_BY_ENDING)}")
    return sorted(photos + not_read, key=_natural)


def _export(paths: list[Path]) -> str:
    """The remedy for pictures in formats that are not read."""
    more = f" (and {len(paths) - 1} more)" if len(paths) > 1 else ""
    return f"export {paths[0].name}{more} as JPEG"


def _natural(path: Path) -> tuple[list[str | int], str]:
    """Sorts "2.jpg" before "10.jpg"; the name itself decides between "1.jpg" and "01.jpg"."""
    # Splitting by a group gives text and digits in turn, so like is always compared with like.
    parts = re.split(r"(\d+)", path.name.casefold())
    return [int(part) if index % 2 else part for index, part in enumerate(parts)], path.name


def _digest(image: Image.Image) -> bytes:
    """SHA-256 of size and pixels, strip by strip: the bytes in one piece would double a photo."""
    digest = hashlib.sha256(repr(image.size).encode())
    rows = max(_STRIP_PIXELS // image.width, 1)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        digest.update(strip.tobytes())
    return digest.digest()


_STRIP_PIXELS = 2**20


def _reduced(image: Image.Image) -> Image.Image:
    """The picture itself, or with its short side reduced to KEPT_SIDE by Lanczos."""
    scale = KEPT_SIDE / min(image.size)
    if scale >= 1:
        return image
    size = round(image.width * scale), round(image.height * scale)
    return image.resize(size, Image.Resampling.LANCZOS)


def read_photo(path: Path) -> tuple[Image.Image, list[str]]:
    """The photo at `path`, upright and in RGB, with notes for the user. Raises RejectedPhoto."""
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
        raise RejectedPhoto(f"over {MAX_PIXELS // 10**6} megapixels; reduce its size") from None
    except UnidentifiedImageError:
        raise RejectedPhoto(_why_unidentified(path)) from None
    except FileNotFoundError:
        raise RejectedPhoto("a link to a file that is gone; remove it") from None
    except PermissionError:
        raise RejectedPhoto("cannot be read; allow reading it") from None
    except Exception as error:  # a damaged file makes decoders raise nearly anything
        if "truncated" in str(error):
            raise RejectedPhoto("damaged, its end is missing; copy it again") from None
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RejectedPhoto(f"damaged ({reason}); copy it again or export it as JPEG") from None


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
    image = _to_srgb(image)
    if image.mode != "RGB":  # to convert it regardless would be one more copy of every photo
        image = image.convert("RGB")
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
