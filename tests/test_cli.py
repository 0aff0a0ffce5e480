"""The `rpo` command: wrong input is one line, help, and the commands that train nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from jobs import (
    World,
    contents,
    save_photos,
)
from PIL import Image

import rpo
from rpo.cli import commands as cli
from rpo.config import SETTINGS
from rpo.data import bundled
from rpo.models.resolve import known_presets

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_check(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["check", str(world.photos), "--sheet", "sheet.png"]) == 0
    assert "0.png" in capsys.readouterr().out
    with Image.open("sheet.png") as sheet:
        assert sheet.width > 160
    assert cli.run(["check", str(world.photos), "--sheet", "sheet.png"]) == cli.WRONG_INPUT
    assert cli.run(["check", str(world.photos), "--sheet", "sheet.txt"]) == cli.WRONG_INPUT
    assert cli.run(["check", str(world.photos), "--sheet", "no/sheet.png"]) == cli.WRONG_INPUT
    save_photos(tmp_path / "photos")
    (tmp_path / "photos" / "bad.jpg").write_text("just words")
    capsys.readouterr()
    assert cli.run(["check", str(tmp_path / "photos")]) == cli.WRONG_INPUT
    out, err = capsys.readouterr()
    assert "rejected" in out
    assert "1 of 4 photos" in err


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["info"]) == 0
    assert f"torch             {torch.__version__}" in capsys.readouterr().out
    assert cli.run(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["rpo"] == rpo.__version__
    assert set(found) == {"versions", "hardware", "models", "cache"}


def test_settings_lists_all_of_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.run(["settings"]) == 0
    out = capsys.readouterr().out
    for key, setting in SETTINGS.items():
        (line,) = [
            line for line in out.splitlines() if line.split()[:1] == [key] and "=" not in line
        ]
        assert setting.help in line
        assert str(setting.default) in line
    for preset in known_presets().settings:
        assert f"--preset {preset}: " in out
    assert "  validation.patience = 3" in out


# --- wrong input -------------------------------------------------------------------------


def _cases(world: World, place: Path) -> dict[str, list[str]]:
    """Command lines that must be refused, by what is wrong with them."""
    good = str(world.photos)
    flags = world.flags()
    for name, count in (("empty", 0), ("single", 1), ("words", 2), ("cut", 2)):
        save_photos(place / name, count)
    (place / "words" / "text.jpg").write_text("not a picture")
    Image.effect_noise((90, 90), 80).save(place / "cut" / "cut.jpg")
    whole = (place / "cut" / "cut.jpg").read_bytes()
    (place / "cut" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (place / "holds").mkdir()
    (place / "holds" / "thesis.txt").write_text("years of work")
    (place / "bad.toml").write_text("[training]\nstepz = 3\n")
    return {
        "missing folder": ["train", str(place / "nowhere"), *flags],
        "empty folder": ["train", str(place / "empty"), *flags],
        "one photo": ["train", str(place / "single"), *flags],
        "text named .jpg": ["train", str(place / "words"), *flags],
        "truncated JPEG": ["train", str(place / "cut"), *flags],
        "unknown setting": ["train", good, *flags, "--set", "training.stepz=3"],
        "unknown key in a file": ["train", good, *flags, "--config", str(place / "bad.toml")],
        "misspelt preset": ["train", good, *flags, "--preset", "papr"],
        "not a model": ["train", good, *flags, "--model", str(place / "holds")],
        "no such model": ["train", good, *flags, "--model", "./nothing"],
        "not a reward model": ["train", good, *flags, "--set", f"reward.model={place / 'holds'}"],
        "out holds other things": ["train", good, *flags, "--out", str(place / "holds")],
        "out is a file": ["train", good, *flags, "--out", str(place / "bad.toml")],
        "out of an unknown user": ["train", good, *flags, "--out", "~nobody-of-that-name/x"],
        "model of an unknown user": ["train", good, *flags, "--model", "~nobody-of-that-name/x"],
        "resume of an unknown user": ["train", good, *flags, "--resume", "--out", "~nobody-of/x"],
        "another noun": ["train", good, *flags, "--set", "noun=cat"],
        "too many solver steps": ["train", good, *flags, "--set", "sampling.steps=1001"],
        "no noun": ["train", good, "--model", str(world.model)],
        "bad value": ["train", good, *flags, "--set", "training.steps=many"],
        "nothing to resume": ["train", good, *flags, "--resume"],
        "no such prompts": ["train", good, *flags, "--set", "prompts=mine.toml"],
        "both outputs": ["train", good, *flags, "--json", "--quiet"],
        "unknown flag": ["train", good, "--noum", "dog"],
        "no photos": ["train"],
        "not a run": ["generate", str(place / "holds"), "a [V] dog"],
        "check of nothing": ["check", str(place / "empty")],
        "check of the empty name": ["check", ""],
        "photos of the empty name": ["train", "", *flags],
        "check of a name of 300 letters": ["check", "x" * 300],
        "sheet of a name of 300 letters": ["check", good, "--sheet", "x" * 300 + ".png"],
        "photos of a name of 300 letters": ["train", "x" * 300, *flags],
    }


CASES = (
    "missing folder",
    "empty folder",
    "one photo",
    "text named .jpg",
    "truncated JPEG",
    "unknown setting",
    "unknown key in a file",
    "misspelt preset",
    "not a model",
    "no such model",
    "not a reward model",
    "out holds other things",
    "out is a file",
    "out of an unknown user",
    "model of an unknown user",
    "resume of an unknown user",
    "another noun",
    "too many solver steps",
    "no noun",
    "bad value",
    "nothing to resume",
    "no such prompts",
    "both outputs",
    "unknown flag",
    "no photos",
    "not a run",
    "check of nothing",
    "check of the empty name",
    "photos of the empty name",
    "check of a name of 300 letters",
    "sheet of a name of 300 letters",
    "photos of a name of 300 letters",
)


@pytest.mark.parametrize("case", CASES)
def test_wrong_input_is_one_line_and_nothing_is_written(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    command = _cases(world, tmp_path)[case]
    before = contents(tmp_path)
    assert cli.run(command) == cli.WRONG_INPUT == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert contents(tmp_path) == before
    assert not (tmp_path / "runs").exists()


def test_every_case_is_run(world: World, tmp_path: Path) -> None:
    assert tuple(_cases(world, tmp_path)) == CASES


# --- the package and the program ---------------------------------------------------------


@pytest.mark.parametrize(
    "command", ["demo", "train", "generate", "export", "check", "info", "settings"]
)
def test_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert "Examples" in out
    assert f"rpo {command}" in out


def plain_help(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The help text without the frame, in one line."""
    assert cli.run([command, "--help"]) == 0
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())


