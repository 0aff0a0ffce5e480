"""damage.py: what its checks find in spoilt files, and that they find nothing in sound ones."""

from __future__ import annotations

import random
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from corpus.case import encoded, noise, scene
from corpus.faults import exif_with_thumbnail
from corpus.files import chunk, interlaced
from PIL import Image

from rpo.data.damage import Scan, png_damage, tiff_damage, unlike_thumbnail

DREAMBENCH = Path(__file__).resolve().parents[2] / "shared" / "dreambench"


def damaged(jpeg: bytes) -> bool:
    stream = Scan(jpeg)
    Image.open(stream).load()
    return stream.damaged


def photo(seed: int) -> Image.Image:
    """Shapes and grain, as photos have: neither flat nor pure noise."""
    grain = noise(seed, 150).resize((300, 300), Image.Resampling.BICUBIC)
    return Image.blend(scene(width=300, height=300), grain, 0.3)


@pytest.mark.parametrize(
    "options",
    [
        *({"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}),
        *({"optimize": True}, {"progressive": True}, {"restart_marker_blocks": 3}),
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_sound_jpegs_pass_and_are_decoded_alike(mode: str, options: dict[str, int]) -> None:
    for quality in (5, 75, 100):
        for side in (1, 8, 17, 131):
            image = photo(side).resize((side, side + 1)).convert(mode)
            jpeg = encoded("JPEG", image, quality=quality, **options)
            stream = Scan(jpeg)
            with Image.open(stream) as found:
                found.load()
                assert not stream.damaged
                np.testing.assert_array_equal(found, Image.open(BytesIO(jpeg)))


def test_flat_jpegs_pass() -> None:
    """Their last blocks are a few bits; what the decoder looks ahead is more than that."""
    for colour in ("black", "white", "#123456"):
        for side in (16, 250, 1500):
            image = Image.new("RGB", (side, side), colour)
            assert not damaged(encoded("JPEG", image))
            assert not damaged(encoded("JPEG", image, optimize=True))


def test_a_lost_sector_is_always_found() -> None:
    """512 bytes gone, anywhere in the scan, change how many blocks the data are enough for."""
    for seed in range(20):
        jpeg = encoded("JPEG", photo(seed), quality=90)
        at = random.Random(seed).randrange(jpeg.index(b"\xff\xda") + 20, len(jpeg) - 600)
        try:
            assert damaged(jpeg[:at] + jpeg[at + 512 :])
        except OSError:
            continue  # the decoder noticed by itself


@pytest.mark.parametrize("options", [{}, {"restart_marker_rows": 1}], ids=str)
def test_sectors_of_zeros_are_found(options: dict[str, int]) -> None:
    for seed in range(20):
        jpeg = encoded("JPEG", photo(seed), quality=90, **options)
        at = random.Random(seed).randrange(jpeg.index(b"\xff\xda") + 20, len(jpeg) - 600)
        assert damaged(jpeg[:at] + bytes(512) + jpeg[at + 512 :])


@pytest.mark.skipif(not DREAMBENCH.is_dir(), reason="the DreamBench photos are not here")
def test_no_real_photo_is_called_damaged() -> None:
    photos = sorted(DREAMBENCH.glob("*/*.jpg"))
    assert len(photos) > 100
    assert not [path for path in photos if damaged(path.read_bytes())]


def with_thumbnail(picture: Image.Image, thumbnail: Image.Image) -> Image.Image:
    exif = exif_with_thumbnail(encoded("JPEG", thumbnail))
    found = Image.open(BytesIO(encoded("JPEG", picture, exif=exif)))
    found.load()
    return found


def test_a_thumbnail_may_be_letterboxed_turned_and_toned() -> None:
    picture = scene(width=320, height=180)
    boxed = Image.new("RGB", (160, 120))
    boxed.paste(picture.resize((160, 90)), (0, 15))
    brighter = picture.resize((160, 90)).point(lambda level: min(level + 20, 255))
    upright = picture.resize((160, 90)).rotate(90, expand=True)
    for thumbnail in (boxed, brighter, upright):
        assert not unlike_thumbnail(with_thumbnail(picture, thumbnail))
    half_grey = picture.copy()
    half_grey.paste((128, 128, 128), (0, 60, 320, 180))
    assert unlike_thumbnail(with_thumbnail(half_grey, boxed))


def png_chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    at, found = 8, []
    while at < len(png):
        size = int.from_bytes(png[at : at + 4], "big")
        found.append((png[at + 4 : at + 8], png[at + 8 : at + 8 + size]))
        at += 12 + size
    return found


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_sound_pngs_pass(mode: str) -> None:
    for side in (1, 7, 8, 9, 64):
        picture = noise(side=side).convert("L" if mode == "I;16" else mode).convert(mode)
        assert png_damage(encoded("PNG", picture)) == ""
    for width, height in ((1, 1), (1, 5), (5, 3), (8, 8), (33, 20)):
        assert png_damage(interlaced(scene(width=width, height=height))) == ""


def test_spoilt_pngs_are_found() -> None:
    png = encoded("PNG", noise())
    pixels = next(data for kind, data in png_chunks(png) if kind == b"IDAT")
    at = png.index(pixels)
    for offset in (0, 5, len(pixels) // 2, len(pixels) - 1):
        spoilt = bytearray(png)
        spoilt[at + offset] ^= 1
        assert png_damage(bytes(spoilt)) == "checksum"
    raw = zlib.decompress(pixels)
    short = zlib.compress(raw[:-1])
    kinds = dict(png_chunks(png)) | {b"IDAT": short}
    shorter = png[:8] + b"".join(chunk(kind, data) for kind, data in kinds.items())
    assert png_damage(shorter) == "truncated"


def test_what_inflates_without_end_is_left_alone() -> None:
    png = encoded("PNG", Image.new("RGB", (4, 4)))
    bomb = chunk(b"IDAT", zlib.compress(bytes(50_000_000), 9))
    spoilt = png[:33] + bomb + chunk(b"IEND", b"")
    assert png_damage(spoilt) == ""  # too much is no loss; it is not counted to its end


@pytest.mark.parametrize("compression", ["tiff_adobe_deflate", "tiff_lzw", "raw"])
def test_sound_tiffs_pass(compression: str) -> None:
    data = encoded("TIFF", noise(), compression=compression)
    assert tiff_damage(Image.open(BytesIO(data)), data) == ""


def test_spoilt_deflated_tiffs_are_found() -> None:
    data = encoded("TIFF", noise(), compression="tiff_adobe_deflate")
    spoilt = data[:9000] + bytes(64) + data[9064:]
    assert tiff_damage(Image.open(BytesIO(data)), spoilt) == "checksum"
    assert tiff_damage(Image.open(BytesIO(data)), data[:9000]) == "truncated"
