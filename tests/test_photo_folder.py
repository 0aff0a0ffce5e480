"""Which files of a folder are photos: names, order, doubles, and what is said of them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from photo_files import BLUE, RED, flat, only, quarters
from PIL import Image

from rpo.data.contact_sheet import contact_sheet
from rpo.data.subject import Subject, check_folder
from rpo.errors import UserError
from rpo.runs.environment import fingerprints

pytestmark = pytest.mark.usefixtures("no_remarks_on_content")


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
