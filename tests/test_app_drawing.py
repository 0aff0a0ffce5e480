"""Drawing for the page: the process that keeps a model, and what pictures say of themselves."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from app_home import make_run
from PIL import Image

from rpo.app import drawing
from rpo.app.drawing import BASE_FOLDER, FOLDER, Drawer, Wish
from rpo.app.generated import command, drawn_by
from rpo.app.home import Home
from rpo.errors import UserError
from rpo.runs.pictures import save_generated

ECHO = """
import json, os, sys
for line in sys.stdin:
    wish = json.loads(line)
    if wish["prompt"] == "die":
        os._exit(1)
    if wish["prompt"] == "fail":
        print(json.dumps({"error": "steps must be >= 1"}), flush=True)
        continue
    print(json.dumps({"done": 1, "total": 2}), flush=True)
    print(json.dumps({"done": os.getpid(), "total": 2}), flush=True)
    print(json.dumps({"files": []}), flush=True)
"""


@pytest.fixture
def drawer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Drawer:
    """With a process that answers at once, in place of the one that draws."""
    script = tmp_path / "python"
    script.write_text(f"#!{sys.executable}\n{ECHO}")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    return Drawer()


@pytest.mark.skipif(os.name == "nt", reason="a script with #! stands for Python")
def test_one_process_answers_until_it_is_idle(
    drawer: Drawer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = list(drawer.draw(Wish("run", "a dog")))
    assert first[0] == (1, 2)
    assert list(drawer.draw(Wish("run", "a dog"))) == first  # by the same process
    with pytest.raises(UserError, match="steps must be"):
        list(drawer.draw(Wish("run", "fail")))
    assert list(drawer.draw(Wish("run", "a dog"))) == first  # which a wrong wish does not end
    drawer.tick()
    assert drawer._process is not None
    monkeypatch.setattr(drawing, "IDLE", -1.0)
    drawer.tick()
    assert drawer._process is None


@pytest.mark.skipif(os.name == "nt", reason="a script with #! stands for Python")
def test_a_process_that_dies_is_told_and_replaced(drawer: Drawer) -> None:
    with pytest.raises(UserError, match="broken off"):
        list(drawer.draw(Wish("run", "die")))
    half = drawer.draw(Wish("run", "a dog"))
    assert next(half) == (1, 2)
    half.close()  # the browser has left: its answers must not reach the next one
    again = list(drawer.draw(Wish("run", "a dog")))
    assert again[0] == (1, 2)
    assert len(again) == 2
    drawer.close()


def test_pictures_are_read_back_with_their_settings(tmp_path: Path) -> None:
    home = Home.at(tmp_path / "runs")
    run = make_run(home.root, "dog-1")
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    texts = [
        {"prompt": "a dog", "seed": seed, "steps": 2, "guidance_scale": 5.0} for seed in (0, 1)
    ]
    save_generated([red, red], run / FOLDER, "a dog", texts)
    save_generated([blue], run / BASE_FOLDER, "a dog", texts[1:])
    (run / FOLDER / "0009-broken.png").write_bytes(b"no picture")
    (run / FOLDER / "0008-link.png").symlink_to(run / FOLDER / "0001-a-dog.png")
    newest, oldest = drawn_by(home, "dog-1")
    assert newest.file == "generated/0002-a-dog.png"
    assert newest.texts["seed"] == "1"
    assert newest.base == "generated-base/0001-a-dog.png"  # that of the same seed
    assert oldest.base == ""
    with pytest.raises(UserError):
        drawn_by(home, "../dog-1")


def test_the_command_line_draws_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wish = Wish("x", 'a "[V] dog"; rm -rf ~', 2, 7, 30, 5.5)
    monkeypatch.chdir(tmp_path)
    assert command(Path("/elsewhere/dog 1"), wish) == (
        "rpo generate '/elsewhere/dog 1' 'a \"[V] dog\"; rm -rf ~' -n 2 --seed 7 --steps 30 "
        "--guidance 5.5"
    )
    assert command(tmp_path / "runs" / "dog-1", Wish("x", "y")) == (
        "rpo generate runs/dog-1 y -n 1 --seed 0"
    )


def test_a_wish_outlives_its_way_as_json() -> None:
    wish = Wish("run", "a [V] dog", 2, 3, None, 5.0, True)
    assert Wish(**json.loads(json.dumps(wish.__dict__))) == wish
