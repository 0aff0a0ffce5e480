"""beside.py: captions, masks and boxes, from their files to the run that is made of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from jobs import World, contents, make_world, results
from PIL import Image

import rpo
from rpo.cli import commands as cli
from rpo.config import PhotosConfig
from rpo.data import photo as photo_module
from rpo.data.contact_sheet import contact_sheet
from rpo.data.crops import Square
from rpo.data.subject import Subject, check_folder
from rpo.errors import UserError
from rpo.events import Started, StepDone

SUBJECT = PhotosConfig(crop="subject")
MASKED = PhotosConfig(unmasked_weight=0.0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def photos(world: World, tmp_path: Path) -> Path:
    """Three photos of 80 x 60."""
    return shutil.copytree(world.photos, tmp_path / "photos")


def paint(folder: Path, box: tuple[int, int, int, int], names: str = "012") -> None:
    """Masks that are white in a box."""
    (folder / "masks").mkdir(exist_ok=True)
    mask = Image.new("L", (80, 60))
    mask.paste(255, box)
    for name in names:
        mask.save(folder / "masks" / f"{name}.png")


def test_nothing_beside_the_photos_changes_a_thing_unless_it_is_asked_for(photos: Path) -> None:
    plain = Subject.from_folder(photos, "dog")
    paint(photos, (50, 0, 80, 60))
    (photos / "boxes.toml").write_text('"1.png" = [0, 0, 9, 9]')
    found = Subject.from_folder(photos, "dog").arranged(PhotosConfig())
    assert torch.equal(found.tensor(32), plain.tensor(32))
    assert found.weights(32) is plain.weights(32) is None
    assert found.beside == plain.beside
    assert found.photo_prompts("[V]") == ()
    assert [check.status for check in check_folder(photos, 32)] == ["ok"] * 3


def test_the_square_is_around_the_box_or_else_the_mask(photos: Path) -> None:
    paint(photos, (60, 20, 70, 40))  # its middle at 65: 60 wide, no further right than 20
    (photos / "boxes.toml").write_text('"1.png" = [30, 0, 40, 9]\n"2.png" = [0, 0, 80, 60]')
    subject = Subject.from_folder(photos, "dog").arranged(SUBJECT)
    assert subject.squares == (Square(20, 0, 60), Square(5, 0, 60), Square(0, -10, 80))
    weights = subject.weights(80)
    assert weights is not None
    assert (weights[:2] == 1).all()
    assert weights[2, 0, 10:70].min() == 1
    assert weights[2, 0, :10].max() == weights[2, 0, 70:].max() == 0


def test_a_large_photo_and_its_box_are_reduced_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photo_module, "KEPT_SIDE", 100)
    pixels = np.random.default_rng(0).integers(0, 255, (2, 300, 400, 3), dtype=np.uint8)
    images = [Image.fromarray(p) for p in pixels]
    for k, image in enumerate(images):
        image.save(tmp_path / f"{k}.png")
    boxes = [[200, 0, 400, 300], [0, 150, 200, 300]]
    lines = (f'"{k}.png" = {box}' for k, box in enumerate(boxes))
    (tmp_path / "boxes.toml").write_text("\n".join(lines))
    read, made = (
        Subject.from_folder(tmp_path, "dog"),
        Subject.from_images(images, "dog", boxes=boxes),
    )
    for subject in (read, made):
        first = subject.beside[0].box
        assert first == pytest.approx((200 / 3, 0, 400 / 3, 100), rel=0.01)
        squares = subject.arranged(SUBJECT).squares
        assert [square.left for square in squares] == pytest.approx([33, 0], abs=1.1)


def test_masks_weigh_the_square(photos: Path) -> None:
    paint(photos, (40, 0, 80, 60))
    settings = PhotosConfig(unmasked_weight=0.25)
    weights = Subject.from_folder(photos, "dog").arranged(settings).weights(60)
    assert weights is not None
    assert weights.shape == (3, 1, 60, 60)  # of the columns 10 to 70
    assert (weights[..., :30] == 0.25).all()
    assert (weights[..., 30:] == 1).all()


def test_what_is_asked_for_and_missing_is_one_line(photos: Path) -> None:
    subject = Subject.from_folder(photos, "dog")
    unknown = r"photos/0\.png: crop subject does not know where its subject is; give a mask in mas"
    with pytest.raises(UserError, match=unknown):
        subject.arranged(SUBJECT)
    with pytest.raises(UserError, match=r"0\.png: photos.unmasked_weight needs its mask; put it"):
        subject.arranged(MASKED)
    paint(photos, (0, 0, 5, 60), "02")
    subject = Subject.from_folder(photos, "dog")
    with pytest.raises(UserError, match=r"1\.png: crop subject does not know"):
        subject.arranged(SUBJECT)
    outside = r"0\.png: nothing that its mask keeps lies in its square; use crop subject"
    with pytest.raises(UserError, match=outside):
        subject.arranged(MASKED)
    paint(photos, (0, 0, 5, 60), "1")
    subject = Subject.from_folder(photos, "dog")
    for settings in (
        PhotosConfig(crop="subject", unmasked_weight=0.0),
        PhotosConfig(crop="none", unmasked_weight=0.0),
        PhotosConfig(unmasked_weight=0.01),
    ):
        weights = subject.arranged(settings).weights(32)
        assert weights is not None
        assert weights.sum(dim=(1, 2, 3)).min() > 0


def test_captions_are_prompts(photos: Path) -> None:
    (photos / "0.TXT").write_text("\ufeffa photo of {}\n  at sea ", encoding="utf-8")
    (photos / "2.txt").write_text("a blue {}")
    subject = Subject.from_folder(photos, "dog")
    prompts = ("a photo of [V] dog at sea", "", "a blue [V] dog")
    assert subject.arranged(PhotosConfig()).photo_prompts("[V]") == prompts
    assert subject.arranged(PhotosConfig(captions=False)).photo_prompts("[V]") == ()
    with pytest.raises(UserError, match=r'2\.png: its caption: identifier "blue" already stands'):
        subject.photo_prompts("blue")
    (photos / "1.txt").write_text("a photo of sks dog")
    subject = Subject.from_folder(photos, "dog")
    with pytest.raises(UserError, match=r"1\.png: its caption 1\.txt: must hold exactly one {}"):
        subject.arranged(PhotosConfig())
    subject.arranged(PhotosConfig(captions=False))


def test_pictures_in_memory_take_the_same(photos: Path) -> None:
    paint(photos, (40, 0, 80, 60))
    (photos / "1.txt").write_text("a {} at sea")
    (photos / "boxes.toml").write_text('"2.png" = [0, 0, 20, 20]')
    settings = PhotosConfig(crop="subject", unmasked_weight=0.5)
    read = Subject.from_folder(photos, "dog")
    mask = torch.zeros(60, 80)
    mask[:, 40:] = 1
    made = Subject.from_images(
        read.images,
        "dog",
        captions=[None, "a {} at sea", None],
        masks=[mask, Image.fromarray((mask * 255).byte().numpy()), mask.double()],
        boxes=[None, None, (0, 0, 20, 20)],
    )
    one, two = read.arranged(settings), made.arranged(settings)
    assert torch.equal(one.tensor(32), two.tensor(32))
    assert torch.equal(one.weights(32), two.weights(32))  # type: ignore[arg-type]
    assert one.photo_prompts("[V]") == two.photo_prompts("[V]") == ("", "a [V] dog at sea", "")
    two_of_three = {"captions": ["{}"], "masks": [mask] * 2, "boxes": [None] * 4}
    for name, values in two_of_three.items():
        with pytest.raises(UserError, match=f"{name}: . for 3 images; give one or None each"):
            Subject.from_images(read.images, "dog", **{name: values})  # type: ignore[arg-type]
    wrong = {"captions": ["no place"] * 3, "masks": [mask + 1] * 3, "boxes": [[0, 0, 99, 9]] * 3}
    for name, values in wrong.items():
        with pytest.raises(UserError, match=f"image 1: its {name[:3]}"):
            Subject.from_images(read.images, "dog", **{name: values})  # type: ignore[arg-type]


def test_the_sheet_shows_crop_and_mask(photos: Path) -> None:
    for k in range(3):
        Image.new("RGB", (160, 80), (0, 200 + k, 0)).save(photos / f"{k}.png")
    (photos / "masks").mkdir()
    mask = Image.new("L", (160, 80))
    mask.paste(255, (120, 0, 160, 80))
    for k in range(3):
        mask.save(photos / "masks" / f"{k}.png")
    settings = PhotosConfig(crop="subject", unmasked_weight=0.5)  # the square: 80 to 160
    checks = check_folder(photos, 32, settings)
    sheet = contact_sheet(checks, 160, settings)
    row = [sheet.getpixel((10 + x, 10 + 80)) for x in (40, 100, 140)]
    assert row[2] == (0, 200, 0)
    # what counts a half is 0.6 * 0.5 red: (77, 140, 0); what lies outside is 0.7 grey
    assert np.abs(np.subtract(row[1], (0.3 * 255, 0.7 * 200, 0))).max() <= 1
    assert np.abs(np.subtract(row[0], (0.7 * 221, 0.3 * 200 + 0.7 * 221, 0.7 * 221))).max() <= 1
    whole = contact_sheet(check_folder(photos, 32, PhotosConfig(crop="none")), 160)
    assert {whole.getpixel((10 + x, 10 + 80)) for x in (2, 80, 157)} == {(0, 200, 0)}


def test_the_check_says_what_each_photo_has(
    photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.run(["check", str(photos)]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["photo", "size", "remark"]
    paint(photos, (40, 0, 80, 60))
    (photos / "1.txt").write_text("a {} at sea")
    (photos / "boxes.toml").write_text('"2.png" = [0, 0, 20, 20]')
    flags = ["--crop", "subject", "--set", "photos.unmasked_weight=0.1"]
    assert cli.run(["check", str(photos), *flags, "--sheet", str(photos.parent / "s.png")]) == 0
    head, *rows = capsys.readouterr().out.splitlines()[:4]
    assert head.split() == ["photo", "size", "crop", "mask", "caption", "remark"]
    assert "around its mask  the rest counts 0.1" in rows[0]
    assert "a {} at sea" in rows[1]
    assert "around its box" in rows[2]
    (photos / "masks" / "0.png").unlink()
    assert cli.run(["check", str(photos), *flags]) == cli.WRONG_INPUT
    out, err = capsys.readouterr()
    assert "1 of 3 photos cannot be used" in err
    assert "does not know where its" in out
    assert cli.run(["check", str(photos), "--crop", "middle"]) == cli.WRONG_INPUT
    assert "photos.crop must be one of centre, subject, none" in capsys.readouterr().err


def test_a_run_records_them_and_resumes_with_them(
    world: World, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paint(photos, (40, 0, 80, 60))
    (photos / "1.txt").write_text("a {} at sea")
    flags = [*world.flags(steps=2), "--set", "photos.unmasked_weight=0.1"]
    whole = tmp_path / "whole"
    begin = ["train", str(photos), *flags, "--crop", "none", "--out"]
    assert cli.run([*begin, str(whole)]) == 0
    told = capsys.readouterr().err
    assert "photos prompts: a photo of [V] dog; a [V] dog at sea; a photo of [V] dog" in told
    recorded = json.loads((whole / "environment.json").read_text(encoding="utf-8"))
    second = recorded["subject"]["photos"][1]
    assert second["caption"] == "a {} at sea"
    assert len(second["mask"]) == 64
    assert {*recorded["subject"]["photos"][0]} == {"name", "sha256", "mask"}
    report = (whole / "report.html").read_text(encoding="utf-8")
    assert "upright, the whole photo on plain ground, at" in report
    assert "1.png: a {} at sea" in report
    told_by = "a photo of [V] dog", "a [V] dog at sea", "a photo of [V] dog"
    assert "".join(f"<li>{prompt}</li>" for prompt in told_by) in report
    square = np.asarray(Image.open(next((whole / "images" / "photos").glob("01-*.png"))))
    size = len(square)
    assert size * 7 // 8 - 1 > size // 2  # 80 x 60: an eighth of ground above and below
    assert (square[0] == square[size // 8 - 1]).all()

    out = tmp_path / "run"
    subject = Subject.from_folder(photos, "dog")
    settings = [*world.settings(steps=2), "photos.unmasked_weight=0.1"]
    options = {"model": str(world.model), "settings": settings, "photos": {"crop": "none"}}
    events = rpo.iterate(subject, out=out, **options)  # type: ignore[arg-type]
    for event in events:
        if isinstance(event, Started):
            assert event.photo_prompts == ("", "a [V] dog at sea", "")
        if isinstance(event, StepDone):
            break
    events.close()
    kept = contents(out)
    mask = photos / "masks" / "2.png"
    data = mask.read_bytes()
    paint(photos, (30, 0, 80, 60), "2")
    go_on = ["train", str(photos), "--noun", "dog", "--out", str(out), "--resume", "--quiet"]
    assert cli.run(go_on) == cli.WRONG_INPUT
    assert "--resume: the captions, masks or boxes of the photos are not" in capsys.readouterr().err
    mask.write_bytes(data)
    assert cli.run([*go_on, "--crop", "centre"]) == cli.WRONG_INPUT
    assert "was made with photos.crop = 'none', not 'centre'" in capsys.readouterr().err
    assert contents(out) == kept
    assert cli.run(go_on) == 0
    assert results(out) == results(whole)


def test_a_bad_caption_is_refused_before_anything_is_written(
    world: World, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "1.txt").write_text("a {} " + "and so on " * 90)
    out = tmp_path / "run"
    begin = ["train", str(photos), *world.flags(steps=2), "--out", str(out)]
    assert cli.run(begin) == cli.WRONG_INPUT
    assert "prompt" in capsys.readouterr().err  # the model's text encoder would cut it off
    (photos / "1.txt").write_bytes(b"\0\1")
    assert cli.run(begin) == cli.WRONG_INPUT
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "1.png: its caption 1.txt: holds control characters" in error
    assert not out.exists()
