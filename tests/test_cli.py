"""The `rpo` command: what it prints, draws and refuses, on a world of tiny models (see jobs.py)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import (
    World,
    break_off,
    contents,
    finished_run,
    make_world,
    save_photos,
)
from PIL import Image

import rpo
from rpo.cli import commands as cli
from rpo.cli import console
from rpo.config import SETTINGS
from rpo.data import bundled
from rpo.errors import UserError
from rpo.events import Progress, StepDone, Validated
from rpo.models import resolve as models
from rpo.models.resolve import known_presets
from rpo.runs.result import load_run


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("kleine Welt"))


@pytest.fixture(scope="module")
def done(world: World) -> Path:
    return finished_run(world)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test in a directory of its own: what is written by default lands there."""
    monkeypatch.chdir(tmp_path)


# --- what is printed ---------------------------------------------------------------------


def test_plain_output(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["train", str(world.photos), *world.flags()]) == 0
    out, err = capsys.readouterr()
    run = Path("runs") / f"{world.photos.name}-1"
    assert str(run / "report.html") in out
    assert out.count("chosen") == 1
    for words in ("reward", "image alignment", "text alignment", "rpo generate"):
        assert words in out
    assert "training prompts: a [V] dog in snow; a green [V] dog" in err
    assert "best so far" in err
    assert "Writing model shards" not in err
    assert run.is_dir()


ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def test_bars_on_a_terminal(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    assert cli.run(["train", str(world.photos), *world.flags()]) == 0
    shown = ANSI.sub("", capsys.readouterr().err)
    for phase, total in (("sampling", 4), ("labelling", 4), ("training", 4), ("validation", 2)):
        # a mark, the name, the bar, and all of its pieces done
        assert re.search(rf"[✓+] {phase} +━+ {total}/{total} ", shown), phase


def test_bars_count_and_tell_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    bars = console.Bars()
    clock = [0.0]
    bars.progress.get_time = lambda: clock[0]

    def line(phase: str) -> str:
        capsys.readouterr()
        bars.progress.refresh()
        lines = ANSI.sub("", capsys.readouterr().err).splitlines()
        (found,) = [text for text in lines if f" {phase} " in text]
        return " ".join(found.split())  # one space between the columns

    with bars:
        bars.steps, bars.resumed_at = 10, 2
        for step, now in ((3, 100.0), (4, 103.0), (5, 106.0)):
            clock[0] = now
            bars(StepDone(step, 1.0, 2.0))
        # 3 steps of this session since the bar was begun at 100 s took 6 s; 5 are left
        assert re.search(r"training \S+ 5/10 0:00:06 10 s left", line("training"))
        bars(Progress("validation", 0, 4))
        assert "left" not in line("validation")
        clock[0] = 110.0
        bars(Progress("validation", 1, 4))
        assert re.search(r"validation \S+ 1/4 0:00:04 12 s left", line("validation"))
        bars(Progress("validation", 4, 4))
        assert re.search(r"validation \S+ 4/4", line("validation"))
        bars(Progress("validation", 0, 4))  # the next validation begins anew
        assert re.search(r"validation \S+ 0/4 0:00:00", line("validation"))


def test_warnings_on_photos_are_told_before_the_training(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(world.photos), *world.flags(steps=1)]
    assert cli.run(command) == 0
    err = capsys.readouterr().err.splitlines()
    told = [line for line in err if line.startswith("warning: ")]
    assert [line.split(":")[1] for line in told] == [" 0.png", " 1.png", " 2.png"]
    assert "small" in told[0]
    assert err.index(told[-1]) < next(i for i, line in enumerate(err) if "pairs labelled" in line)
    assert cli.run([*command, "--json"]) == 0
    assert capsys.readouterr().err == ""


def test_without_selection_nothing_is_called_best(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    last = {"validation.keep": "last"}
    assert cli.run(["train", str(world.photos), *world.flags(**last)]) == 0
    page = (Path("runs") / f"{world.photos.name}-1" / "report.html").read_text(encoding="utf-8")
    assert "best so far" not in capsys.readouterr().err
    for words in ("scored best", "chose the step", "Choosing the step"):
        assert words not in page
    assert "The weights of step 4 are kept" in page


def test_json_is_one_event_a_line(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", str(world.photos), *world.flags(), "--json", "--out", str(tmp_path / "j")]
    assert cli.run(command) == 0
    out, err = capsys.readouterr()
    events = [json.loads(line) for line in out.splitlines()]
    assert events[0]["event"] == "started"
    stamp = {"run": "j", "number": events[-1]["number"], "time": events[-1]["time"]}
    assert events[-1] == {
        **stamp,
        "event": "finished",
        "path": str(tmp_path / "j"),
        "best_step": load_run(tmp_path / "j").best_step,
        "report": str(tmp_path / "j" / "report.html"),
    }
    assert [e["step"] for e in events if e["event"] == "step"] == [1, 2, 3, 4]
    assert {"progress", "labelled", "validated", "stopped", "phase"} <= {e["event"] for e in events}
    assert err == ""


def test_quiet_prints_the_folder_alone(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2):  # the default folder is never one that exists
        assert cli.run(["train", str(world.photos), *world.flags(), "-q"]) == 0
        out, err = capsys.readouterr()
        assert (out, err) == (f"{Path('runs') / f'{world.photos.name}-{number}'}\n", "")


def test_tensorboard_gets_the_curves(world: World, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    command = ["train", str(world.photos), *world.flags(), "--out", str(out), "--tensorboard", "-q"]
    assert cli.run(command) == 0
    log = EventAccumulator(str(out / "tensorboard"))
    log.Reload()
    reward = log.Scalars("validated/reward")
    assert [point.step for point in reward] == [0, 2, 4]
    expected = [point.reward for point in load_run(out).history]
    assert [point.value for point in reward] == pytest.approx(expected)


def test_demo(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assets = tmp_path / "assets" / "emojiland"
    for part, source in (("pipeline", world.model), ("reward", world.reward)):
        assets.mkdir(parents=True, exist_ok=True)
        (assets / part).symlink_to(source)
    (assets / "subjects").mkdir()
    (assets / "subjects" / "rex").symlink_to(world.photos)
    table = '[rex]\nnoun = "dog"\nkind = "live"\n'
    (assets / "subjects.toml").write_text(table, encoding="utf-8")
    monkeypatch.setattr(models, "ASSETS", assets.parent)
    monkeypatch.setattr(bundled, "_FOLDER", assets)

    assert bundled.bundled_names() == ("rex",)
    settings = [flag for s in world.settings() for flag in ("--set", s) if "reward.model" not in s]
    assert cli.run(["demo", "--seed", "3", "--out", "demo", *_pairs(settings)]) == 0
    assert "demo/report.html" in capsys.readouterr().out.replace("\\", "/")
    config = load_run(Path("demo")).config
    assert (config.model, config.seed, config.noun) == ("emojiland", 3, "dog")
    assert cli.run(["demo", "--subject", "rax"]) == cli.WRONG_INPUT
    assert "did you mean rex?" in capsys.readouterr().err
    (assets / "subjects.toml").unlink()
    with pytest.raises(UserError, match="lacks the bundled subjects"):
        bundled.bundled_names()


def _pairs(flags: list[str]) -> list[str]:
    """Drops a --set that has lost its value."""
    kept = [flag for flag in flags if flag != "--set"]
    return [part for value in kept for part in ("--set", value)]


# --- generate, check, info ---------------------------------------------------------------


def test_generate_numbers_on_and_repeats_a_seed(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["generate", str(done), "a [V] dog in snow", "--out", str(tmp_path / "out dir")]
    assert cli.run([*command, "-n", "3", "--seed", "5", "--guidance", "2"]) == 0
    first = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.name[:4] for path in first] == ["0001", "0002", "0003"]
    assert cli.run([*command, "--seed", "6", "--guidance", "2"]) == 0
    (second,) = (Path(line) for line in capsys.readouterr().out.splitlines())
    assert second.name == "0004-a-v-dog-in-snow.png"
    with Image.open(first[1]) as a, Image.open(second) as b:
        assert a.info == b.info
        assert a.info["seed"] == "6"
        assert a.info["guidance_scale"] == "2.0"
        assert a.info["prompt"] == "a [V] dog in snow"
        # batches of another size may round differently in the last bit, no more
        difference = [abs(x - y) for x, y in zip(a.tobytes(), b.tobytes(), strict=True)]
        assert max(difference) <= 1
    assert first[0].read_bytes() != first[1].read_bytes()


def test_generate_from_python(done: Path) -> None:
    pictures = load_run(done).generate("a [V] dog", n=2, seed=1)
    assert [picture.size for picture in pictures] == [(16, 16)] * 2
    for wrong, words in (
        ({"n": 0}, "n must be >= 1, not 0"),
        ({"seed": -1}, "seed must be between 0 and"),
        ({"seed": 2**63}, "seed must be between 0 and"),
        ({"seed": 2**63 - 1, "n": 2}, "seed must be between 0 and 9223372036854775806,"),
        ({"steps": 0}, "steps must be >= 1, not 0"),
        ({"steps": 1001}, "steps must be <= 1000, not 1001"),
        ({"guidance_scale": -1.0}, "guidance_scale must be >= 0, not -1.0"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be finite"),
    ):
        with pytest.raises(UserError, match=words):
            load_run(done).generate("a [V] dog", **wrong)
    assert len(load_run(done).generate("a [V] dog", seed=2**63 - 1)) == 1


def test_generate_draws_at_the_resolution_of_the_run(world: World, tmp_path: Path) -> None:
    break_off(world, tmp_path / "run", Validated, 0, resolution=32)
    (picture,) = load_run(tmp_path / "run").generate("a [V] dog")
    assert picture.size == (32, 32)


def test_generate_looks_at_the_folder_before_it_draws(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def draw(*_: Any, **__: Any) -> None:
        raise AssertionError("drew")

    monkeypatch.setattr("rpo.models.sampling.sample", draw)
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "pictures", tmp_path / "file", "~nobody-of-that-name/x"):
        assert cli.run(["generate", str(done), "a [V] dog", "--out", str(out)]) == cli.WRONG_INPUT
        assert capsys.readouterr().err.startswith(f"error: --out {out}: ")
    (tmp_path / "shut").mkdir()
    monkeypatch.setattr("os.access", lambda path, mode: not mode & os.W_OK)
    command = ["generate", str(done), "a [V] dog", "--out", str(tmp_path / "shut")]
    assert cli.run(command) == cli.WRONG_INPUT
    assert "cannot be written to" in capsys.readouterr().err


def test_generate_default_folder_and_note(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    break_off(world, run, Validated, 0)
    assert cli.run(["generate", str(run), "a dog"]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == str(run / "images" / "generated" / "0001-a-dog.png")
    assert "does not hold" in err


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
