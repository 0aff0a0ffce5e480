"""contact_sheet.py: what stands where, in which colour, and within its tile."""

from __future__ import annotations

from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from PIL import Image, ImageChops, ImageFont

from rpo.data import contact_sheet as module
from rpo.data.contact_sheet import contact_sheet
from rpo.data.subject import PhotoCheck, check_folder

GREEN, BLUE = (0, 255, 0), (0, 0, 255)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "Süße Hündin, 2"
    path.mkdir()
    return path


def test_contact_sheet(folder: Path) -> None:
    Image.new("RGB", (300, 300), GREEN).save(folder / "1 größer.png")
    Image.new("RGB", (31, 31), BLUE).save(folder / "2.png")
    (folder / "3.jpg").write_bytes(b"")
    (folder / "4.dng").write_bytes(b"II*\0")
    tile, margin = 160, 10
    sheet = contact_sheet(check_folder(folder), tile)
    assert sheet.mode == "RGB"
    assert sheet.width == 4 * (tile + margin) + margin
    assert sheet.height > tile + 2 * margin

    def centre(column: int, dx: int = 0) -> tuple[int, ...]:
        x = margin + column * (tile + margin) + tile // 2 + dx
        return sheet.getpixel((x, margin + tile // 2))

    cross = (0xC4, 0x16, 0x1C)
    assert centre(0) == GREEN
    assert centre(1) == cross
    assert centre(1, dx=40) == BLUE
    assert centre(2) == cross
    assert centre(2, dx=40) == (0xDD, 0xDD, 0xDD)
    assert centre(3) == (0xDD, 0xDD, 0xDD)  # ignored: empty, and not crossed out


def test_what_training_will_not_see_is_faded(folder: Path) -> None:
    Image.new("RGB", (320, 160), GREEN).save(folder / "1.png")  # its square: the middle 160
    sheet = contact_sheet(check_folder(folder), tile=160)
    # in the tile: 160 x 80, the square from 40 to 120; the margin is 10
    row = [sheet.getpixel((10 + x, 10 + 80)) for x in (20, 60, 100, 140)]
    faded = (round(0.7 * 0xDD), round(0.3 * 255 + 0.7 * 0xDD), round(0.7 * 0xDD))
    assert row[1] == row[2] == GREEN
    for pixel in (row[0], row[3]):
        assert max(abs(a - b) for a, b in zip(pixel, faded, strict=True)) <= 1


def test_a_name_with_a_newline_stays_on_its_line(folder: Path) -> None:
    checks = [PhotoCheck(folder / "a\nb\x1b.png", "ok", None, "")]
    assert module._label(checks[0], module._font(12), 500) == ["a\\nb\\x1b.png"]
    assert contact_sheet(checks).mode == "RGB"


def test_every_status_has_its_colour() -> None:
    statuses = get_args(get_type_hints(PhotoCheck)["status"])
    assert set(module._LABEL_COLOURS) == set(statuses) >= {"ok", "ignored"}


def test_contact_sheet_labels_are_inside_their_tile(folder: Path) -> None:
    path = folder / ("a long name " * 20 + ".png")
    message = "word " * 100 + "w" * 300
    labelled = contact_sheet([PhotoCheck(path, "rejected", None, message)], tile=120)
    bare = contact_sheet([PhotoCheck(Path(" "), "rejected", None, "")], tile=120)
    assert labelled.size == bare.size
    left, top, right, bottom = ImageChops.difference(labelled, bare).getbbox()
    assert left >= 7 - 1  # the margin is 120 // 16
    assert right <= 7 + 120 + 1
    assert top >= 7 + 120
    assert bottom <= labelled.height


@pytest.mark.parametrize("built_in", ["load_default", "load_default_imagefont"])
def test_labels_without_a_font_of_the_system(
    monkeypatch: pytest.MonkeyPatch, built_in: str
) -> None:
    def missing(name: str, size: float) -> None:
        raise OSError("cannot open resource")

    basic = getattr(ImageFont, built_in)()  # drawn by FreeType where there is one, or a bitmap
    monkeypatch.setattr(ImageFont, "truetype", missing)
    monkeypatch.setattr(ImageFont, "load_default", lambda size: basic)
    font = module._font(12)
    assert module._shortened("größer 犬.jpg", font, 500) == "gro?er ?.jpg"
    assert contact_sheet([PhotoCheck(Path("größer 犬.jpg"), "ok", None, "")]).mode == "RGB"


def test_contact_sheet_wraps_after_five(folder: Path) -> None:
    checks = [PhotoCheck(folder / f"{i}.jpg", "ok", None, "") for i in range(6)]
    five, six = contact_sheet(checks[:5], tile=50), contact_sheet(checks, tile=50)
    assert six.width == five.width
    assert six.height > 1.8 * five.height
    with pytest.raises(ValueError, match="no checks"):
        contact_sheet([])
