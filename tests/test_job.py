"""The job from end to end, on a world of tiny real models (see jobs.py): results and resuming."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
from dataclasses import replace
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
    measured,
    results,
    save_photos,
)
from safetensors.torch import load_file

import rpo
from rpo.cli import commands as cli
from rpo.cli import console
from rpo.cli.signals import SIGNALS, StopOnSignal
from rpo.config import Config, load_config
from rpo.data.subject import Subject
from rpo.errors import UserError
from rpo.events import Drawn, Labelled, Progress, Started, StepDone, Validated
from rpo.models.resolve import known_presets
from rpo.runs.result import drawing, load_run
from rpo.training.stopping import KeepBest


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


# --- the whole job -----------------------------------------------------------------------


def test_train_leaves_a_complete_run(done: Path) -> None:
    names = set(contents(done))
    assert {
        "config.toml",
        "environment.json",
        "metrics.jsonl",
        "report.html",
        "best/model_index.json",
        "best/unet/diffusion_pytorch_model.safetensors",
        "last/trainer.safetensors",
        "last/state.json",
        "images/photos/01-0.png",
        "images/training/04-a-green-v-dog.png",
        "images/validation/step-00004/02-a-blue-v-dog.png",
    } <= names
    assert not any(name.startswith(".") or ".part" in name for name in os.listdir(done))
    run = load_run(done)
    assert run.finished
    assert [point.step for point in run.history] == [0, 2, 4]
    best = max(run.history, key=lambda point: point.reward)
    assert [point.step for point in run.history if point.chosen] == [best.step]
    assert run.best_step == best.step
    environment = json.loads((done / "environment.json").read_text(encoding="utf-8"))
    assert len(environment["subject"]["photos"]) == 3
    assert "unet/diffusion_pytorch_model.safetensors" in environment["models"]["pipeline"]["files"]
    phases = {r["phase"] for r in run.folder.records() if r["event"] == "phase"}
    assert {"loading", "sampling", "labelling", "training", "validation", "saving"} == phases


def test_best_is_an_ordinary_pipeline_with_the_chosen_weights(world: World, done: Path) -> None:
    from rpo.quiet import quiet

    with quiet():
        from diffusers import DiffusionPipeline

        pipeline = DiffusionPipeline.from_pretrained(done / "best")
    base = load_file(world.model / "unet" / "diffusion_pytorch_model.safetensors")
    weights = pipeline.unet.state_dict()
    moved = any(not torch.equal(weights[name], base[name]) for name in base)
    assert moved == (load_run(done).best_step != 0)


def test_same_seed_same_bytes_another_seed_not(world: World, done: Path, tmp_path: Path) -> None:
    arguments = ["train", str(world.photos), *world.flags(), "--quiet", "--out"]
    assert cli.run([*arguments, str(tmp_path / "again")]) == 0
    assert results(tmp_path / "again") == results(done)
    assert measured(tmp_path / "again") == measured(done)
    assert cli.run([*arguments, str(tmp_path / "other"), "--seed", "1"]) == 0
    assert measured(tmp_path / "other") != measured(done)


def test_config_of_a_run_replays_it(world: World, done: Path, tmp_path: Path) -> None:
    arguments = ["train", str(world.photos), "--config", str(done / "config.toml"), "--quiet"]
    assert cli.run([*arguments, "--out", str(tmp_path / "again")]) == 0
    assert results(tmp_path / "again") == results(done)
    assert (tmp_path / "again" / "config.toml").read_text() == (done / "config.toml").read_text()


def test_api_is_the_same_job(world: World, done: Path, tmp_path: Path) -> None:
    subject = rpo.Subject.from_folder(world.photos, noun="dog")
    seen: list[str] = []
    run = rpo.train(
        subject,
        model=str(world.model),
        out=tmp_path / "api",
        on_event=lambda event: seen.append(type(event).__name__),
        prompts=str(world.prompts),
        reward={"model": str(world.reward)},
        training={"steps": 4, "learning_rate": 1e-2},
        sampling={"steps": 2, "images_per_prompt": 2},
        validation={"every": 2, "steps": 2},
    )
    assert results(run.path) == results(done)
    assert (seen[0], seen[-1]) == ("Started", "Finished")
    again = rpo.train(subject, out=tmp_path / "config", config=run.config)
    assert results(again.path) == results(done)


UNET = "best/unet/diffusion_pytorch_model.safetensors"


def test_best_is_the_chosen_step_and_not_the_last(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["train", str(world.photos), "--quiet", "--out"]
    last = {"validation.keep": "last"}
    assert cli.run([*command, str(tmp_path / "two"), *world.flags(steps=2, **last)]) == 0
    assert cli.run([*command, str(tmp_path / "four"), *world.flags(steps=4, **last)]) == 0
    rewards = {0: 0.1, 2: 0.9, 4: 0.5}
    update = KeepBest.update
    with monkeypatch.context() as patch:
        patch.setattr(KeepBest, "update", lambda self, step, _: update(self, step, rewards[step]))
        assert cli.run([*command, str(tmp_path / "best"), *world.flags(steps=4)]) == 0
    assert load_run(tmp_path / "best").best_step == 2
    weights = {name: (tmp_path / name / UNET).read_bytes() for name in ("two", "four", "best")}
    assert weights["best"] == weights["two"]
    assert weights["best"] != weights["four"]


def test_the_card_of_best_says_how_generate_draws(world: World, tmp_path: Path) -> None:
    out = tmp_path / "run"
    break_off(world, out, Validated, 0, **{"sampling.guidance_scale": 2.5})
    card = json.loads((out / "best" / "rpo.json").read_text(encoding="utf-8"))
    run = load_run(out)
    how = {"steps": 2, "guidance_scale": 2.5, "scheduler": "ddim"}  # validation draws otherwise
    assert drawing(run.config) == how
    assert {key: card[key] for key in how} == how
    assert {key: run.settings("a [V] dog", 0)[key] for key in how} == how
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "num_inference_steps=2,\n    guidance_scale=2.5" in page


def test_generate_draws_and_decodes_in_the_settings_batches(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    break_off(world, out, Validated, 0, **{"sampling.batch_size": 2})
    run = load_run(out)
    rows, decode = [], run._backbone.vae.decode

    def counted(latents: torch.Tensor, **options: Any) -> Any:
        rows.append(len(latents))
        return decode(latents, **options)

    monkeypatch.setattr(run._backbone.vae, "decode", counted)
    assert len(run.generate("a [V] dog", 5)) == 5
    assert rows == [2, 2, 1]


# --- one owner for noun, kind and settings -----------------------------------------------


def started(world: World, **options: Any) -> Started:
    """The first event of a job, which is then left."""
    settings = [*world.settings(), *options.pop("settings", ())]
    subject = Subject.from_folder(world.photos, options.pop("noun", "dog"))
    events = rpo.iterate(subject, model=str(world.model), settings=settings, **options)
    event = next(events)
    events.close()
    return event


def test_the_kind_is_the_settings_before_the_nouns(world: World, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.toml"
    text = world.prompts.read_text(encoding="utf-8").replace(
        'object = ["a {} in snow"', 'object = ["a {} on a desk"'
    )
    prompts.write_text(text, encoding="utf-8")
    mine = [f"prompts={prompts}"]
    assert started(world, settings=mine).training_prompts[0] == "a [V] dog in snow"
    file = tmp_path / "settings.toml"
    file.write_text('subject_kind = "object"')
    for event in (
        started(world, settings=mine, config=file),
        started(world, settings=[*mine, "subject_kind=object"]),
        started(world, settings=mine, subject_kind="object"),
        started(world, settings=mine, noun="toy dog"),
    ):
        assert event.kind == "object"
        assert event.training_prompts[0].endswith("on a desk")


def test_the_printed_command_resumes_a_run_of_a_given_kind(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    break_off(world, out, StepDone, 1, subject_kind="object")
    command = shlex.split(console.resume_command(load_run(out)))
    assert cli.run([*command[1:], "--quiet"]) == 0
    assert load_run(out).config.subject_kind == "object"
    file = tmp_path / "open.toml"  # as in a file of defaults: what it leaves open is decided
    file.write_text('noun = ""\nsubject_kind = "auto"')
    assert cli.run([*command[1:], "--quiet", "--config", str(file)]) == 0
    assert cli.run([*command[1:], "--set", "subject_kind=live"]) == cli.WRONG_INPUT
    assert "subject_kind = 'object', not 'live'" in capsys.readouterr().err


def test_settings_that_name_another_noun_are_refused(world: World, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('noun = "cat"')
    for options in ({"settings": ["noun=cat"]}, {"config": file}, {"config": Config(noun="cat")}):
        with pytest.raises(UserError, match="noun is 'cat' in the settings.*'dog'.*--noun"):
            started(world, **options)


def test_a_config_keeps_its_settings_beside_a_field(world: World, tmp_path: Path) -> None:
    subject = Subject.from_folder(world.photos, "dog")
    config = load_config_of(world)
    out = tmp_path / "run"
    events = rpo.iterate(subject, out=out, config=config, training={"steps": 3})
    for event in events:
        if isinstance(event, Progress):
            break
    events.close()
    chosen = load_run(out).config
    assert chosen.training == replace(config.training, steps=3)
    assert chosen.training.learning_rate == 1e-2  # not the default
    with pytest.raises(UserError, match="preset 'emojiland' and a Config exclude each other"):
        rpo.train(subject, preset="emojiland", config=config)


def load_config_of(world: World) -> Config:
    return load_config(
        overrides=world.settings(), model=str(world.model), noun="dog", known=known_presets()
    )


# --- resuming ----------------------------------------------------------------------------


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


# --- what fails in the middle ------------------------------------------------------------


def test_a_failed_run_is_recorded_and_reported(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from rpo.training import loop as training

    advance = training.Trainer._advance

    def fail(self: Any) -> Any:
        if self.step == 2:
            raise UserError("the loss became nan at step 3")
        return advance(self)

    out = tmp_path / "run"
    command = ["train", str(world.photos), *world.flags(), "--quiet", "--out", str(out)]
    with monkeypatch.context() as patch:
        patch.setattr(training.Trainer, "_advance", fail)
        assert cli.run(command) == cli.WRONG_INPUT
    assert capsys.readouterr().err == "error: the loss became nan at step 3\n"
    run = load_run(out)
    failures = [r for r in run.folder.records() if r["event"] == "failed"]
    (failed,) = failures
    assert failed["message"] == "the loss became nan at step 3"
    assert failed["kind"] == "wrong input"
    assert run.folder.summary() == {}  # in its first minute no checkpoint is due
    page = run.report.read_text(encoding="utf-8")
    assert "The run ended in an error: the loss became nan at step 3" in page
    assert "was interrupted" not in page
    assert (out / "images" / "overview.png").is_file()
    assert cli.run([*command, "--resume"]) == 0  # as though the cause were gone
    assert "failed" not in {r["event"] for r in run.folder.records()}
    assert "in an error" not in run.report.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA: no more"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
    ids=["cuda", "mps", "cpu", "python"],
)
@pytest.mark.parametrize("place", ["rpo.runs.job.Job._load", "rpo.models.pictures.sample"])
def test_exhausted_memory_is_one_line_with_the_remedy(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    place: str,
) -> None:
    def exhaust(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(place, exhaust)
    command = ["train", str(world.photos), *world.flags(), "-q", "--out", str(tmp_path / "run")]
    assert cli.run(command) == cli.WRONG_INPUT
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    for name in ("sampling.batch_size", "validation.batch_size", "training.batch_size"):
        assert name in err
    assert "resolution" in err


def test_another_runtime_error_is_not_hidden(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("rpo.runs.job.Job._load", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.run(["train", str(world.photos), *world.flags(), "-q", "--out", str(tmp_path / "run")])
