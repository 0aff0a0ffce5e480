"""Colours: from whatever a file holds to 8-bit sRGB on white.

A colour profile is judged by what it does and not by its name. Where a file only hints at other
colours than sRGB, which Pillow does not convert, the user is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageChops, ImageCms

_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}  # a profile's colour space by Pillow's mode
_SAME = 2  # of 255: a profile that moves no colour further is sRGB's, in somebody's rounding
_COARSE = 6  # of 255: where level 1 becomes this or more, 8 bits are few for dark tones
_PHOTOMETRIC, _BITS = 262, 258  # tags of TIFF
# Code points of ITU-T H.273 that are sRGB's, or so near that no screen distinguishes them.
_PRIMARIES, _TRANSFERS = (1, 2, 5, 6, 7), (1, 2, 4, 6, 13, 14, 15)
_EXPORT = "export it as an sRGB JPEG"
_TAKEN = f"its colours are taken as sRGB: {_EXPORT}"


@dataclass(frozen=True)
class Encoding:
    """How the file wrote its levels, as far as Pillow hands them on as they are.

    inverted: 0 is white (or full ink). bits: of a grey level in 16. deep: 16-bit colours, of which
    Pillow reads the upper 8. hint: the colour space that is meant without a profile of it.
    """

    inverted: bool = False
    bits: int = 16
    deep: bool = False
    hint: str = ""

    @classmethod
    def of(cls, photo: Image.Image, data: bytes = b"") -> Encoding:
        """That of a picture just opened, not yet loaded; `data`: its file's bytes."""
        tags = getattr(photo, "tag_v2", {})
        stored = tags.get(_BITS, (8,))
        bits = stored[0] if isinstance(stored, tuple) and stored else 8
        grey = photo.mode.startswith("I") or photo.mode == "F"
        white_is_zero = grey and tags.get(_PHOTOMETRIC) == 0
        # Adobe's programs write CMYK upside down and mark it; Pillow takes all for theirs.
        plain_cmyk = photo.format == "JPEG" and photo.mode == "CMYK" and "adobe" not in photo.info
        tile: Any = getattr(photo, "tile", None)
        deep = bits == 16 or (bool(tile) and ";16" in str(tile[0][3]))
        return cls(
            inverted=white_is_zero or plain_cmyk,
            bits=bits if grey and 8 < bits < 16 else 16,
            deep=deep and not grey,
            hint="" if photo.info.get("icc_profile") else _hint(photo, data),
        )


def to_srgb(image: Image.Image, encoding: Encoding, notes: list[str]) -> Image.Image:
    """`image` in RGB: 8-bit sRGB, what is transparent blended with white.

    Without profile and gamma the colours are taken as sRGB. What the user should know is appended
    to `notes`. Raises ValueError for a picture without a single number in it.
    """
    info: dict[Any, Any] = dict(image.info)
    alpha = None
    if image.mode.startswith("I") or image.mode == "F":
        image, alpha = _eight_bits(image, encoding, notes)
        info.pop("icc_profile", None)
        info.pop("gamma", None)
    elif image.has_transparency_data:
        grey = image.mode in ("1", "L", "LA", "La")
        image = image.convert("LA" if grey else "RGBA")
        alpha = image.getchannel("A")
        image = image.convert("L" if grey else "RGB")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode == "CMYK" and encoding.inverted:
        image = ImageChops.invert(image)
        notes.append("CMYK without Adobe's mark, taken as the standard has it; check its colours")
    elif image.mode not in (*_SPACES, "LAB"):
        image = image.convert("RGB")
    if encoding.hint:
        notes.append(f"{encoding.hint}; {_TAKEN}")
    image = _converted(image, info, notes)
    darkest = Image.new("RGB", (1, 1), (1, 1, 1))
    if encoding.deep and max(_converted(darkest, info, []).tobytes()) >= _COARSE:
        notes.append(f"its dark tones are coarse, read with 8 of 16 bits; {_EXPORT}")
    if alpha is not None and alpha.getextrema() != (255, 255):
        notes.append("transparent; its background becomes white")
        image.putalpha(alpha)
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
    image.info = {}  # no EXIF (places, names) and no stale profile in what is written later
    return image


