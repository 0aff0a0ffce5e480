"""What lies beside a photo, and zips of photos."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

from PIL import Image

from .case import COLOURS, HEIGHT, WIDTH, Case, Make, both, encoded, saved, saved_as_png, written


def captions() -> Iterator[Case]:
    group, off = "captions", ", or set photos.captions=false"
    for kind, data in {
        "plain": b"a photo of {} on a sofa",
        "with a byte order mark": b"\xef\xbb\xbfa {} in snow\r\n",
        "umlauts": "ein {} auf grünem Gras".encode(),
        "on two lines": b"a photo of {}\non a sofa\n",
    }.items():
        yield Case(group, "NAME.txt with {}", _with_text(data), variant=kind)
    for name, data, says in (
        ("empty", b"", 'empty; write a sentence such as "a photo of {} in snow"'),
        ("spaces alone", b" \n\t ", "empty; write a sentence"),
        ("without {}", b"a photo of sks dog", "must hold exactly one {}, where the subject stands"),
        ("with two {}", b"{} beside {}", "must hold exactly one {}"),
        ("of 1001 letters", b"{} " + b"x" * 998, "over 1000 letters; shorten it"),
        ("of a megabyte", b"{} " + b"x" * 10**6, "over 4000 bytes; shorten it"),
        ("in UTF-16", "a {} in snow".encode("utf-16"), "not UTF-8 text; save it as UTF-8"),
        ("in Latin-1", "ein {} im Grünen".encode("latin-1"), "not UTF-8 text; save it as UTF-8"),
        ("binary", bytes(range(32)) + b"{}", "holds control characters, as no text does"),
        ("a JPEG", encoded("JPEG"), "not UTF-8 text; save it as UTF-8"),
    ):
        told = f"its caption a.txt: {says} … {off}"
        yield Case(group, f"NAME.txt, {name}", _with_text(data), "rejected", told)
    link = both(saved("a.png"), lambda f: (f / "a.txt").symlink_to("gone"))
    told = f"its caption a.txt: cannot be read … remove it{off}"
    yield Case(group, "NAME.txt, a broken link", link, "rejected", told)
    other = both(saved("a.png"), written("b.txt", b"x"))
    yield Case(group, "a text of another name", other, "passed over", file="b.txt")


def _with_text(data: bytes) -> Make:
    return both(saved("a.png"), written("a.txt", data))


def masks() -> Iterator[Case]:
    """By default a mask is used for nothing, and one that is no good is told."""
    group = "masks and boxes"
    white = Image.new("L", (WIDTH, HEIGHT), 0)
    white.paste(255, (10, 10, 40, 60))
    for name, file, mask in (
        ("masks/NAME.png", "masks/a.png", white),
        ("masks/NAME.jpg", "masks/a.jpg", white.convert("RGB")),
        ("NAME-masklabel.png", "a-masklabel.png", white),
        ("a mask of half the size", "masks/a.png", white.resize((WIDTH // 2, HEIGHT // 2))),
        ("a bilevel mask", "masks/a.png", white.convert("1")),
    ):
        yield Case(group, name, both(saved("a.png"), _mask(file, mask)))
    for name, mask, says in (
        ("a mask of colours", Image.new("RGB", (WIDTH, HEIGHT), "red"), "it has colours; paint it"),
        (
            "a black mask",
            Image.new("L", (WIDTH, HEIGHT), 0),
            "it is black all over; paint it white",
        ),
        ("a mask of another shape", white.resize((HEIGHT, WIDTH)), "… not the shape of the photo"),
        ("a transparent mask", Image.new("LA", (WIDTH, HEIGHT), (255, 9)), "it is transparent"),
    ):
        make = both(saved("a.png"), _mask("masks/a.png", mask))
        yield Case(group, name, make, "warning", f"its mask masks/a.png: {says}")
    damaged = both(saved("a.png"), _mask("masks/a.png", white), written("masks/a.png", b"x"))
    says = "its mask masks/a.png: not a picture, whatever its name says"
    yield Case(group, "a mask that is no picture", damaged, "warning", says)
    yield Case(
        group,
        "a photo named NAME-masklabel.png alone",
        saved_as_png("a-masklabel.png"),
        file="a-masklabel.png",
    )
    yield Case(group, "boxes.toml", _boxes(b'"a.png" = [10, 10, 40, 60]'))
    for name, data, says in (
        ("no TOML", b"a.png: 1", "boxes.toml: not valid TOML … correct it"),
        (
            "of a photo that is not there",
            b'"b.png" = [0, 0, 9, 9]',
            "names b.png, which is no photo",
        ),
        ("beyond the photo", b'"a.png" = [10, 10, 97, 60]', "within 96 x 72 pixels; correct it"),
        ("of no width", b'"a.png" = [10, 10, 10, 60]', "within 96 x 72 pixels; correct it"),
        ("of three numbers", b'"a.png" = [10, 10, 40]', "must be [left, top, right, bottom]"),
        ("of words", b'"a.png" = "left"', "must be [left, top, right, bottom]"),
        ("not finite", b'"a.png" = [nan, 0, 9, inf]', "must be [left, top, right, bottom]"),
        ("in Latin-1", b'"\xe4.png" = 1', "boxes.toml: not UTF-8 text; save it as UTF-8"),
    ):
        yield Case(group, f"boxes.toml, {name}", _boxes(data), "warning", says)


def _mask(name: str, mask: Image.Image) -> Make:
    def make(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        mask.save(folder / name)

    return make


def _boxes(data: bytes) -> Make:
    return both(saved("a.png"), written("boxes.toml", data))


PNG = encoded("PNG")


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes], **options: int) -> bytes:
    """A zip of these members; options are ZipFile's."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:  # type: ignore[call-overload]
        for name, data in members:
            archive.writestr(name, data)
    return buffer.getvalue()


