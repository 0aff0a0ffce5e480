"""Transparency, depths and colour spaces: what becomes of them in sRGB."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from photo_files import RED, WHITE, assert_quarters, flat, only, quarters, read
from PIL import Image, ImageCms

pytestmark = pytest.mark.usefixtures("no_remarks_on_content")


def with_alpha(mode: str) -> Image.Image:
    """Left half opaque red (or black), right half transparent."""
    image = flat(RED).convert("RGBA")
    image.paste((0, 0, 255, 0), (150, 0, 300, 300))
    if mode == "P":
        palette = Image.new("P", (300, 300), 0)
        palette.putpalette([255, 0, 0, 0, 0, 255])
        palette.paste(1, (150, 0, 300, 300))
        palette.info["transparency"] = 1
        return palette
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA"])
def test_transparency_becomes_white_with_a_warning(folder: Path, mode: str) -> None:
    with_alpha(mode).save(folder / "a.png")
    check = only(folder)
    assert check.status == "warning"
    assert check.message.startswith("transparent")
    image = read(folder)
    # Rec. 601 luma of pure red: 0.299 * 255 = 76.2
    assert image.getpixel((75, 150)) == ((76, 76, 76) if mode == "LA" else RED)
    assert image.getpixel((225, 150)) == WHITE


def test_half_transparent_is_blended(folder: Path) -> None:
    Image.new("RGBA", (300, 300), (0, 0, 0, 51)).save(folder / "a.png")
    assert read(folder).getpixel((9, 9)) == (204, 204, 204)  # 255 * (1 - 51/255)


def test_an_opaque_alpha_channel_is_no_transparency(folder: Path) -> None:
    quarters().convert("RGBA").save(folder / "a.png")
    assert only(folder).status == "ok"
    assert_quarters(read(folder))


def test_cmyk(folder: Path) -> None:
    quarters().convert("CMYK").save(folder / "a.jpg", quality=95)
    assert only(folder).status == "ok"
    assert_quarters(read(folder), tolerance=6)


@pytest.mark.parametrize("mode", ["P", "L", "1"])
def test_palette_grey_and_bilevel(folder: Path, mode: str) -> None:
    photo = quarters() if mode == "P" else flat(WHITE)
    photo.convert(mode).save(folder / "a.png")
    assert only(folder).status == "ok"
    image = read(folder)
    assert_quarters(image) if mode == "P" else np.testing.assert_array_equal(image, 255)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bit_grey_is_scaled_not_clipped(folder: Path, ending: str) -> None:
    levels = np.repeat(np.array([[0, 257, 128 * 257, 65535]], np.uint16), 75, axis=1)
    Image.fromarray(np.repeat(levels, 300, axis=0)).save(folder / f"a.{ending}")
    assert only(folder).status == "ok"
    image = read(folder)
    assert image.mode == "RGB"
    middles = [image.getpixel((x, 150)) for x in (37, 112, 187, 262)]
    assert middles == [(0, 0, 0), (1, 1, 1), (128, 128, 128), (255, 255, 255)]


def test_16_bit_colour(folder: Path) -> None:
    """Pillow cannot write such a PNG, so it is put together here: one row filter byte, 6 a pixel"""
    row = b"\0" + struct.pack(">HHH", 0xFFFF, 0x8080, 0) * 300

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 300, 300, 16, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(row * 300)), chunk(b"IEND", b""))
    (folder / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    assert read(folder).getpixel((5, 5)) == (255, 128, 0)


def test_floating_point_is_stretched_with_a_warning(folder: Path) -> None:
    values = np.linspace(-2, 3, 300, dtype=np.float32)[None].repeat(300, axis=0)
    Image.fromarray(values).save(folder / "a.tif")
    check = only(folder)
    assert check.status == "warning"
    assert "stretched" in check.message
    image = read(folder)
    assert image.getpixel((0, 0)) == (0, 0, 0)
    assert image.getpixel((299, 0)) == WHITE


def test_colours_are_converted_to_srgb_and_metadata_dropped(folder: Path) -> None:
    profile = rgb_profile_with_swapped_primaries()
    photo = quarters()
    photo.save(folder / "a.png", icc_profile=profile, exif=Image.Exif())
    image = read(folder)
    assert image.info == {}
    assert image.getpixel((225, 75))[0] > 200  # green in the profile's terms is red
    assert image.getpixel((225, 75))[1] < 60
    (folder / "a.png").unlink()
    # Transparent photos have profiles too.
    photo.convert("RGBA").save(folder / "a.png", icc_profile=profile)
    assert read(folder).getpixel((225, 75)) == image.getpixel((225, 75))
    # A profile that is not of RGB, or is broken, is passed over.
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    photo.save(folder / "a.png", icc_profile=lab)
    assert_quarters(read(folder))
    photo.save(folder / "a.png", icc_profile=b"broken")
    assert_quarters(read(folder))


def rgb_profile_with_swapped_primaries() -> bytes:
    """Pillow's sRGB profile with the tags of its red and green primaries exchanged."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = data.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")
    return swapped.replace("sRGB".encode("utf-16-be"), "test".encode("utf-16-be"))