def test_help_says_what_can_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    text = plain_help("demo", capsys)
    for name in bundled.bundled_names():
        assert re.search(rf"\b{name}\b", text), name
    text = plain_help("train", capsys)
    assert "rpo settings" in text
    assert "paper (all as published" in text
    assert "early-stop (on top of the suitable one, stops" in text
    assert "[default: (required)]" not in text
    assert "Required, here or in --config." in text
    assert "auto, cpu, mps, cuda, cuda:N or xpu" in text


def test_rpo_alone_prints_help_and_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([]) == 0
    out, err = capsys.readouterr()
    assert "Usage: rpo" in out
    assert out.count("Usage") == 1
    assert err == ""


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"rpo {rpo.__version__}\n"


def test_package_and_help_do_not_load_torch() -> None:
    code = (
        "import sys, rpo; from rpo import cli; cli.run(['train', '--help']); rpo.UserError;"
        "assert 'torch' not in sys.modules; rpo.Config; assert 'torch' not in sys.modules;"
        "print(sorted(rpo.__all__) == dir(rpo))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.endswith("True\n")


def test_public_names_exist() -> None:
    for name in rpo.__all__:
        assert getattr(rpo, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = rpo.nonsense


def test_python_dash_m(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rpo", "check", str(tmp_path / "nö")]
    out = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert out.returncode == cli.WRONG_INPUT
    assert out.stderr.startswith("error: ")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_check_prints_names_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    folder = tmp_path / "photos"
    save_photos(folder, 2)
    names = ("ü\u2028犬.png", "\x1b[2J.png")
    for old, new in zip(sorted(folder.iterdir()), names, strict=True):
        old.rename(folder / new)
    command = [sys.executable, "-m", "rpo", "check", str(folder)]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    out = subprocess.run(command, capture_output=True, env=environment)
    assert (out.returncode, out.stderr) == (0, b"")
    assert b"\\u2028" in out.stdout
    assert b"\\x1b[2J.png" in out.stdout
    assert b"\x1b" not in out.stdout