def of_mode(name: str, mode: int) -> zipfile.ZipInfo:
    """A member with the rights and kind of a Unix file."""
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


def patched(data: bytes, offsets: tuple[int, int], change: Callable[[bytes], bytes]) -> bytes:
    """With bytes changed at an offset of each local and each central header."""
    for mark, offset in zip((b"PK\3\4", b"PK\1\2"), offsets, strict=True):
        at = -1
        while (at := data.find(mark, at + 1)) >= 0:
            place = at + offset
            data = data[:place] + change(data[place : place + 2]) + data[place + 2 :]
    return data


def flagged(data: bytes, bits: int, off: int = 0) -> bytes:
    """With flags set, or taken away, in every header."""

    def change(word: bytes) -> bytes:
        return struct.pack("<H", struct.unpack("<H", word)[0] & ~off | bits)

    return patched(data, (6, 8), change)


def archives() -> Iterator[Case]:
    group, zip_ = "zips", "photos.zip"
    umlaut = "hündin.png"
    for name, data, file in (
        ("stored", zipped(("a.png", PNG)), "a"),
        ("deflated", zipped(("a.png", PNG), compression=zipfile.ZIP_DEFLATED), "a"),
        ("photos in one folder", zipped(("dog/", b""), ("dog/a.png", PNG)), "a"),
        ("photos in folders within", zipped(("x/y/a.png", PNG), ("x/y/z/b.png", b"")), "a"),
        ("with a Windows separator", zipped(("dog\\a.png", PNG)), "a"),
        ("names in UTF-8", zipped((umlaut, PNG)), umlaut),
        ("names in UTF-8, as macOS", flagged(zipped((umlaut, PNG)), 0, off=0x800), umlaut),
        ("names with dots", zipped(("a..png", PNG)), "a..png"),
    ):
        make = written(zip_, data)
        yield Case(group, "a zip", make, given=zip_, file=file, variant=name)
    for name, member in (
        ("__MACOSX", "__MACOSX/._b.png"),
        ("hidden", ".b.png"),
        ("a folder below", "more/b.png"),
        ("a folder named .png", "b.png/"),
    ):
        make = written(zip_, zipped(("a.png", PNG), (member, b"x" * (member[-1] != "/"))))
        yield Case(group, "a zip with " + name, make, "passed over", given=zip_, file="b.png")
    caption = zipped(("a.png", PNG), ("a.txt", b"no place"))
    says = "its caption a.txt: must hold exactly one {}"
    yield Case(group, "a zip with captions", written(zip_, caption), "rejected", says, given=zip_)
    raw = written(zip_, zipped(("b.png", PNG), ("a.dng", b"II*\0")))
    says = "not used: export it as JPEG"
    yield Case(group, "a zip with RAW files", raw, "ignored", says, None, None, given=zip_)
    sound = ("b.png", encoded("PNG", Image.new("RGB", (64, 64), "red")))
    for name, member, says in (
        (
            "a link",
            (of_mode("a.png", 0o120777), b"b.png"),
            "a link, which a zip's photo may not be",
        ),
        ("a pipe", (of_mode("a.png", 0o010666), b""), "no file, whatever its name says; remove it"),
        ("a text named .png", ("a.png", b"x"), "not a picture, whatever its name says"),
    ):
        make = written(zip_, zipped(sound, member))
        yield Case(group, f"a zip with {name}", make, "rejected", says, None, None, given=zip_)
    torn = zipped(sound, ("a.png", PNG))
    at = torn.rfind(PNG) + len(PNG) // 2
    torn = torn[:at] + bytes([torn[at] ^ 1]) + torn[at + 1 :]
    says = "damaged in the zip … make the zip anew"
    yield Case(
        group,
        "a zip with a flipped bit",
        written(zip_, torn),
        "rejected",
        says,
        None,
        None,
        given=zip_,
    )
    packed = zipped(sound, ("a.png", bytes(1 << 27)), compression=zipfile.ZIP_DEFLATED)
    says = "packs 128 MB into … as no photo does"
    yield Case(group, "a zip bomb", written(zip_, packed), "rejected", says, None, None, given=zip_)
    for name, data, says in (
        ("empty", zipped(), "no photos in it; looked for .jpg, …"),
        ("of 1001 files", zipped(*((f"{k}", b"") for k in range(1001))), "over 1000 files"),
        (
            "encrypted",
            flagged(zipped(("a.png", PNG)), 1),
            "encrypted; make a zip without a password",
        ),
        ("with a way out", zipped(("../a.png", PNG)), "../a.png leads out of the zip"),
        ("with a way out, Windows", zipped(("..\\a.png", PNG)), "../a.png leads out of the zip"),
        ("with an absolute name", zipped(("/tmp/a.png", PNG)), "leads out of the zip"),
        ("with a drive", zipped(("C:/a.png", PNG)), "leads out of the zip"),
        ("packed by bzip2", zipped(("a.png", PNG), compression=zipfile.ZIP_BZIP2), "than deflate"),
        ("packed by LZMA", zipped(("a.png", PNG), compression=zipfile.ZIP_LZMA), "than deflate"),
        ("named in no UTF-8", _not_utf8(), "a name in it is not UTF-8; make the zip anew"),
        ("cut off", zipped(("a.png", PNG))[:-30], "not a zip that can be read"),
        ("nothing", b"", "not a zip that can be read"),
        ("a text", b"x" * 1000, "not a zip that can be read"),
        ("with a name twice", _twice(), "holds a.png twice; make the zip anew"),
        ("declaring 5 GB", _declaring(5 << 28), "over 4 GB unpacked"),
        ("with ESC codes", zipped(("../\x1b[2J.png", PNG)), "\\x1b[2J.png leads out of the zip"),
    ):
        make = written(zip_, data)
        yield Case(group, f"a zip, {name}", make, "folder refused", says, None, None, given=zip_)
    folder = both(lambda f: (f / "a.zip").mkdir(), saved("a.zip/a.png"))
    yield Case(group, "a folder named .zip", folder, colours=COLOURS, given="a.zip")


def _twice() -> bytes:
    return zipped(("a.png", PNG), ("b.png", PNG)).replace(b"b.png", b"a.png")


def _not_utf8() -> bytes:
    return flagged(zipped(("abcd.png", PNG)), 0x800).replace(b"abcd.png", b"\xff\xfe\xfa\xfb.png")


def _declaring(size: int) -> bytes:
    """Four members that say they are of this size."""
    data = zipped(*((f"{k}.png", PNG) for k in range(4)))
    parts = data.split(b"PK\1\2")
    return b"PK\1\2".join(
        [parts[0], *(part[:20] + struct.pack("<I", size) + part[24:] for part in parts[1:])]
    )
