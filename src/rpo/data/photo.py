"""One photo's file to pixels: checked, upright, in 8-bit sRGB, of a size that stays in memory."""

from __future__ import annotations

import hashlib
import os
import stat
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from rpo.data.colour import Encoding, to_srgb
from rpo.data.damage import Scan, png_damage, tiff_damage, unlike_thumbnail

MAX_PIXELS = 150_000_000  # beyond any phone's full resolution; guards against decompression bombs
MAX_BYTES = 1 << 30  # of a file: 150 megapixels of 16-bit colours, uncompressed, are 0.9 GB
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
FORMATS_BY_ENDING = {ending: name for name, endings in _ENDINGS.items() for ending in endings}


class RejectedPhoto(Exception):
    """Why a photo cannot be used, and what to do, in the user's words."""


@dataclass(frozen=True)
class Photo:
    """A photo that was read.

    image: RGB and upright, its short side reduced to KEPT_SIDE where it was longer.
    size: (width, height) in pixels, upright, of the file. notes: what the user should know.
    sha256: of the bytes that were read, in hexadecimal.
    """

    image: Image.Image
    size: tuple[int, int]
    notes: tuple[str, ...]
    sha256: str


def read_photo(path: Path, read: Callable[[], bytes] | None = None) -> Photo:
    """The photo at `path`. Its file is read once, whole. Raises RejectedPhoto.

    read: gives its bytes where it is no file on disk.
    """
    notes: list[str] = []
    try:
        data = read() if read else read_file(path)
        with warnings.catch_warnings():
            # What Pillow warns of (large pictures, odd metadata) is judged here, in our words.
            warnings.simplefilter("ignore")
            image, size = _decode(data, path.suffix, notes)
    except RejectedPhoto:
        raise
    except Image.DecompressionBombError:
        raise RejectedPhoto(f"over {MAX_PIXELS // 10**6} megapixels; reduce its size") from None
    except UnidentifiedImageError:
        raise RejectedPhoto(_why_unidentified(data)) from None
    except FileNotFoundError:
        raise RejectedPhoto("a link to a file that is gone; remove it") from None
    except PermissionError:
        raise RejectedPhoto("cannot be read; allow reading it") from None
    except Exception as error:  # a damaged file makes decoders raise nearly anything
        if isinstance(error, OSError) and error.errno:  # the system's, not a decoder's
            raise RejectedPhoto(f"cannot be read ({error.strerror}); remove it") from None
        if "truncated" in str(error):
            raise RejectedPhoto("damaged, its end is missing; copy it again") from None
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RejectedPhoto(f"damaged ({reason}); copy it again or export it as JPEG") from None
    return Photo(image, size, tuple(notes), hashlib.sha256(data).hexdigest())


def prepare(image: Image.Image, notes: list[str]) -> Image.Image:
    """A picture in memory, of any mode, as those of photos are: RGB, upright, reduced."""
    return _reduced(to_srgb(_upright(image, notes), Encoding.of(image), notes))


def read_file(path: Path) -> bytes:
    """A plain file's bytes. Raises OSError, and RejectedPhoto for a pipe and the like."""
    # without O_NONBLOCK, opening a pipe waits for its writer
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags), "rb", closefd=True) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise RejectedPhoto("no file, whatever its name says; remove it")
        if status.st_size > MAX_BYTES:
            raise RejectedPhoto("over 1 GB; export it as JPEG")
        return file.read(MAX_BYTES)


def _decode(data: bytes, ending: str, notes: list[str]) -> tuple[Image.Image, tuple[int, int]]:
    """The picture of `Photo`, and the file's size upright."""
    stream = Scan(data) if data.startswith(b"\xff\xd8") else BytesIO(data)
    with Image.open(stream, formats=_readable_formats()) as photo:
        if photo.width * photo.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        found = "JPEG" if photo.format == "MPO" else photo.format  # MPO: a phone's JPEG
        if found != FORMATS_BY_ENDING[ending.lower()]:
            notes.append(f"named {ending} but really {found}; better rename it")
        if getattr(photo, "is_animated", False) and photo.format != "MPO":
            notes.append("several frames; only the first is used")
        encoding = Encoding.of(photo, data)
        width, height = photo.size
        scale = KEPT_SIDE / min(width, height)
        photo.draft(None, (round(width * scale), round(height * scale)))  # a JPEG at 1/2, 1/4, 1/8
        photo.load()
        damage = png_damage(data) if photo.format == "PNG" else tiff_damage(photo, data)
        if damage:
            raise ValueError(damage)
        if isinstance(stream, Scan):
            if stream.damaged:
                notes.append("its data are damaged; look at it, and copy it again if it is wrong")
            elif unlike_thumbnail(photo):
                notes.append("unlike its own thumbnail: damaged, or edited since; look at it")
        if photo.format == "TIFF":  # turned by Pillow as it is loaded
            width, height = photo.size
        stored = _coarsely_reduced(photo)
        image = _upright(stored, notes)
        turned = image.size != stored.size
        size = (height, width) if turned else (width, height)
        return _reduced(to_srgb(image, encoding, notes)), size


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


def _why_unidentified(data: bytes) -> str:
    if not data:
        return "empty; copy it again"
    if data[4:8] == b"ftyp" and "HEIF" not in _readable_formats():
        return "HEIC needs `pip install pillow-heif`; install it or export the photo as JPEG"
    if data[4:8] == b"ftyp" or data.startswith((b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"II*\0")):
        return "damaged or of a kind that is not read; copy it again or export it as JPEG"
    return "not a picture, whatever its name says; remove it or export it as JPEG"


def _upright(photo: Image.Image, notes: list[str]) -> Image.Image:
    try:
        return ImageOps.exif_transpose(photo)
    except Exception:  # broken EXIF raises nearly anything; the picture itself is fine
        notes.append("its EXIF data are damaged; see that it stands upright")
        return photo.copy()


def _coarsely_reduced(photo: Image.Image) -> Image.Image:
    """By a whole factor, where the short side stays KEPT_SIDE at least: fast, and frees memory."""
    factor = min(photo.size) // KEPT_SIDE
    if factor < 2 or photo.mode not in ("L", "RGB", "LA", "RGBA", "CMYK"):
        return photo
    return photo.reduce(factor)


def _reduced(image: Image.Image) -> Image.Image:
    """The picture itself, or with its short side reduced to KEPT_SIDE by Lanczos."""
    scale = KEPT_SIDE / min(image.size)
    if scale >= 1:
        return image
    size = round(image.width * scale), round(image.height * scale)
    return image.resize(size, Image.Resampling.LANCZOS)


_STRIP_PIXELS = 2**20


def pixel_hash(image: Image.Image) -> bytes:
    """SHA-256 of size and pixels, strip by strip: the bytes in one piece would double a photo."""
    digest = hashlib.sha256(repr(image.size).encode())
    rows = max(_STRIP_PIXELS // image.width, 1)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        digest.update(strip.tobytes())
    return digest.digest()
