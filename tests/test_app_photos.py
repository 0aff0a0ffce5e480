"""Photos that are dropped onto the page: taken in, judged, cut, and kept within bounds."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from rpo.app.home import Home
from rpo.app.photos import MOST_PHOTOS, Collection, Crop
from rpo.errors import UserError


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.at(tmp_path / "runs")


@pytest.fixture
def collection(home: Home) -> Collection:
    return Collection.new(home)


def photo(number: int, size: tuple[int, int] = (320, 300)) -> Image.Image:
    picture = Image.effect_noise(size, 90).convert("RGB")
    shade = (40 * number % 255, 90 * number % 255, 150)
    ImageDraw.Draw(picture).rectangle((30 * number, 20, 30 * number + 90, 200), fill=shade)
    return picture


def upload(home: Home, name: str, data: bytes) -> Path:
    """A file as Gradio leaves it."""
    folder = home.uploads / f"{len(list(home.uploads.iterdir())):064d}"
    folder.mkdir()
    (folder / name).write_bytes(data)
    return folder / name


def png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that says it is side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checked = kind + data
        return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
    return start + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_photos_are_taken_in_judged_and_handed_over(home: Home, collection: Collection) -> None:
    drawn = [png(photo(number)) for number in range(3)]
    files = [upload(home, f"{number}.png", data) for number, data in enumerate(drawn)]
    files.append(upload(home, "broken.png", drawn[0][:4000]))
    files.append(upload(home, "twin.png", drawn[1]))
    assert collection.add(files) == []
    assert list(home.uploads.iterdir()) == []  # nothing stays behind
    judged = collection.judge()
    said = {square.name: square.status for square in judged.squares}
    assert said["broken.png"] == said["twin.png"] == "rejected"
    assert judged.usable == 3
    assert judged.problem == ""
    folder = collection.for_training(judged, "dog-1")
    assert sorted(file.name for file in folder.iterdir()) == ["0.png", "1.png", "2.png"]
    for square in judged.squares:
        if square.file:
            assert Image.open(collection.square_file(square.file)).size == (256, 256)


def test_too_few_photos_are_told(home: Home, collection: Collection) -> None:
    assert collection.judge().squares == ()
    collection.add([upload(home, "1.png", png(photo(1)))])
    assert "Add more photos" in collection.judge().problem
    other = Collection.new(home)
    other.add([upload(home, "notes.txt", b"hello")])
    assert "None of these" in other.judge().problem


def test_the_square_of_a_crop_by_hand() -> None:
    assert Crop().box(300, 200) == (50, 0, 250, 200)
    assert Crop(0, 0, 2).box(300, 200) == (0, 0, 100, 100)
    assert Crop(1, 0.5, 2).box(300, 200) == (200, 50, 300, 150)
    assert Crop().centred
    assert not Crop(0.4).centred


def test_a_crop_is_what_is_trained_on(home: Home, collection: Collection) -> None:
    halves = Image.new("RGB", (400, 200), "red")
    halves.paste("blue", (200, 0, 400, 200))
    collection.add([upload(home, "wide.png", png(halves)), upload(home, "b.png", png(photo(1)))])
    before = [square.file for square in collection.judge().squares]
    collection.crop("wide.png", 1, 0.5, 1)
    judged = collection.judge()
    assert [square.file for square in judged.squares] != before  # no browser shows the old one
    folder = collection.for_training(judged, "dog-1")
    cut = Image.open(folder / "wide.png")
    assert cut.size == (200, 200)
    assert cut.getcolors() == [(40_000, (0, 0, 255))]
    original = Image.open(collection.folder / "wide.png")
    assert original.size == (400, 200)
    collection.crop("wide.png", 0.5, 0.5, 1)
    assert collection.crops() == {}


@pytest.mark.parametrize(
    "values", [(2, 0, 1), (0, -1, 1), (0, 0, 0), (0, 0, float("nan")), ("a", 0, 1)]
)
def test_a_crop_outside_the_photo_is_refused(
    values: tuple, home: Home, collection: Collection
) -> None:
    collection.add([upload(home, "1.png", png(photo(1)))])
    with pytest.raises(UserError, match="three numbers"):
        collection.crop("1.png", *values)
    with pytest.raises(UserError, match="none of these"):
        collection.crop("../1.png", 0, 0, 1)


def test_only_what_was_uploaded_is_taken(
    home: Home, collection: Collection, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(photo(1)))
    link = home.uploads / "link.png"
    link.symlink_to(secret)
    up = home.uploads / ".." / ".." / ".." / "secret.png"
    for path in (secret, link, up, Path("/etc/passwd"), Path("secret.png"), home.uploads):
        with pytest.raises(UserError, match="was not sent"):
            collection.add([path])
    assert secret.is_file()
    assert collection.judge().squares == ()


def test_names_become_plain_ones(home: Home, collection: Collection) -> None:
    for name in ("<script>.png", "..png", "a" * 120 + ".png", "x\x1b[31m.png"):
        collection.add([upload(home, name, png(photo(1)))])
    names = {file.name for file in collection.folder.iterdir() if not file.name.startswith(".")}
    assert names == {"script.png", "photo.png", "a" * 60 + ".png", "xx1b31m.png"}


def test_a_zip_gives_its_photos_and_nothing_else(home: Home, collection: Collection) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("holiday/1.png", png(photo(1)))
        archive.writestr("../../../../2.png", png(photo(2)))
        archive.writestr("/etc/3.png", png(photo(3)))
        archive.writestr("C:\\Windows\\4.png", png(photo(4)))
        archive.writestr("__MACOSX/._1.png", b"x")
        archive.writestr("read me.txt", b"x")
        link = zipfile.ZipInfo("link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    collection.add([upload(home, "photos.zip", file.getvalue())])
    names = {path.name for path in collection.folder.iterdir()}
    assert names == {"1.png", "2.png", "3.png", "4.png"}
    assert not (home.root.parent / "2.png").exists()


def test_a_damaged_zip_is_told(home: Home, collection: Collection) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.png", bytes(100_000))
    whole = file.getvalue()
    spoilt = whole[:60] + b"spoilt" + whole[66:]
    assert any("damaged" in line for line in collection.add([upload(home, "a.zip", spoilt)]))


def test_bombs_are_left_out(
    home: Home, collection: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = collection.add([upload(home, "bomb.png", bomb(50_000))])
    assert "megapixels" in told[0]
    monkeypatch.setattr("rpo.app.photos.MOST_BYTES", 100_000)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.png", bytes(50_000_000))  # 50 kB in the zip
    told = collection.add([upload(home, "a.zip", file.getvalue())])
    assert "reduce it" in told[0]
    assert list(collection.folder.iterdir()) == []


def test_there_is_an_end_to_how_many(home: Home, collection: Collection) -> None:
    small = png(Image.new("RGB", (4, 4)))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(10 * MOST_PHOTOS):
            archive.writestr(f"{number}.png", small)
    told = collection.add([upload(home, "many.zip", file.getvalue())])
    assert len(list(collection.folder.iterdir())) == MOST_PHOTOS
    assert "the best are 4 to 6" in told[0]


def test_a_photo_that_is_taken_out_is_in_the_bin(home: Home, collection: Collection) -> None:
    collection.add_bundled("dog")
    name = collection.judge(64).squares[0].name
    collection.remove(name)
    assert name not in {square.name for square in collection.judge(64).squares}
    assert len(list(home.bin.glob(f"*-{name}"))) == 1
    collection.remove("../../x")  # is none of them, and nothing happens
    with pytest.raises(UserError, match="no such example"):
        collection.add_bundled("../secret")
