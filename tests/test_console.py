"""What training prints, on a terminal, as JSON, quietly; and TensorBoard."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from jobs import (
    World,
)

from rpo.cli import commands as cli
from rpo.cli import console
from rpo.data import bundled
from rpo.errors import UserError
from rpo.events import Progress, StepDone
from rpo.models import resolve as models
from rpo.runs.result import load_run

pytestmark = pytest.mark.usefixtures("elsewhere")


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
