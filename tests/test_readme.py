"""Every command and every line of Python in the README runs.

The trainings are shortened by appended settings; what a reader types is otherwise run as it
stands, one block after the other, in a folder that holds five photos. `make` targets set up a
virtual environment of their own, so here only what they call is compared.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from rpo.about import ASSETS
from rpo.cli import commands as cli

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
SHORT = ["training.steps=2", "validation.every=2", "validation.steps=2", "sampling.steps=2"]
TRAINING = ("demo", "train")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def commands() -> list[str]:
    whole = [block.replace("\\\n", " ") for block in blocks("bash")]
    lines = [line for block in whole for line in block.splitlines()]
    return [shlex.join(shlex.split(line, comments=True)) for line in lines if line.strip()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with photos/, and a hub cache in which nothing lies."""
    shutil.copytree(ASSETS / "emojiland/subjects/dog", tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    return tmp_path


def test_make_targets_are_there_and_call_what_the_readme_says() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [line.split()[1] for line in commands() if line.startswith("make ")]
    assert targets == ["demo", "test"]
    assert re.search(r"^demo: setup\n\t\$\(BIN\)/rpo demo$", makefile, flags=re.MULTILINE)
    assert re.search(r"^test: setup\n\t.*pytest", makefile, flags=re.MULTILINE)


def test_rpo_commands_run(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ran = 0
    for line in commands():
        program, *words = shlex.split(line)
        if program != "rpo":
            assert program in ("make", "pip"), line
            continue
        if words[0] in TRAINING:
            words += [word for setting in SHORT for word in ("--set", setting)]
        code = cli.run(words)
        said = capfd.readouterr()
        if "--model" in words:  # not on this machine: one line that says what to fetch
            assert code == 2, line
            assert f"hf download {words[words.index('--model') + 1]}" in said.err
        else:
            assert code == 0, (line, said.err)
        ran += 1
    assert ran == 13
    assert (folder / "runs/photos-1/report.html").is_file()
    assert (folder / "runs/photos-1/images/overview.png").is_file()
    assert len(list((folder / "runs/photos-1/images/generated").glob("*.png"))) == 4


def test_python_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import rpo

    whole = rpo.train
    monkeypatch.setattr(rpo, "train", lambda *a, **k: whole(*a, **k, settings=SHORT))
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    assert (folder / "moon.png").is_file()


def test_every_file_in_the_map_exists() -> None:
    named = re.findall(r"`((?:src|emojiland|benchmarks|docs)/[^`]*)`", TEXT)
    assert len(named) > 15
    assert [name for name in named if not (ROOT / name).exists()] == []
