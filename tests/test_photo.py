"""One photo of whatever kind, as it is read."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest
from photo_files import BLUE, GREEN, RED, assert_quarters, flat, only, quarters, read
from PIL import Image, ImageFile, ImageOps

from rpo.data import photo as photo_module
from rpo.data.subject import check_folder

pytestmark = pytest.mark.usefixtures("no_remarks_on_content")


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
    monkeypatch.setattr(photo_module, "_STRIP_PIXELS", 300 * 100)
    assert only(folder).status == "ok"
    assert not recwarn.list


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
