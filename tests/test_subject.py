from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import struct
import subprocess
import sys
import weakref
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageFile, ImageOps

from rpo.data import photo as photo_module
from rpo.data import subject as subject_module
from rpo.data.contact_sheet import contact_sheet
from rpo.data.subject import LIVE_NOUNS, PhotoCheck, Subject, check_folder
from rpo.errors import UserError
from rpo.runs.environment import fingerprints

DREAMBENCH = Path(__file__).resolve().parents[2] / "shared" / "dreambench"
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def quarters(width: int = 300, height: int = 300) -> Image.Image:
    """Red and green above blue and white: shows every rotation and mirroring."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(GREEN, (width // 2, 0, width, height // 2))
    image.paste(BLUE, (0, height // 2, width // 2, height))
    image.paste(WHITE, (width // 2, height // 2, width, height))
    return image


def assert_quarters(image: Image.Image, tolerance: int = 0) -> None:
    """`image` shows quarters() upright (in the middle of each quarter, clear of the edges)."""
    width, height = image.size
    for (x, y), expected in {(1, 1): RED, (3, 1): GREEN, (1, 3): BLUE, (3, 3): WHITE}.items():
        found = image.getpixel((x * width // 4, y * height // 4))
        assert np.abs(np.subtract(found, expected)).max() <= tolerance, (found, expected)


def flat(colour: tuple[int, int, int], size: tuple[int, int] = (300, 300)) -> Image.Image:
    return Image.new("RGB", size, colour)


def only(folder: Path) -> PhotoCheck:
    (check,) = check_folder(folder)
    return check


def read(folder: Path) -> Image.Image:
    """The picture that a Subject gets from the only photo in `folder`."""
    flat((1, 2, 3)).save(folder / "~last.png")
    return Subject.from_folder(folder, "dog").images[0]


@pytest.fixture(autouse=True)
def _no_remarks_on_content(monkeypatch: pytest.MonkeyPatch) -> None:
    """The photos here are flat colours; what is said of such has its own tests."""
    monkeypatch.setattr(subject_module, "remark_on", lambda image: "")
    monkeypatch.setattr(subject_module, "nearly_same", lambda first, second: False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "Süße Hündin, 2"
    path.mkdir()
    return path


# What is in the folder


def test_natural_order_and_what_is_passed_over(folder: Path) -> None:
    names = ["10.jpg", "2.JPG", "1.png", "01.png", "B2.webp", "a10.png", "a9.png"]
    for index, name in enumerate(names):
        flat((index * 20, 0, 0)).save(folder / name)
    for name in (".hidden.jpg", "._1.png", "._raw.dng", "Thumbs.db", "notes.txt", "a9.json"):
        (folder / name).write_text("x")
    for name in ("clip.mp4", "1.MOV", "1.AAE", "10.xmp"):  # what phones and editors leave there
        (folder / name).write_text("x")
    (folder / "raw.dng").mkdir()
    (folder / "more.jpg").mkdir()
    checks = check_folder(folder)
    order = ["01.png", "1.png", "2.JPG", "10.jpg", "a9.png", "a10.png", "B2.webp"]
    assert [check.path for check in checks] == [folder / name for name in order]
    assert {check.status for check in checks} == {"ok"}
    assert {(check.size, check.message) for check in checks} == {((300, 300), "")}


def test_a_bad_folder_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"no photos in it; looked for \.jpg"):
        check_folder(folder)
    with pytest.raises(UserError, match="no such folder"):
        check_folder(folder / "none")
    (folder / "file.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="not a folder"):
        check_folder(folder / "file.jpg")
    with pytest.raises(UserError, match="no such folder"):
        check_folder("~nobody-by-this-name/photos")


def test_pictures_that_are_not_read_are_listed_but_do_not_stop_a_training(folder: Path) -> None:
    flat(RED).save(folder / "3.jpg")
    flat(BLUE).save(folder / "10.jpg")
    for name in ("1.dng", "2.CR3", "4.psd", "5.svg", "6.jxl"):
        (folder / name).write_bytes(b"II*\0")  # a RAW file begins as a TIFF does
    checks = check_folder(folder)
    assert [check.path.name for check in checks] == [
        *("1.dng", "2.CR3", "3.jpg", "4.psd", "5.svg", "6.jxl", "10.jpg")
    ]
    assert [check.status for check in checks if check.path.suffix == ".jpg"] == ["ok", "ok"]
    unread = [check for check in checks if check.path.suffix != ".jpg"]
    assert {(check.status, check.size) for check in unread} == {("ignored", None)}
    assert {check.message for check in unread} == {"not used: export it as JPEG"}
    paths = Subject.from_folder(folder, "dog").paths
    assert [path.name for path in paths] == ["3.jpg", "10.jpg"]


def test_a_cameras_double_beside_its_jpeg_is_passed_over(folder: Path) -> None:
    flat(RED).save(folder / "IMG_1.jpg")
    for name in ("img_1.NEF", "IMG_2.NEF"):
        (folder / name).write_bytes(b"II*\0")
    assert [check.path.name for check in check_folder(folder)] == ["IMG_1.jpg", "IMG_2.NEF"]


def test_where_too_few_can_be_read_the_remedy_is_to_export(folder: Path) -> None:
    (folder / "b.dng").write_bytes(b"II*\0")
    for refused in (check_folder, lambda folder: Subject.from_folder(folder, "dog")):
        with pytest.raises(UserError, match="can be read; export b.dng as JPEG$"):
            refused(folder)
    (folder / "c.dng").write_bytes(b"II*\0")
    flat(RED).save(folder / "a.jpg")
    with pytest.raises(UserError, match=r"only 1 photo; export b.dng \(and 1 more\) as JPEG"):
        Subject.from_folder(folder, "dog")


# One photo


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(folder: Path, orientation: int) -> None:
    # EXIF names the side of the scene that the stored row 0 and column 0 are; storing the scene
    # so is the inverse of each of these transpositions (6 and 8 are each other's).
    stored = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    photo = quarters(400, 300)
    if orientation > 1:
        photo = photo.transpose(stored[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo.save(folder / "a.jpg", exif=exif, quality=95)
    check = only(folder)
    assert (check.status, check.size) == ("ok", (400, 300))
    assert_quarters(read(folder), tolerance=3)


def test_a_photo_with_damaged_exif_is_read(folder: Path) -> None:
    quarters().save(folder / "a.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xffgarbage")
    assert_quarters(read(folder))


def test_unreadable_exif_is_a_warning(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(image: Image.Image) -> Image.Image:
        raise struct.error("unpack requires a buffer of 4 bytes")

    quarters().save(folder / "a.png")
    monkeypatch.setattr(ImageOps, "exif_transpose", broken)
    check = only(folder)
    assert check.status == "warning"
    assert "EXIF" in check.message
    assert_quarters(read(folder))


def test_heic(folder: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(quarters(400, 300)).save(folder / "IMG_0001.HEIC", quality=95)
    check = only(folder)
    assert (check.status, check.size) == ("ok", (400, 300))
    assert_quarters(read(folder), tolerance=12)


def test_heic_without_pillow_heif_names_the_remedy(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photo_module, "_readable_formats", lambda: ("JPEG", "PNG"))
    (folder / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    check = only(folder)
    assert (check.status, check.size) == ("rejected", None)
    assert "pip install pillow-heif" in check.message


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


def test_a_cut_off_photo_is_rejected(folder: Path) -> None:
    buffer = BytesIO()
    Image.effect_noise((300, 300), 80).save(buffer, "JPEG")
    for name, data in (("a.jpg", buffer.getvalue()), ("b.png", png_bytes())):
        (folder / name).write_bytes(data[: len(data) // 2])
    first, second = check_folder(folder)
    assert (first.status, first.size) == ("rejected", None)
    assert first.message == "damaged, its end is missing; copy it again"
    assert (second.status, second.message[:7]) == ("rejected", "damaged")


def png_bytes() -> bytes:
    buffer = BytesIO()
    Image.effect_noise((300, 300), 80).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>not found</html>", "not a picture, whatever its name says"),
        (b"", "empty; copy it again"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (b"\xff\xd8\xff\xe0", ""),
        (bytes(1000), "not a picture"),
    ],
)
def test_what_is_no_picture_is_rejected(folder: Path, content: bytes, message: str) -> None:
    (folder / "a.jpg").write_bytes(content)
    check = only(folder)
    assert (check.status, check.size) == ("rejected", None)
    assert check.message
    assert check.message.startswith(message)


def test_a_broken_link_is_rejected(folder: Path) -> None:
    try:
        (folder / "a.jpg").symlink_to(folder / "gone.jpg")
    except OSError:
        pytest.skip("no symbolic links here")
    assert only(folder).status == "rejected"


def test_a_wrong_ending_is_a_warning(folder: Path) -> None:
    quarters().save(folder / "a.jpg", "PNG")
    check = only(folder)
    assert check.status == "warning"
    assert check.message == "named .jpg but really PNG; better rename it"
    assert_quarters(read(folder))


def test_a_phones_multi_picture_jpeg_is_a_jpeg(folder: Path) -> None:
    extra = {"save_all": True, "append_images": [flat(RED)], "quality": 95}
    quarters().save(folder / "a.jpg", "MPO", **extra)
    with Image.open(folder / "a.jpg") as photo:
        assert photo.format == "MPO"
    assert only(folder).status == "ok"
    assert_quarters(read(folder), tolerance=3)


@pytest.mark.parametrize("ending", ["gif", "webp"])
def test_of_an_animation_the_first_frame_is_used(folder: Path, ending: str) -> None:
    options = {"lossless": True} if ending == "webp" else {}
    frames = [flat(GREEN), flat(BLUE)]
    quarters().save(folder / f"a.{ending}", save_all=True, append_images=frames, **options)
    check = only(folder)
    assert check.status == "warning"
    assert "only the first" in check.message
    assert_quarters(read(folder))


@pytest.mark.parametrize(
    ("side", "status"), [(31, "rejected"), (32, "warning"), (255, "warning"), (256, "ok")]
)
def test_small_photos(folder: Path, side: int, status: str) -> None:
    flat(RED, (side, 300)).save(folder / "a.png")
    check = only(folder)
    # The 32 pixels wide photo is elongated too.
    assert (check.status, check.size) == (status, (side, 300))
    assert ("small" in check.message) == (status != "ok")


def test_the_bound_of_small_can_be_the_models_resolution(folder: Path) -> None:
    flat(RED, (64, 64)).save(folder / "a.png")
    assert check_folder(folder)[0].status == "warning"
    assert check_folder(folder, small_below=64)[0].status == "ok"


def test_an_elongated_photo_is_a_warning(folder: Path) -> None:
    flat(RED, (800, 400)).save(folder / "a.png")
    flat(RED, (801, 400)).save(folder / "b.png")
    assert [check.status for check in check_folder(folder)] == ["ok", "warning"]


def test_a_decompression_bomb_is_rejected_unread(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("1", (20_000, 20_000)).save(folder / "a.png")  # Pillow's own limit is below
    assert "over 150 megapixels" in only(folder).message
    flat(RED).save(folder / "a.png")
    monkeypatch.setattr(photo_module, "MAX_PIXELS", 300 * 300 - 1)
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)  # calling it would be another message
    check = only(folder)
    assert check.status == "rejected"
    assert "megapixels" in check.message


def test_large_photos_raise_no_warning_of_pillows(
    folder: Path, recwarn: pytest.WarningsRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    quarters().save(folder / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300 * 300 - 1)
    # crops are checked too, by some versions of Pillow; a real strip is far below the limit
    monkeypatch.setattr(subject_module, "_STRIP_PIXELS", 300 * 100)
    assert only(folder).status == "ok"
    assert not recwarn.list


def test_the_same_picture_twice_is_rejected_by_content(folder: Path) -> None:
    quarters().save(folder / "a.png")
    quarters().save(folder / "b.bmp")
    flat(RED, (300, 400)).save(folder / "c.png")
    flat(RED, (400, 300)).save(folder / "d.png")  # the same bytes, but not the same picture
    assert [check.status for check in check_folder(folder)] == ["ok", "rejected", "ok", "ok"]
    with pytest.raises(UserError) as error:
        Subject.from_folder(folder, "dog")
    assert str(error.value) == (
        f"{folder / 'b.bmp'}: the same picture as a.png; remove one of the two"
    )


def test_a_difference_anywhere_makes_another_picture(folder: Path) -> None:
    size = (1200, 1000)  # hashed in more than one strip
    for index, pixel in enumerate([None, (0, 0), (1199, 872), (0, 873), (1199, 999)]):
        photo = flat(RED, size)
        if pixel:
            photo.putpixel(pixel, BLUE)
        photo.save(folder / f"{index}.bmp")
    assert {check.status for check in check_folder(folder)} == {"ok"}
    flat(RED, size).save(folder / "5.bmp")
    assert [check.status for check in check_folder(folder)][-1] == "rejected"


def test_a_photo_is_never_hashed_in_one_piece(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat(RED, (3000, 2000)).save(folder / "a.bmp")
    pieces = []
    tobytes = Image.Image.tobytes

    def measured(image: Image.Image, *arguments: object) -> bytes:
        pieces.append(image.width * image.height)
        return tobytes(image, *arguments)

    monkeypatch.setattr(Image.Image, "tobytes", measured)
    assert only(folder).status == "ok"
    assert sum(piece for piece in pieces if piece > 16 * 16) == 3000 * 2000  # less the signature
    assert max(pieces) <= 2**20


# The subject


def test_from_folder(folder: Path) -> None:
    quarters(400, 300).save(folder / "2.png")
    flat(BLUE).save(folder / "10.png")
    subject = Subject.from_folder(str(folder), "  corgi   dog ")
    assert (subject.noun, subject.kind, subject.name) == ("corgi dog", "live", "Süße Hündin, 2")
    assert subject.paths == (folder / "2.png", folder / "10.png")
    assert [image.size for image in subject.images] == [(400, 300), (300, 300)]
    assert {image.mode for image in subject.images} == {"RGB"}
    assert_quarters(subject.images[0])
    with pytest.raises(dataclasses.FrozenInstanceError):
        subject.noun = "cat"  # type: ignore[misc]


def test_a_large_photo_is_kept_reduced_but_reported_as_it_is(folder: Path) -> None:
    quarters(4096, 2560).save(folder / "1.bmp")  # nothing to compress: fast
    quarters(2048, 2100).save(folder / "2.bmp")
    assert [check.size for check in check_folder(folder)] == [(4096, 2560), (2048, 2100)]
    first, second = Subject.from_folder(folder, "dog").images
    assert first.size == (3277, 2048)  # 4096 * 2048 / 2560 = 3276.8
    assert_quarters(first)
    assert second.size == (2048, 2100)
    # Lanczos, unlike box and bilinear filters, overshoots beside an edge: red on white dips.
    dark = Image.new("L", (4096, 4096), 64)
    dark.paste(192, (0, 0, 2047, 4096))
    kept = np.asarray(photo_module._reduced(dark))[0].astype(int)
    assert len(kept) == 2048
    assert kept.min() < 64
    assert kept.max() > 192


def test_photos_in_full_size_are_let_go_one_by_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photo_module, "KEPT_SIDE", 200)
    for index in range(4):
        flat((index, 0, 0)).save(folder / f"{index}.png")
    to_srgb, read, alive = photo_module.to_srgb, [], []

    def watched(image: Image.Image, *arguments: object) -> Image.Image:
        alive.append(sum(reference() is not None for reference in read))
        image = to_srgb(image, *arguments)
        read.append(weakref.ref(image))
        return image

    monkeypatch.setattr(photo_module, "to_srgb", watched)
    images = Subject.from_folder(folder, "dog").images
    assert alive == [0, 0, 0, 0]
    assert {image.size for image in images} == {(200, 200)}


def test_more_than_forty_photos(folder: Path) -> None:
    for index in range(41):
        flat((index, 0, 0), (32, 32)).save(folder / f"{index}.png")
    images = Subject.from_folder(folder, "vase").images
    assert [image.getpixel((0, 0))[0] for image in images] == list(range(41))


def test_the_first_rejected_photo_is_named_and_the_others_counted(folder: Path) -> None:
    flat(RED).save(folder / "1.png")
    flat(BLUE).save(folder / "2.png")
    (folder / "9.jpg").write_bytes(b"")
    with pytest.raises(UserError) as error:
        Subject.from_folder(folder, "dog")
    assert str(error.value) == f"{folder / '9.jpg'}: empty; copy it again"
    (folder / "10.jpg").write_text("x")
    (folder / "11.jpg").write_text("x")
    with pytest.raises(UserError) as error:
        Subject.from_folder(folder, "dog")
    assert str(error.value) == f"{folder / '9.jpg'}: empty; copy it again (and 2 more rejected)"


def test_one_photo_is_too_few(folder: Path) -> None:
    flat(RED).save(folder / "1.png")
    with pytest.raises(UserError, match="only 1 photo; add more"):
        Subject.from_folder(folder, "dog")


@pytest.mark.parametrize("noun", ["", "  \n"])
def test_the_noun_must_be_given(tmp_path: Path, noun: str) -> None:
    with pytest.raises(UserError, match="noun is empty"):
        Subject.from_folder(tmp_path, noun)


@pytest.mark.parametrize(
    ("noun", "kind"),
    [
        ("dog", "live"),
        ("Golden Retriever", "live"),
        ("person", "live"),
        ("polar bear", "live"),
        ("teddy bear", "object"),
        ("stuffed animal", "object"),
        ("dog bowl", "object"),
        ("vase", "object"),
    ],
)
def test_kind_auto_is_decided_by_the_noun(folder: Path, noun: str, kind: str) -> None:
    flat(RED).save(folder / "1.png")
    flat(BLUE).save(folder / "2.png")
    assert Subject.from_folder(folder, noun).kind == kind
    assert Subject.from_folder(folder, noun, "object").kind == "object"
    assert Subject.from_folder(folder, noun, "live").kind == "live"


def test_an_unknown_kind_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="subject_kind must be auto, live or object"):
        Subject.from_folder(folder, "dog", "alive")  # type: ignore[arg-type]


def test_the_classes_of_dreambench_have_its_kinds() -> None:
    objects = "backpack bowl can candle clock sneaker toy boot glasses cartoon teapot vase"
    classes = ["cat", "dog", "stuffed animal", *objects.split()]
    live = {name for name in classes if subject_module.checked_noun(name, "auto")[1] == "live"}
    assert len(classes) == 15
    assert live == {"cat", "dog"}
    assert all(noun == noun.lower() and " " not in noun for noun in LIVE_NOUNS)


# Once read, files do not matter any more


def test_each_file_is_opened_once_and_hashed_as_it_was_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, really = [], os.open
    for name in ("1.jpg", "2.png", "3.dng"):
        quarters(60 + len(name), 60).save(folder / name, "JPEG" if name == "1.jpg" else "PNG")
    flat(BLUE).save(folder / "2.png")

    def counted(path: object, *arguments: int, **options: object) -> int:
        if Path(path).parent == folder:
            opened.append(Path(path).name)
        return really(path, *arguments, **options)

    monkeypatch.setattr(os, "open", counted)
    data = {path.name: path.read_bytes() for path in folder.iterdir()}
    opened.clear()
    subject = Subject.from_folder(folder, "dog", small_below=32)
    contact_sheet(subject.checks)
    assert opened == ["1.jpg", "2.png"]
    assert list(subject.sha256) == [
        hashlib.sha256(data[name]).hexdigest() for name in ("1.jpg", "2.png")
    ]
    assert [check.message for check in subject.checks] == ["", "", "not used: export it as JPEG"]
    for path in folder.iterdir():
        path.unlink()
    assert fingerprints(subject) == [
        {"name": name, "sha256": hashlib.sha256(data[name]).hexdigest()}
        for name in ("1.jpg", "2.png")
    ]


def test_names_are_one_line_each_and_the_subjects_fits_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / ("\x1b[2J" + "x" * 200)
    folder.mkdir()
    names = ["a\nb.png", os.fsdecode(b"b\xe9.png"), "c\x1b[31m.png", "ü\u202e.png"]
    for index, name in enumerate(names):
        quarters(300 + index, 300).save(folder / name)
    subject = Subject.from_folder(folder, "dog")
    assert subject.names == ("a\\nb.png", "b\\udce9.png", "c\\x1b[31m.png", "ü\\u202e.png")
    assert subject.name == "\\x1b[2J" + "x" * 53
    assert subject.folder == str(tmp_path / ("\\x1b[2J" + "x" * 200))


def test_the_empty_name_is_not_the_current_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat(RED).save(folder / "1.png")
    flat(BLUE).save(folder / "2.png")
    monkeypatch.chdir(folder)
    assert len(check_folder(".")) == 2
    for refused in (check_folder, lambda folder: Subject.from_folder(folder, "dog")):
        with pytest.raises(UserError, match="folder is empty; name the folder"):
            refused("")


def test_a_photo_that_becomes_a_pipe_does_not_hang(folder: Path) -> None:
    os.mkfifo(folder / "a.png")
    with pytest.raises(photo_module.RejectedPhoto, match="no file"):
        photo_module.read_photo(folder / "a.png")


def test_a_huge_jpeg_is_decoded_small(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photo_module, "KEPT_SIDE", 64)
    sizes = []
    load = ImageFile.ImageFile.load

    def watched(image: ImageFile.ImageFile) -> object:
        sizes.append(image.size)
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", watched)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = quarters(1000, 800).transpose(Image.Transpose.ROTATE_90)
    turned.save(folder / "a.jpg", exif=exif, quality=95)
    quarters(1000, 800).save(folder / "b.png")
    sizes.clear()
    photo, other = (photo_module.read_photo(folder / name) for name in ("a.jpg", "b.png"))
    assert sizes[0] == (100, 125)  # an eighth
    assert photo.size == other.size == (1000, 800)
    assert photo.image.size == other.image.size == (80, 64)
    assert_quarters(photo.image, tolerance=6)
    assert_quarters(other.image)


@pytest.mark.slow
@pytest.mark.parametrize(("ending", "megabytes"), [("jpg", 400), ("png", 1000)])
def test_144_megapixels_in_bounded_memory(folder: Path, ending: str, megabytes: int) -> None:
    """The peak beyond what the imports took. A PNG is decoded whole, at 4 bytes a pixel."""
    resource = pytest.importorskip("resource")
    assert resource
    image = Image.effect_noise((1500, 1500), 60).convert("RGB").resize((12_000, 12_000))
    options = {"quality": 85} if ending == "jpg" else {"compress_level": 1}
    image.save(folder / f"a.{ending}", **options)
    code = (
        "import sys, resource; from pathlib import Path; from rpo.data.photo import read_photo;"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10; before = peak();"
        "photo = read_photo(Path(sys.argv[1])); print(peak() - before, *photo.image.size)"
    )
    command = [sys.executable, "-c", code, str(folder / f"a.{ending}")]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert out[1:] == ["2048", "2048"]
    assert int(out[0]) < megabytes


# Pictures in memory


def test_from_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo = quarters(60, 40)
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = photo.transpose(Image.Transpose.ROTATE_90)
    stored.info["exif"] = exif.tobytes()
    clear = Image.new("RGBA", (40, 40), (9, 9, 9, 0))
    subject = Subject.from_images([stored, clear], "corgi  dog", name="my dog")
    assert (subject.noun, subject.kind, subject.name) == ("corgi dog", "live", "my dog")
    assert (subject.paths, subject.names, subject.folder) == ((), ("1", "2"), "")
    assert_quarters(subject.images[0])
    assert subject.images[0].size == (60, 40)
    assert subject.images[1].getpixel((3, 3)) == WHITE
    pixels = hashlib.sha256(b"(60, 40)" + photo.tobytes()).hexdigest()
    assert fingerprints(subject)[0] == {"name": "1", "sha256": pixels}


def test_from_tensors() -> None:
    pixels = np.stack([np.asarray(quarters(40, 40)), np.asarray(flat(BLUE, (40, 40)))])
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    for given in (tensor, list(tensor), tensor.half()):
        subject = Subject.from_images(given, "vase", kind="live")
        assert subject.kind == "live"
        assert_quarters(subject.images[0])
        torch.testing.assert_close(subject.tensor(40), tensor * 2 - 1)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "only 0; add more"),
        ([quarters()], "only 1; add more"),
        ([quarters(), quarters()], "image 2: the same as image 1"),
        ([quarters(), "a.png"], "image 2: neither a PIL image nor a tensor, but str"),
        ([quarters(), flat(RED, (31, 99))], "image 2: smaller than 32 pixels"),
        (torch.rand(2, 64, 64), r"image 1: a tensor must be \(3, H, W\), not \(64, 64\)"),
        (torch.rand(2, 4, 64, 64), r"image 1: a tensor must be \(3, H, W\)"),
        (torch.rand(2, 3, 0, 64), r"image 1: a tensor must be \(3, H, W\)"),
        (torch.rand(2, 3, 64, 64) * 255, "floats from 0 to 1; divide by 255"),
        (torch.rand(2, 3, 64, 64) - 0.5, "floats from 0 to 1"),
        (torch.full((2, 3, 64, 64), math.nan), "floats from 0 to 1"),
        (torch.zeros(2, 3, 64, 64, dtype=torch.uint8), "floats from 0 to 1"),
    ],
)
def test_pictures_in_memory_that_are_refused(images: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Subject.from_images(images, "dog")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", " ", "..", "a/b", "a\nb", "x" * 61])
def test_the_name_of_pictures_in_memory_must_name_a_folder(name: str) -> None:
    with pytest.raises(UserError, match="name .* give one that can name a folder"):
        Subject.from_images([quarters(), flat(RED)], "dog", name=name)


def subject_of(*images: Image.Image) -> Subject:
    return Subject("dog", images, tuple(Path(f"{i}.png") for i in range(len(images))), "live", "x")


def test_tensor_values_shape_and_order() -> None:
    tensor = subject_of(flat((255, 0, 51)), flat(BLUE, (40, 64))).tensor(24)
    assert tensor.shape == (2, 3, 24, 24)
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous()
    expected = torch.tensor([[1.0, -1.0, -0.6], [-1.0, -1.0, 1.0]])  # 51 / 127.5 - 1 = -0.6
    torch.testing.assert_close(tensor, expected[:, :, None, None].expand(2, 3, 24, 24))


def test_tensor_is_the_centre_square_the_right_way_up() -> None:
    wide = Image.new("RGB", (12, 4), RED)
    wide.paste(quarters(4, 4), (4, 0))
    tall = wide.transpose(Image.Transpose.TRANSPOSE)
    first, second = subject_of(wide, tall).tensor(4)
    square = np.asarray(quarters(4, 4))  # 4 pixels to 4 pixels: nothing is resampled
    expected = torch.tensor(square, dtype=torch.float32).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(first, expected)
    torch.testing.assert_close(second, expected.transpose(1, 2))


def test_tensor_resizes_by_lanczos_with_antialiasing() -> None:
    """Halving 8 pixels: output j is a sum of all inputs within 6 of 2j + 1, weighted by sinc."""
    line = np.array([0, 0, 0, 255, 0, 0, 0, 0], np.uint8)
    image = Image.fromarray(np.repeat(line[None, :, None], 8, axis=0).repeat(3, axis=2))
    (found,) = subject_of(image).tensor(4)

    def lanczos(x: float) -> float:
        return float(np.sinc(x) * np.sinc(x / 3)) if abs(x) < 3 else 0.0

    expected = []
    for j in range(4):
        weights = [lanczos((i + 0.5 - (2 * j + 1)) / 2) for i in range(8)]
        level = min(max(255 * weights[3] / math.fsum(weights), 0), 255)
        expected.append(level / 127.5 - 1)
    target = torch.tensor(expected).expand(3, 4, 4)
    torch.testing.assert_close(found, target, atol=1.01 / 127.5, rtol=0)  # rounded twice
    assert expected[1] > -0.4 > expected[2]  # the stroke is seen where it is


def test_tensor_size_must_be_positive() -> None:
    with pytest.raises(ValueError, match="size must be >= 1"):
        subject_of(flat(RED)).tensor(0)


# The whole


def test_importing_the_module_registers_nothing() -> None:
    code = "import rpo.data.subject, sys; sys.exit('pillow_heif' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(not DREAMBENCH.is_dir(), reason="the DreamBench photos are not here")
def test_real_photos() -> None:
    subject = Subject.from_folder(DREAMBENCH / "dog", "dog")
    assert 4 <= len(subject.images) <= 6
    assert subject.kind == "live"
    tensor = subject.tensor(64)
    assert tensor.min() >= -1
    assert tensor.max() <= 1
    assert tensor.std(dim=(1, 2, 3)).min() > 0.1
