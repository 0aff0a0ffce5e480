"""Photos whose numbers are not 8-bit sRGB: profiles, code points, depths."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageCms

from .case import (
    COLOURS,
    GREY_COLOURS,
    HEIGHT,
    WIDTH,
    Case,
    Make,
    encoded,
    grey,
    saved,
    scene,
    written,
)
from .files import chunk, grey_levels, png16, tiff, with_chunk
from .icc import (
    ADOBE_RGB,
    LINEAR_SRGB,
    PROFILES,
    SRGB,
    encode_srgb,
    grey_shown,
    lab,
    profile,
    shown,
)


def colours() -> Iterator[Case]:
    group = "colours"
    palette = scene().convert("P", palette=Image.Palette.ADAPTIVE)
    for name, (icc, expected) in PROFILES.items():
        for kind, make in {
            "JPEG": saved("a.jpg", quality=98, subsampling=0, icc_profile=icc),
            "PNG": saved("a.png", icc_profile=icc),
            "PNG palette": saved("a.png", palette, icc_profile=icc),
            "PNG alpha": saved("a.png", scene().convert("RGBA"), icc_profile=icc),
            "TIFF": saved("a.tif", icc_profile=icc),
            "TIFF palette": saved("a.tif", palette, icc_profile=icc),
            "WebP": saved("a.webp", lossless=True, icc_profile=icc),
        }.items():
            yield Case(group, f"profile {name}, any format", make, colours=expected, variant=kind)
    for gamma in (1.0, 1.8, 2.2):
        icc = profile(b"GRAY", SRGB, gamma, "sRGB grey")
        deep = png16(grey_levels(), chunk(b"iCCP", b"x\0\0" + zlib.compress(icc)))
        for kind, make in {
            "JPEG": saved("a.jpg", grey(), quality=98, icc_profile=icc),
            "PNG": saved("a.png", grey(), icc_profile=icc),
            "PNG alpha": saved("a.png", grey().convert("LA"), icc_profile=icc),
            "PNG 16 bit": written("a.png", deep),
            "TIFF": saved("a.tif", grey(), icc_profile=icc),
        }.items():
            name = f"grey profile of gamma {gamma}, any format"
            yield Case(group, name, make, colours=grey_shown(gamma), variant=kind)
    rgb_in_grey = saved("a.jpg", grey(), quality=98, icc_profile=LINEAR_SRGB)
    yield Case(group, "grey with an RGB profile", rgb_in_grey, colours=grey_shown(1.0))
    lab_icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for name, icc in {"grey": profile(b"GRAY", SRGB, 1.0, "g"), "CIELAB": lab_icc}.items():
        make = saved("a.png", icc_profile=icc)
        says = "its colour profile is one for … taken as sRGB: export it as an sRGB JPEG"
        yield Case(group, "a profile of another kind", make, "warning", says, variant=name)
    for name, icc in {"broken": b"broken", "cut": ADOBE_RGB[:200], "zeros": bytes(500)}.items():
        make = saved("a.png", icc_profile=icc)
        says = "its colour profile is damaged … export it as an sRGB JPEG"
        yield Case(group, "a damaged profile", make, "warning", says, variant=name)
    for name, gamma in {"linear": 1.0, "1/1.8": 1 / 1.8}.items():
        gama = struct.pack(">I", round(gamma * 100000))
        make = written("a.png", with_chunk(b"gAMA", gama))
        expected = encode_srgb((np.asarray(COLOURS) / 255) ** (1 / gamma)).tolist()
        yield Case(group, "PNG with a gamma", make, colours=expected, variant=name)
    make = written("a.png", with_chunk(b"gAMA", struct.pack(">I", 45455)))
    yield Case(group, "PNG with a gamma", make, variant="1/2.2, sRGB's")
    both = with_chunk(b"sRGB", b"\0", with_chunk(b"gAMA", struct.pack(">I", 100000)))
    yield Case(group, "PNG with a gamma and the sRGB chunk", written("a.png", both))
    yield Case(group, "PNG with a gamma of 0", written("a.png", with_chunk(b"gAMA", bytes(4))))
    for name, points in {"P3": (12, 13), "BT.2020": (9, 1), "PQ": (9, 16), "HLG": (9, 18)}.items():
        says = "wide-gamut or HDR by its code points, without a profile … export it as an sRGB JPEG"
        make = written("a.png", with_chunk(b"cICP", bytes((*points, 0, 1))))
        yield Case(group, "PNG with code points (cICP)", make, "warning", says, variant=name)
        for ending, form in (("avif", "AVIF"), ("heic", "HEIF")):
            make = _with_code_points(ending, form, points)
            name_ = "HEIC and AVIF with code points (nclx)"
            yield Case(
                group, name_, make, "warning", says, colours=None, variant=f"{ending} {name}"
            )
    make = written("a.png", with_chunk(b"cICP", bytes((1, 13, 0, 1))))
    yield Case(group, "PNG with sRGB's code points", make)
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = 2
    says = "Adobe RGB by its EXIF data, without the profile … export it as an sRGB JPEG"
    r03 = Image.Exif()  # as the DCF rules have it
    r03[0x8769] = {0xA001: 0xFFFF, 0xA005: {1: "R03"}}
    for variant, tags in (("by its colour space", exif), ("by R03", r03)):
        make = saved("a.jpg", exif=tags, quality=95)
        yield Case(group, "a camera's Adobe RGB", make, "warning", says, variant=variant)
    cmyk = scene().convert("CMYK")
    yield Case(group, "CMYK", saved("a.jpg", cmyk, quality=95), variant="JPEG, Adobe's")
    yield Case(group, "CMYK", saved("a.tif", cmyk), variant="TIFF")
    unmarked = _without_segment(encoded("JPEG", ImageChops.invert(cmyk), quality=95), 0xEE)
    says = "CMYK without Adobe's mark, taken as the standard has it; check its colours"
    yield Case(group, "CMYK JPEG without Adobe's mark", written("a.jpg", unmarked), "warning", says)
    picture, expected = lab(((60, 40, 30), (70, -40, 30), (90, 0, 5), (40, 10, -45)))
    yield Case(group, "CIELAB TIFF", saved("a.tif", picture), colours=expected)


def _with_code_points(ending: str, form: str, points: tuple[int, int]) -> Make:
    def make(folder: Path) -> None:
        data = encoded(form, quality=95)
        at = data.index(b"colrnclx")
        data = data[: at + 8] + struct.pack(">HH", *points) + data[at + 12 :]
        (folder / f"a.{ending}").write_bytes(data)

    return make


def _without_segment(jpeg: bytes, marker: int) -> bytes:
    at = jpeg.index(bytes((0xFF, marker)))
    return jpeg[:at] + jpeg[at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big") :]


def depths() -> Iterator[Case]:
    group = "depth"
    deep = grey_levels()
    yield Case(
        group, "16-bit grey", written("a.png", png16(deep)), colours=GREY_COLOURS, variant="PNG"
    )
    yield Case(
        group, "16-bit grey", written("a.tif", tiff(deep)), colours=GREY_COLOURS, variant="TIFF"
    )
    big_endian = Image.fromarray(deep.astype(">u2"))
    make = saved("a.tif", big_endian)
    yield Case(group, "16-bit grey", make, colours=GREY_COLOURS, variant="TIFF, big-endian")
    make = written("a.tif", tiff(65535 - deep, photometric=0))
    yield Case(group, "TIFF where 0 is white", make, colours=GREY_COLOURS, variant="16 bits")
    eight = np.asarray(grey())
    make = written("a.tif", tiff(255 - eight, photometric=0))
    yield Case(group, "TIFF where 0 is white", make, colours=GREY_COLOURS, variant="8 bits")
    for bits in (8, 10, 12):
        levels = grey_levels((1 << bits) - 1)
        says = f"fills {bits} of its 16 bits; brightened to match, so check it"
        for ending, data in (("png", png16(levels)), ("tif", tiff(levels))):
            make = written(f"a.{ending}", data)
            name = f"{bits} bits in 16"
            yield Case(group, name, make, "warning", says, colours=GREY_COLOURS, variant=ending)
    key = chunk(b"tRNS", struct.pack(">H", int(deep[0, -1])))
    clear = (GREY_COLOURS[0], (255,) * 3, *GREY_COLOURS[2:])
    says = "transparent; its background becomes white"
    make = written("a.png", png16(deep, key))
    yield Case(group, "16-bit grey, transparent", make, "warning", says, colours=clear)
    colour16 = np.asarray(scene()).astype(np.uint16) * 257
    yield Case(group, "16-bit colour", written("a.png", png16(colour16)), variant="PNG")
    yield Case(
        group, "16-bit colour", written("a.tif", tiff(colour16, photometric=2)), variant="TIFF"
    )
    says = "its dark tones are coarse … export it as an sRGB JPEG"
    linear = png16(colour16, chunk(b"iCCP", b"x\0\0" + zlib.compress(LINEAR_SRGB)))
    make = written("a.png", linear)
    yield Case(group, "16-bit colour, linear", make, "warning", says, colours=shown(COLOURS))
    real = (deep / 65535).astype(np.float32)
    says = "no 8-bit picture; its range was stretched from black to white"
    for name, values in {
        "0 to 1": real,
        "-5 to 300": real * 305 - 5,
        "16-bit signed": (deep // 2).astype(np.int16),
        "32-bit": deep.astype(np.int32) * 1000,
    }.items():
        make = written("a.tif", tiff(values))
        yield Case(
            group, "TIFF of numbers", make, "warning", says, colours=GREY_COLOURS, variant=name
        )
    for name, value in {"NaN": np.nan, "infinity": np.inf, "-infinity": -np.inf}.items():
        holed = real.copy()
        holed[::9, ::9] = value
        says = "what is no number became black"
        make = written("a.tif", tiff(holed))
        name_ = "TIFF of numbers with holes"
        yield Case(group, name_, make, "warning", says, colours=None, variant=name)
    make = written("a.tif", tiff(np.full((HEIGHT, WIDTH), np.nan, np.float32)))
    says = "it holds no number"
    yield Case(group, "TIFF of nothing but NaN", make, "rejected", says, size=None)
    make = written("a.tif", tiff(np.full((HEIGHT, WIDTH), 7, np.float32)))
    yield Case(
        group,
        "TIFF of one number",
        make,
        "warning",
        "one flat colour, nothing to learn from; remove it",
        colours=None,
    )
