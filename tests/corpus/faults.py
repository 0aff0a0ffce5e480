"""Photos with something wrong: damaged files, and pictures that teach little."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import Any

from PIL import Image, ImageEnhance, ImageFilter

from .case import COLOURS, HEIGHT, WIDTH, Case, both, encoded, noise, saved, scene, written
from .files import chunk


def damage() -> Iterator[Case]:
    group = "damage"
    noisy = {form: encoded(form, noise(), **o) for form, o in _CUT.items()}
    endings = {"JPEG": "jpg", "HEIF": "heic", "TIFF": "tif"}
    for form, data in noisy.items():
        ending = endings.get(form, form.lower())
        for name, length in {
            "in half": len(data) // 2,
            "near its end": len(data) * 19 // 20,
        }.items():
            make = written(f"a.{ending}", data[:length])
            says = "damaged … copy it again"
            yield Case(group, f"{form} cut off", make, "rejected", says, None, None, variant=name)
        make = written(f"a.{ending}", data[:24])
        yield Case(
            group, f"{form} cut off", make, "rejected", "", None, None, variant="to its head"
        )
    no_picture = "not a picture, whatever its name says; remove it"
    for name, data in {
        "nothing": (b"", "empty; copy it again"),
        "zeros": (bytes(5000), no_picture),
        "a text": (b"just words", no_picture),
        "a web page": (
            b"<html>not found</html>",
            no_picture,
        ),
        "a PDF": (
            b"%PDF-1.7\n%\xe2\xe3\xcf\xd3",
            no_picture,
        ),
        "a drawing": (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            no_picture,
        ),
        "a zip": (b"PK\x03\x04" + bytes(100), no_picture),
        "a pickle": (
            b"\x80\x04\x95" + bytes(100),
            no_picture,
        ),
    }.items():
        make = written("a.jpg", data[0])
        yield Case(group, f"{name} named .jpg", make, "rejected", data[1], None, None)
    jpeg = noisy["JPEG"]
    restarting = encoded("JPEG", noise(), quality=90, restart_marker_rows=1)
    start = jpeg.index(b"\xff\xda") + 200
    says = "its data are damaged; look at it, and copy it again if it is wrong"
    for name, data in {
        "a sector of zeros": jpeg[:start] + bytes(512) + jpeg[start + 512 :],
        "a sector of zeros between restarts": restarting[:start]
        + bytes(512)
        + restarting[start + 512 :],
        "a sector lost": jpeg[:start] + jpeg[start + 512 :],
        "bytes before its end": jpeg[:-2] + b"\x55" * 64 + jpeg[-2:],
    }.items():
        make = written("a.jpg", data)
        yield Case(group, "JPEG damaged within", make, "warning", says, None, None, variant=name)
    other = BytesIO()
    scene(COLOURS[::-1]).resize((48, 36)).save(other, "JPEG")
    for name, thumbnail, status in (
        ("another", other.getvalue(), "warning"),
        ("its own", encoded("JPEG", scene().resize((48, 36))), "ok"),
        ("a broken one", b"\xff\xd8broken", "ok"),
    ):
        make = saved("a.jpg", exif=exif_with_thumbnail(thumbnail), quality=95)
        says = (
            "unlike its own thumbnail: damaged, or edited since; look at it"
            if status == "warning"
            else ""
        )
        yield Case(group, f"JPEG with {name} as its thumbnail", make, status, says)
    png = noisy["PNG"]
    flipped = bytearray(png)
    flipped[len(png) // 2] ^= 0xFF
    deflated = encoded("TIFF", noise(), compression="tiff_adobe_deflate")
    spoilt = deflated[:9000] + bytes(64) + deflated[9064:]
    says = "damaged … copy it again"
    name = "deflated TIFF with zeros in it"
    yield Case(group, name, written("a.tif", spoilt), "rejected", says, None, None)
    for name, data in {"a flipped byte": bytes(flipped), "a foreign size": _sized(png)}.items():
        make = written("a.png", data)
        yield Case(
            group, f"PNG with {name}", make, "rejected", "damaged … copy it again", None, None
        )


def spoilt_within() -> Iterator[Case]:
    """512 bytes of a compressed picture gone, or overwritten: a sector of a disk."""
    group = "damage that only the decoder can tell"
    for form, (ending, options) in _SPOILT.items():
        data = encoded(form.split()[-1], noise(), **options)
        at = len(data) // 2
        if "progressive" not in options:
            make = written(f"a.{ending}", data[:at] + data[at + 512 :])
            name, says = f"{form}, a sector lost", "damaged … copy it again"
            yield Case(group, name, make, "rejected", says, None, None)
        flipped = data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]
        zeros = data[:at] + bytes(512) + data[at + 512 :]
        for variant, spoilt in (("flipped", flipped), ("zeros", zeros)):
            make, name = written(f"a.{ending}", spoilt), f"{form}, bytes changed"
            yield Case(group, name, make, "unseen", "", None, (96, 96), variant=variant)


# By "kind FORMAT": the ending, and how it is saved.
_SPOILT: dict[str, tuple[str, dict[str, Any]]] = {
    "progressive JPEG": ("jpg", {"quality": 90, "progressive": True}),
    "WEBP": ("webp", {"quality": 90}),
    "HEIF": ("heic", {"quality": 90}),
    "AVIF": ("avif", {"quality": 90}),
    "BMP": ("bmp", {}),
    "uncompressed TIFF": ("tif", {}),
}


_CUT: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 90},
    "PNG": {},
    "WEBP": {"lossless": True},
    "HEIF": {"quality": 90},
    "AVIF": {"quality": 90},
    "TIFF": {},
    "BMP": {},
    "GIF": {},
}


def _sized(png: bytes) -> bytes:
    """A PNG whose header says four times as many rows as there are."""
    width, height = struct.unpack(">II", png[16:24])
    return png[:8] + chunk(b"IHDR", struct.pack(">II", width, height * 4) + png[24:29]) + png[33:]


def exif_with_thumbnail(thumbnail: bytes) -> bytes:
    """IFD0, empty, and IFD1 with a thumbnail at byte 8 + 6 + 30."""
    entries = struct.pack("<HHII", 0x0201, 4, 1, 44) + struct.pack(
        "<HHII", 0x0202, 4, 1, len(thumbnail)
    )
    directory = struct.pack("<H", 2) + entries + bytes(4)
    return b"Exif\0\0II*\0" + struct.pack("<IHI", 8, 0, 14) + directory + thumbnail


def contents() -> Iterator[Case]:
    group = "content"
    for name, colour in {
        "black": (0,) * 3,
        "white": (255,) * 3,
        "one colour": (90, 160, 30),
    }.items():
        make = saved("a.png", Image.new("RGB", (WIDTH, HEIGHT), colour))
        says = "one flat colour, nothing to learn from; remove it"
        yield Case(group, "all of one colour", make, "warning", says, (colour,) * 4, variant=name)
    dark = ImageEnhance.Brightness(scene()).enhance(0.1)
    yield Case(
        group,
        "very dark",
        saved("a.png", dark),
        "warning",
        "very dark; brighten it or take another",
        None,
    )
    bright = Image.blend(scene(), Image.new("RGB", (WIDTH, HEIGHT), "white"), 0.95)
    yield Case(
        group,
        "very bright",
        saved("a.png", bright),
        "warning",
        "very bright; darken it or take another",
        None,
    )
    large = scene(width=512, height=384)
    large.paste(noise(side=96), (40, 40))
    for radius in (4, 8):
        make = saved("a.png", large.filter(ImageFilter.GaussianBlur(radius)))
        says = "blurred; take a sharp one, for the blur is learned too"
        yield Case(group, "blurred", make, "warning", says, None, (512, 384), variant=str(radius))
    yield Case(group, "sharp", saved("a.png", large), colours=None, size=(512, 384))
    says = "the same picture as a.png; remove one of the two"
    for ending in ("bmp", "tif", "webp"):
        make = both(
            saved("a.png"), saved(f"b.{ending}", **({"lossless": True} if ending == "webp" else {}))
        )
        name = "the same picture twice, whatever the format"
        yield Case(group, name, make, "rejected", says, variant=ending, file="b")
    says = "nearly the same as a.png; one of the two is enough"
    for name, second in {
        "saved anew": saved("b.jpg", quality=60),
        "reduced": saved("b.png", scene().resize((60, 45))),
        "brightened": saved("b.png", ImageEnhance.Brightness(scene()).enhance(1.01)),
    }.items():
        size = (60, 45) if name == "reduced" else (WIDTH, HEIGHT)
        make = both(saved("a.png"), second)
        yield Case(
            group,
            "nearly the same picture",
            make,
            "warning",
            says,
            size=size,
            file="b",
            variant=name,
        )
    make = both(saved("a.png"), saved("b.png", scene(COLOURS[::-1])))
    yield Case(group, "another picture of the same colours", make, colours=COLOURS[::-1], file="b")
    says = "smaller than 32 pixels; replace it by the original photo"
    for width, height in ((1, 1), (31, 400), (16, 16)):
        make = saved("a.png", scene(width=width, height=height))
        size = (width, height)
        yield Case(
            group, "too small", make, "rejected", says, None, size, variant=f"{width} x {height}"
        )
    for width, height in ((400, 40), (40, 400)):
        make = saved("a.png", scene(width=width, height=height))
        size, variant = (width, height), f"{width} x {height}"
        says = "elongated: only the centre square is used; crop it around the subject"
        yield Case(group, "elongated", make, "warning", says, None, size, variant=variant)
    bomb = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    bomb = (
        b"\x89PNG\r\n\x1a\n" + bomb + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )
    says = "over 150 megapixels; reduce its size"
    yield Case(
        group, "3600 megapixels in 90 bytes", written("a.png", bomb), "rejected", says, None, None
    )
