"""The job from end to end, on a world of tiny real models (see jobs.py)."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import (
    World,
    break_off,
    contents,
    measured,
    results,
)
from safetensors.torch import load_file

import rpo
from rpo.cli import commands as cli
from rpo.cli import console
from rpo.config import Config, load_config
from rpo.data.subject import Subject
from rpo.errors import UserError
from rpo.events import Progress, Started, StepDone, Validated
from rpo.models.resolve import known_presets
from rpo.runs.result import drawing, load_run
from rpo.training.stopping import KeepBest

pytestmark = pytest.mark.usefixtures("elsewhere")


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
