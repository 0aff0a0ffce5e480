"""Sound photos: formats, orientation, transparency."""

from __future__ import annotations

from collections.abc import Iterator

from PIL import Image

from .case import COLOURS, GREY_COLOURS, HEIGHT, WIDTH, Case, encoded, grey, saved, scene, written
from .files import interlaced
from .icc import LINEAR_SRGB, shown


def formats() -> Iterator[Case]:
    group = "formats"
    for ending in ("jpg", "jpeg", "jpe", "jfif", "JPG", "Jpeg"):
        make = written(f"a.{ending}", encoded("JPEG", quality=95))
        yield Case(group, "JPEG under each ending", make, variant=ending)
    for name, options in {
        "4:4:4": {"subsampling": 0},
        "4:2:2": {"subsampling": 1},
        "progressive": {"progressive": True},
        "optimised": {"optimize": True},
        "with restart markers": {"restart_marker_rows": 1},
        "with a comment": {"comment": b"x" * 60000},
        "with EXIF of 60 kB": {"exif": _big_exif()},
    }.items():
        yield Case(group, "JPEG", saved("a.jpg", quality=95, **options), variant=name)
    yield Case(group, "JPEG, grey", saved("a.jpg", grey(), quality=95), colours=GREY_COLOURS)
    jpeg = encoded("JPEG", quality=95)
    for name, tail in {"zeros": bytes(5000), "a film": b"ftypmp42" * 99, "a JPEG": jpeg}.items():
        yield Case(group, "JPEG with something behind", written("a.jpg", jpeg + tail), variant=name)
    for ending in ("png", "PNG"):
        yield Case(group, "PNG under each ending", saved(f"a.{ending}"), variant=ending)
    opaque = scene().convert("RGBA")
    yield Case(group, "PNG, interlaced", written("a.png", interlaced(scene())))
    yield Case(group, "PNG, opaque alpha", saved("a.png", opaque))
    yield Case(
        group, "PNG, palette", saved("a.png", scene().convert("P", palette=Image.Palette.ADAPTIVE))
    )
    yield Case(group, "PNG, grey", saved("a.png", grey()), colours=GREY_COLOURS)
    yield Case(group, "PNG, 2 and 4 bits", saved("a.png", _paletted(4), bits=2), variant="2")
    yield Case(group, "PNG, 2 and 4 bits", saved("a.png", _paletted(4), bits=4), variant="4")
    black_white = ((0,) * 3, (255,) * 3, (0,) * 3, (255,) * 3)
    for ending in ("png", "tif", "bmp", "gif"):
        make = saved(f"a.{ending}", scene(black_white).convert("1"))
        yield Case(group, "bilevel, any format", make, colours=black_white, variant=ending)
    yield Case(group, "WebP", saved("a.webp", quality=95), variant="lossy")
    yield Case(group, "WebP", saved("a.webp", lossless=True), variant="lossless")
    for ending in ("heic", "heif", "hif"):
        yield Case(
            group, "HEIC under each ending", saved(f"a.{ending}", quality=95), variant=ending
        )
    yield Case(group, "AVIF", saved("a.avif", quality=95))
    for ending in ("tif", "tiff"):
        for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
            quality = {"quality": 95} if compression == "jpeg" else {}
            make = saved(f"a.{ending}", compression=compression, **quality)
            yield Case(group, "TIFF, each compression", make, variant=f"{ending} {compression}")
    yield Case(group, "TIFF, grey", saved("a.tif", grey()), colours=GREY_COLOURS)
    yield Case(
        group, "TIFF, palette", saved("a.tif", scene().convert("P", palette=Image.Palette.ADAPTIVE))
    )
    yield Case(group, "GIF", saved("a.gif"))
    yield Case(group, "BMP", saved("a.bmp"))
    yield Case(
        group, "BMP, palette", saved("a.bmp", scene().convert("P", palette=Image.Palette.ADAPTIVE))
    )
    mpo = encoded("MPO", save_all=True, append_images=[scene(COLOURS[::-1])], quality=95)
    yield Case(group, "a phone's JPEG of two pictures (MPO)", written("a.jpg", mpo))


def _paletted(count: int) -> Image.Image:
    return scene().quantize(count)


def _big_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x010E] = "x" * 60000
    return exif


def orientations() -> Iterator[Case]:
    # What EXIF says of the stored picture; storing it so is the inverse of turning it upright.
    stored = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    for ending in ("jpg", "png", "webp", "tif", "avif"):
        for orientation in range(1, 9):
            photo = scene()
            if orientation > 1:
                photo = photo.transpose(stored[orientation])
            exif = Image.Exif()
            exif[0x0112] = orientation
            make = saved(
                f"a.{ending}", photo, exif=exif, **({} if ending == "tif" else {"quality": 95})
            )
            yield Case("orientation", f"EXIF 1 to 8 in {ending}", make, variant=str(orientation))
    for value in (0, 9, 65535):
        exif = Image.Exif()
        exif[0x0112] = value
        make = saved("a.jpg", exif=exif, quality=95)
        yield Case("orientation", "EXIF of no meaning", make, variant=str(value))
    broken = b"Exif\0\0II*\0\xff\xff\xff\xffgarbage"
    yield Case("orientation", "damaged EXIF", saved("a.png", exif=broken))


def transparency() -> Iterator[Case]:
    group, says = "transparency", "transparent; its background becomes white"
    mask = Image.new("L", (WIDTH, HEIGHT), 255)
    mask.paste(0, (0, 0, WIDTH // 2, HEIGHT // 2))
    image = scene()
    image.putalpha(mask)
    clear = ((255,) * 3, *COLOURS[1:])
    for name, make in {
        "PNG": saved("a.png", image),
        "WebP": saved("a.webp", image, lossless=True),
        "TIFF": saved("a.tif", image),
        "AVIF": saved("a.avif", image, quality=95),
        "HEIC": saved("a.heic", image, quality=95),
        "GIF": saved("a.gif", image),
        "PNG, a colour": saved("a.png", transparency=COLOURS[0]),
    }.items():
        yield Case(group, "transparent, any format", make, "warning", says, clear, variant=name)
    palette = scene().quantize(8)
    make = saved("a.png", palette, transparency=palette.getpixel((2, 2)))
    yield Case(group, "transparent, any format", make, "warning", says, clear, variant="palette")
    grey_alpha = grey()
    grey_alpha.putalpha(mask)
    clear_grey = ((255,) * 3, *GREY_COLOURS[1:])
    make = saved("a.png", grey_alpha)
    yield Case(group, "grey and transparent", make, "warning", says, clear_grey, variant="alpha")
    make = saved("a.png", grey(), transparency=0)
    yield Case(group, "grey and transparent", make, "warning", says, clear_grey, variant="a level")
    half = scene()
    half.putalpha(51)
    blended = [[255 - (255 - level) * 51 / 255 for level in colour] for colour in COLOURS]
    make = saved("a.png", half)
    yield Case(group, "half transparent is blended", make, "warning", says, blended)
    make = saved("a.png", half, icc_profile=LINEAR_SRGB)
    blended = [[255 - (255 - level) * 51 / 255 for level in c] for c in shown(COLOURS)]
    name = "half transparent is blended in sRGB"
    yield Case(group, name, make, "warning", says, blended, variant="with a profile")
