"""Names, what else lies in a folder, and folders."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from .case import (
    COLOURS,
    HEIGHT,
    WIDTH,
    Case,
    Make,
    both,
    encoded,
    saved,
    saved_as_png,
    scene,
    written,
)


def names() -> Iterator[Case]:
    group = "names"
    for kind, name in {
        "umlauts": "Süße Hündin, größer.png",
        "decomposed umlauts": "Su\u0308\u00dfe.png",
        "Chinese": "我的狗.png",
        "Arabic": "كلبي.png",
        "emoji": "👨\u200d👩\u200d👧🐕.png",
        "spaces": "  my   dog  .png",
        "a dash in front": "--out=x.png",
        "quotes": "my \"best\" 'dog'.png",
        "a percent sign": "100%s %d {}.png",
        "a backslash": "a\\b.png",
        "markup": "[red]dog[bold] [V].png",
        "HTML": "<script>alert(1)<_script>.png",
        "a newline": "my\ndog.png",
        "a tab": "my\tdog.png",
        "a carriage return": "my\rdog.png",
        "ESC codes": "\x1b[31mred\x1b[2J.png",
        "a turned direction of writing": "dog\u202egnp.png",
        "a line separator": "my\u2028dog.png",
        "200 letters": "x" * 200 + ".png",
        "255 bytes": "ü" * 125 + "x.png",
        "bytes that are no UTF-8": os.fsdecode(b"d\xf6g.png"),
        "two endings": "dog.jpg.png",
        "dots": "dog...png",
    }.items():
        yield Case(group, "any name", saved_as_png(name), variant=kind, file=name)
    wrong = {"PNG": "jpg", "JPEG": "png", "WEBP": "jpg", "GIF": "jpg", "BMP": "png", "TIFF": "jpg"}
    wrong |= {"AVIF": "jpg", "HEIF": "jpg"}
    for form, ending in wrong.items():
        make = written(f"a.{ending}", encoded(form))
        says = f"named .{ending} but really {form}; better rename it"
        colours_ = None if form == "JPEG" else COLOURS
        yield Case(
            group, "a wrong ending", make, "warning", says, colours_, variant=f"{form} as {ending}"
        )
    for form, says in {
        "JPEG": "not used: rename it, it is a JPEG",
        "PNG": "not used: rename it, it is a PNG",
    }.items():
        for name in ("a", "a.original", "a.jpg_large", "a.txt"):
            make = both(saved("0.png"), written(name, encoded(form)))
            yield Case(
                group,
                "no ending of a picture",
                make,
                "ignored",
                says,
                None,
                None,
                name,
                variant=f"{form} {name}",
            )
    for name in (".a.png", "._a.jpg"):
        make = both(saved("0.png"), saved_as_png(name))
        yield Case(group, "hidden", make, "passed over", variant=name, file=name)


def others() -> Iterator[Case]:
    group = "other things in the folder"
    for ending in (
        "dng",
        "cr2",
        "CR3",
        "nef",
        "arw",
        "raf",
        "psd",
        "svg",
        "jxl",
        "jp2",
        "xcf",
        "exr",
    ):
        make = both(saved("0.png"), written(f"a.{ending}", b"II*\0"))
        says = "not used: export it as JPEG"
        yield Case(
            group, "RAW and other formats", make, "ignored", says, None, None, variant=ending
        )
    for name in ("a.mp4", "a.MOV", "a.aae", "a.xmp", "a.json", "Thumbs.db", "a.txt", "a.zip"):
        make = both(saved("0.png"), written(name, b"x"))
        yield Case(group, "films, sidecars, texts", make, "passed over", file=name, variant=name)
    make = both(saved("a.jpg"), written("a.nef", b"II*\0"))
    yield Case(group, "a RAW file beside its JPEG", make, "passed over", file="a.nef")
    make = both(saved("0.png"), lambda folder: (folder / "a.jpg").mkdir())
    yield Case(group, "a folder named .jpg", make, "passed over", file="a.jpg")
    gone = "a link to a file that is gone; remove it"
    no_file = "no file, whatever its name says; remove it"
    for name, target, status, says in (
        ("a link to a photo", "../real.png", "ok", ""),
        ("a broken link", "gone.png", "rejected", gone),
        ("a link to itself", "a.png", "rejected", "cannot be read … remove it"),
        ("a link to a device", "/dev/zero", "rejected", no_file),
    ):
        expected = (COLOURS, (WIDTH, HEIGHT)) if status == "ok" else (None, None)
        yield Case(group, name, _link(target), status, says, *expected)
    yield Case(group, "a pipe", lambda f: os.mkfifo(f / "a.png"), "rejected", no_file, None, None)
    yield Case(group, "a socket", _socket, "rejected", "cannot be read … remove it", None, None)
    frames = [scene(COLOURS[::-1]), Image.new("RGB", (WIDTH, HEIGHT), "red")]
    says = "several frames; only the first is used"
    for ending, options in (("gif", {}), ("webp", {"lossless": True}), ("png", {}), ("tif", {})):
        make = saved(f"a.{ending}", save_all=True, append_images=frames, **options)
        yield Case(group, "several frames", make, "warning", says, variant=ending)


def _link(target: str) -> Make:
    def make(folder: Path) -> None:
        scene().save(folder.parent / "real.png")
        (folder / "a.png").symlink_to(target)

    return make


def _socket(folder: Path) -> None:
    here = os.getcwd()
    os.chdir(folder)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("a.png")
    finally:
        os.chdir(here)


def folders() -> Iterator[Case]:
    group, refused = "folders", "folder refused"
    nothing: Make = lambda folder: None  # noqa: E731
    for name, make, given, says in (
        ("missing", nothing, "none", "no such folder; name the folder that holds the photos"),
        ("empty", nothing, "", "no photos in it; looked for .jpg, …"),
        ("a file", saved("a.png"), "a.png", "not a folder; name the folder that holds the photos"),
        ("only texts", written("a.txt", b"x"), "", "no photos in it; looked for .jpg, …"),
        ("only hidden files", saved_as_png(".a.png"), "", "no photos in it; looked for .jpg, …"),
        ("only folders", lambda f: (f / "a").mkdir(), "", "no photos in it; looked for .jpg, …"),
        ("only RAW files", written("a.dng", b"II*\0"), "", "export a.dng as JPEG"),
        ("a name of 300 letters", nothing, "x" * 300, "cannot be opened (File name too long)"),
        ("a name of 5000 letters", nothing, "x" * 5000, "cannot be opened (File name too long)"),
        ("a missing one with ESC codes", nothing, "\x1b[2J", "\\x1b[2J: no such folder"),
        ("a missing one with a newline", nothing, "a\nb", "a\\nb: no such folder"),
        ("a link to itself", lambda f: (f / "l").symlink_to("l"), "l", "no such folder"),
        ("a device", lambda f: (f / "d").symlink_to("/dev/null"), "d", "not a folder"),
    ):
        yield Case(group, name, make, refused, says, None, None, given=given)
    yield Case(group, "a link to a folder", _linked_folder, given="link", file="a")
    yield Case(group, "with folders in it", both(saved("a.png"), lambda f: (f / "b").mkdir()))


def _linked_folder(folder: Path) -> None:
    (folder / "real").mkdir()
    scene().save(folder / "real" / "a.png")
    (folder / "link").symlink_to("real")
