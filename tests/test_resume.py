"""Resuming: broken off wherever, a run ends as one that was not; and what is refused."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from jobs import (
    World,
    break_off,
    contents,
    measured,
    results,
    save_photos,
)

import rpo
from rpo.cli import commands as cli
from rpo.cli import console
from rpo.cli.signals import SIGNALS, StopOnSignal
from rpo.data.subject import Subject
from rpo.errors import UserError
from rpo.events import Drawn, Labelled, Progress, StepDone, Validated
from rpo.runs.result import load_run

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.mark.parametrize(
    ("at", "step"),
    [(StepDone, 1), (StepDone, 2), (Validated, 2), (Validated, 0)],
    ids=["between", "before a validation", "after a validation", "before the first step"],
)
def test_resumed_equals_uninterrupted(
    world: World, done: Path, tmp_path: Path, at: type, step: int
) -> None:
    out = tmp_path / "cut"
    break_off(world, out, at, step)
    assert not load_run(out).finished
    command = ["train", str(world.photos), *world.flags(), "--out", str(out), "--quiet"]
    assert cli.run([*command, "--resume"]) == 0
    assert results(out) == results(done)
    assert measured(out) == measured(done)
    assert "interrupted" not in (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("at", [Progress, Labelled, Drawn])
def test_a_run_cut_before_its_first_checkpoint_repeats_nothing_in_the_metrics(
    world: World, done: Path, tmp_path: Path, at: type
) -> None:
    break_off(world, tmp_path / "cut", at, 0)
    assert load_run(tmp_path / "cut").history == ()
    command = ["train", str(world.photos), "--noun", "dog", "--out", str(tmp_path / "cut")]
    assert cli.run([*command, "--resume", "--quiet"]) == 0
    assert results(tmp_path / "cut") == results(done)
    assert measured(tmp_path / "cut") == measured(done)


def test_a_run_killed_between_record_and_checkpoint_repeats_nothing(
    world: World, done: Path, tmp_path: Path
) -> None:
    out = tmp_path / "cut"
    break_off(world, out, Validated, 0)
    for name in ("trainer.safetensors", "state.json"):
        (out / "last" / name).unlink()
    command = ["train", str(world.photos), "--noun", "dog", "--out", str(out)]
    assert cli.run([*command, "--resume", "--quiet"]) == 0
    assert measured(out) == measured(done)


def test_more_steps_continue_a_finished_run(world: World, tmp_path: Path) -> None:
    command = ["train", str(world.photos), "--quiet", "--out"]
    assert cli.run([*command, str(tmp_path / "six"), *world.flags(steps=6)]) == 0
    assert cli.run([*command, str(tmp_path / "two"), *world.flags(steps=2)]) == 0
    more = ["--noun", "dog", "--resume", "--set", "training.steps=6"]
    assert cli.run([*command, str(tmp_path / "two"), *more]) == 0
    assert results(tmp_path / "two") == results(tmp_path / "six")
    fewer = [*more[:-1], "training.steps=5"]
    assert cli.run([*command, str(tmp_path / "two"), *fewer]) == cli.WRONG_INPUT


def test_resume_of_a_finished_run_changes_nothing(
    world: World, done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(done)
    command = ["train", str(world.photos), "--noun", "dog", "--out", str(done), "--resume"]
    assert cli.run(command) == 0
    assert contents(done) == before
    assert "chosen" in capsys.readouterr().out


def test_resume_finds_the_newest_unfinished_run(world: World, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for number, steps in ((2, 2), (10, 1)):
        break_off(world, runs / f"{world.photos.name}-{number}", StepDone, steps)
    assert cli.run(["train", str(world.photos), "--noun", "dog", "--resume", "--quiet"]) == 0
    assert load_run(runs / f"{world.photos.name}-10").finished
    assert not load_run(runs / f"{world.photos.name}-2").finished


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--noun", "cat"], "noun = 'dog'"),
        (["--noun", "dog", "--seed", "5"], "seed = 0, not 5"),
        (["--noun", "dog", "--set", "training.beta=2"], "training.beta = 1.0, not 2.0"),
    ],
)
def test_resume_refuses_other_settings(
    world: World,
    done: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    words: str,
) -> None:
    code = cli.run(["train", str(world.photos), *flags, "--out", str(done), "--resume"])
    assert code == cli.WRONG_INPUT
    assert words in capsys.readouterr().err


def test_resume_refuses_other_photos(
    world: World, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_photos(tmp_path / "photos", count=2)
    command = ["train", str(tmp_path / "photos"), "--noun", "dog", "--out", str(done), "--resume"]
    assert cli.run(command) == cli.WRONG_INPUT
    assert "photos are not those" in capsys.readouterr().err


def test_resume_refuses_another_model_and_other_prompts(world: World, tmp_path: Path) -> None:
    model, prompts = tmp_path / "model", tmp_path / "prompts.toml"
    shutil.copytree(world.model, model)
    shutil.copy(world.prompts, prompts)
    subject = Subject.from_folder(world.photos, "dog")
    out = tmp_path / "run"
    settings = [*world.settings(), f"prompts={prompts}"]

    def go_on(**options: Any) -> None:
        events = rpo.iterate(subject, out=out, settings=settings, model=str(model), **options)
        for event in events:
            if isinstance(event, Validated):
                break
        events.close()

    go_on()
    config = model / "unet" / "config.json"
    text = config.read_text(encoding="utf-8")
    config.write_text(text + "\n", encoding="utf-8")
    before = contents(out)
    with pytest.raises(
        UserError, match=r"unet.config\.json is not the file .* put that model back"
    ):
        go_on(resume=True)
    config.write_text(text, encoding="utf-8")
    (model / "README.txt").write_text("no difference")
    words = prompts.read_text(encoding="utf-8")
    prompts.write_text(words.replace("a {} at sea", "a {} at home"), encoding="utf-8")
    with pytest.raises(UserError, match="the validation prompts are not those"):
        go_on(resume=True)
    assert contents(out) == before
    prompts.write_text(words, encoding="utf-8")
    go_on(resume=True)


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_saves_and_says_how_to_go_on(
    world: World,
    done: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
) -> None:
    def press(self: object, event: object) -> None:
        if isinstance(event, StepDone) and event.step == 3:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(console.Quiet, "__call__", press)
        command = ["train", str(world.photos), *world.flags(), "--out", str(tmp_path / "cut")]
        assert cli.run([*command, "--quiet"]) == 128 + number
    assert signal.getsignal(number) is before
    message = capsys.readouterr().err
    assert json.loads((tmp_path / "cut" / "last" / "state.json").read_text())["step"] == 3
    command = shlex.split(message[message.index("rpo train") :])
    assert cli.run([*command[1:], "--quiet"]) == 0
    assert results(tmp_path / "cut") == results(done)


def test_second_signal_stops_at_once() -> None:
    with StopOnSignal(lambda: None) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("name", ["report.html", "images/overview.png"])
def test_killed_before_its_report_a_finished_run_gets_it(
    world: World, done: Path, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "run"
    shutil.copytree(done, out)
    (out / name).unlink()
    arguments = ["train", str(world.photos), *world.flags(), "--resume", "--quiet"]
    assert cli.run([*arguments, "--out", str(out)]) == 0
    assert (out / name).is_file()
    assert results(out) == results(done)
