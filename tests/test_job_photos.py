"""What a job takes from its subject: what was read, once, whatever becomes of the files."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from jobs import World, break_off, results, save_photos
from PIL import Image

import rpo
from rpo.cli import commands as cli
from rpo.data.subject import Subject
from rpo.errors import UserError
from rpo.events import StepDone


def photos_of(run: Path) -> dict[str, Any]:
    subject = json.loads((run / "environment.json").read_text(encoding="utf-8"))["subject"]
    return {photo["name"]: photo["sha256"] for photo in subject["photos"]}


def test_photos_replaced_between_loading_and_start_leave_no_wrong_record(
    world: World, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(world.photos, folder)
    read = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    subject = Subject.from_folder(folder, "dog")
    (folder / "0.png").unlink()
    os.mkfifo(folder / "0.png")  # to read it would wait for ever
    Image.new("RGB", (64, 64), "red").save(folder / "1.png")
    (folder / "2.png").unlink()
    out = tmp_path / "run"
    options = {"model": str(world.model), "settings": world.settings(steps=2)}
    rpo.train(subject, out=out, **options)
    assert photos_of(out) == read
    with pytest.raises(UserError, match=r"0\.png: no file, whatever its name says; remove it"):
        Subject.from_folder(folder, "dog")


def test_pictures_in_memory_are_the_same_job(world: World, tmp_path: Path) -> None:
    from_files = Subject.from_folder(world.photos, "dog")
    in_memory = Subject.from_images(list(from_files.images), "dog", name="mine")
    options = {"model": str(world.model), "settings": world.settings(steps=2)}
    one = rpo.train(from_files, out=tmp_path / "one", **options)
    two = rpo.train(in_memory, out=tmp_path / "two", **options)

    def pictures(run: Any) -> dict[str, bytes]:
        return {n: d for n, d in results(run.path).items() if not n.startswith("images/photos")}

    names = {name for name in pictures(one) if name.endswith((".png", ".safetensors"))}
    assert len(names) > 10
    assert {n: pictures(two)[n] for n in names} == {n: pictures(one)[n] for n in names}
    assert list(photos_of(two.path)) == ["1", "2", "3"]
    assert (two.path / "report.html").is_file()


def test_pictures_in_memory_resume_with_the_same_ones_only(world: World, tmp_path: Path) -> None:
    images = Subject.from_folder(world.photos, "dog").images
    out = tmp_path / "run"
    options = {"model": str(world.model), "out": out, "settings": world.settings(steps=2)}
    events = rpo.iterate(Subject.from_images(images, "dog"), **options)
    for event in events:
        if isinstance(event, StepDone):
            break
    events.close()
    others = Subject.from_images(images[::-1], "dog")
    with pytest.raises(UserError, match="the photos are not those"):
        next(rpo.iterate(others, resume=True, **options))
    assert rpo.train(Subject.from_images(images, "dog"), resume=True, **options).finished


def test_photos_of_any_name_train(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / ("\x1b[2J\n" + "ü" * 100)
    save_photos(folder, 4)
    names = ("\x1b[31m.png", "a\nb.png", "<b>&.png", os.fsdecode(b"\xe9.png"))
    for old, new in zip(sorted(folder.iterdir()), names, strict=True):
        old.rename(folder / new)
    out = tmp_path / "run"
    assert cli.run(["train", str(folder), *world.flags(steps=2), "--out", str(out)]) == 0
    text = "".join(capsys.readouterr())
    assert "\x1b[2J" not in text
    assert "\x1b[31m" not in text
    assert sorted(photos_of(out)) == ["<b>&.png", "\\udce9.png", "\\x1b[31m.png", "a\\nb.png"]
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "<b>&" not in report
    assert "&lt;b&gt;&amp;.png" in report


def test_what_a_broken_off_run_recorded_is_what_was_read(world: World, tmp_path: Path) -> None:
    break_off(world, tmp_path / "run", StepDone, 1, steps=2)
    assert photos_of(tmp_path / "run") == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in world.photos.iterdir()
    }