def _converted(image: Image.Image, info: Mapping[Any, Any], notes: list[str]) -> Image.Image:
    """A picture of mode L, RGB, CMYK or LAB by its profile, or else its gamma, in sRGB."""
    profile = info.get("icc_profile")
    if image.mode == "LAB":
        return _by_profile(image, ImageCms.createProfile("LAB"))
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            space = source.profile.xcolor_space.strip()
            if image.mode == "L" and space == "RGB":  # programs that add a profile to everything
                image = image.convert("RGB")
            if space == _SPACES[image.mode]:
                return _by_profile(image, source)
            notes.append(f"its colour profile is one for {space}; {_TAKEN}")
        except (ImageCms.PyCMSError, ImportError, OSError, TypeError, ValueError):
            notes.append(f"its colour profile is damaged; {_TAKEN}")
    if image.mode != "RGB":
        image = image.convert("RGB")
    gamma = info.get("gamma")
    if not profile and "srgb" not in info and isinstance(gamma, float) and 0.1 < gamma < 10:
        levels = _encode((np.arange(256) / 255) ** (1 / gamma)) * 255 + 0.5
        if np.abs(levels - np.arange(256) - 0.5).max() > 8:  # 1/2.2, say, is sRGB to its writer
            return image.point([int(level) for level in levels] * 3)
    return image


def _by_profile(image: Image.Image, source: Any) -> Image.Image:
    target = ImageCms.createProfile("sRGB")
    transform = ImageCms.buildTransform(source, target, image.mode, "RGB")
    if image.mode == "RGB":
        steps = np.linspace(0, 255, 9).round().astype(np.uint8)
        probe = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
        found = np.asarray(ImageCms.applyTransform(Image.fromarray(probe), transform))
        if np.abs(found.astype(int) - probe).max() <= _SAME:
            return image
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # it is only for a transformation in place
    return converted


def _encode(linear: Any) -> Any:
    """sRGB's transfer function (IEC 61966-2-1), [0, 1] to [0, 1]."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _eight_bits(
    image: Image.Image, encoding: Encoding, notes: list[str]
) -> tuple[Image.Image, Image.Image | None]:
    """A grey picture of more than 8 bits as L in sRGB, and its opacity where it has one."""
    values = np.asarray(image)
    alpha = None
    if image.mode.startswith("I;16"):
        values = values.astype(np.uint16)
        key = image.info.get("transparency")
        if isinstance(key, int):
            alpha = Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8))
        bits, highest = encoding.bits, int(values.max())
        if bits == 16 and 0 < highest < 1 << 12:  # a scanner's or a sensor's, not shifted up
            bits = next(bits for bits in (8, 10, 12) if highest < 1 << bits)
            notes.append(f"fills {bits} of its 16 bits; brightened to match, so check it")
        levels = values / (((1 << bits) - 1) / 255)  # [0, 255]
    else:
        levels = _stretched(values, notes)
    if encoding.inverted:
        levels = 255 - levels
    if image.info.get("icc_profile") or "gamma" in image.info:
        ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
        curve = np.asarray(_converted(ramp, image.info, notes))[0, :, 1]
        levels = np.interp(levels, np.arange(256), curve)
    return Image.fromarray((levels + 0.5).astype(np.uint8)), alpha


def _stretched(values: Any, notes: list[str]) -> Any:
    """Levels in [0, 255]: the lowest number in the picture is black and the highest white."""
    values = values.astype(np.float64)
    numbers = values[np.isfinite(values)]
    if not numbers.size:
        raise ValueError("it holds no number")
    note = "no 8-bit picture; its range was stretched from black to white"
    if numbers.size < values.size:
        note += ", and what is no number became black"
    notes.append(note)
    low, high = numbers.min(), numbers.max()
    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    return (values - low) * (255 / max(high - low, 1e-12))


def _hint(photo: Image.Image, data: bytes) -> str:
    """The colour space that a file without a profile means, in words; empty for sRGB."""
    try:
        exif = photo.getexif()
        space, index = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.ColorSpace), None
        with suppress(KeyError):  # Pillow 12.3's, where there is none
            index = exif.get_ifd(ExifTags.IFD.Interop).get(1)  # InteropIndex
    except Exception:  # broken EXIF raises nearly anything
        space = index = None
    if space == 2 or str(index).startswith("R03"):
        return "Adobe RGB by its EXIF data, without the profile"
    points = _code_points(data)
    if points and (points[0] not in _PRIMARIES or points[1] not in _TRANSFERS):
        return "wide-gamut or HDR by its code points, without a profile"
    return ""


def _code_points(data: bytes) -> tuple[int, int] | None:
    """Primaries and transfer function (ITU-T H.273) of a HEIF, AVIF or PNG file that has them."""
    head = data[: 1 << 16]
    at = head.find(b"colrnclx")
    if at >= 0 and head[4:8] == b"ftyp":
        return int.from_bytes(head[at + 8 : at + 10], "big"), int.from_bytes(
            head[at + 10 : at + 12], "big"
        )
    at = head.find(b"cICP", 0, head.find(b"IDAT") + 1)
    if at >= 0 and head.startswith(b"\x89PNG") and len(head) > at + 5:
        return head[at + 4], head[at + 5]
    return None
