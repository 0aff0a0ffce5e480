"""The loop's settings beyond the paper: schedule, and all of them together in the job."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import World, break_off, measured, results
from safetensors.torch import load_file
from teaching import (
    make_config,
    make_trainer,
    same,
    similarity_config,
    weights,
)

import rpo
from rpo.config import SamplingConfig, TrainingConfig, load_config
from rpo.errors import UserError
from rpo.events import Progress, StepDone
from rpo.models.backbone import Backbone
from rpo.runs.checkpoint import load_state, save_state
from rpo.training.loop import Trainer
from rpo.training.schedule import learning_rate


def test_the_paper_has_none_of_them() -> None:
    settings = load_config("paper").training
    names = ("schedule", "warmup", "ema", "photos", "flip")
    assert [getattr(settings, name) for name in names] == ["constant", 0, 0.0, 1, False]
    assert {learning_rate(step, settings) for step in range(400)} == {settings.learning_rate}


# --- training.schedule and training.warmup ------------------------------------------------

HALF = math.sqrt(0.5)
RATES = {
    # by hand: 8 steps at 1e-3
    ("constant", 0): [1.0] * 8,
    ("linear", 0): [1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125],
    ("cosine", 0): [(1 + math.cos(math.pi * k / 8)) / 2 for k in range(8)],
    ("constant", 4): [0.25, 0.5, 0.75, 1, 1, 1, 1, 1],
    ("linear", 4): [0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25],
    ("cosine", 4): [0.25, 0.5, 0.75, 1, 1, (1 + HALF) / 2, 0.5, (1 - HALF) / 2],
    ("linear", 8): [0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1],
    ("cosine", 16): [(k + 1) / 16 for k in range(8)],  # a warm-up that is never over
}


@pytest.mark.parametrize(("schedule", "warmup"), RATES)
def test_the_rate_of_each_step(schedule: Any, warmup: int) -> None:
    settings = TrainingConfig(steps=8, learning_rate=1e-3, schedule=schedule, warmup=warmup)
    found = [learning_rate(step, settings) for step in range(8)]
    assert found == pytest.approx([1e-3 * share for share in RATES[schedule, warmup]])


@pytest.mark.parametrize(("schedule", "warmup"), [("linear", 0), ("cosine", 4)])
def test_the_rate_is_that_of_the_optimiser(epsilon: Backbone, schedule: str, warmup: int) -> None:
    """By weight decay: with a gradient of zero, each step multiplies by 1 - rate * decay."""
    config = make_config(
        "rpo",
        training={
            "beta": 0.0,
            "similarity_weight": 0,
            "weight_decay": 0.5,
            "schedule": schedule,
            "warmup": warmup,
        },
        sampling=SamplingConfig(2, images_per_prompt=1),
    )
    trainer = make_trainer(epsilon, config)
    for share in RATES[schedule, warmup]:
        before = weights(trainer)
        trainer._advance()
        for name, now in weights(trainer).items():
            torch.testing.assert_close(now, before[name] * (1 - 1e-3 * share * 0.5))
        assert [g["lr"] for g in trainer.optimizer.param_groups] == pytest.approx([1e-3 * share])


def test_a_schedule_resumes(epsilon: Backbone, tmp_path: Path) -> None:
    """The rate is a function of the step and the settings: no state of a scheduler is kept."""
    through = make_trainer(epsilon, similarity_config(schedule="cosine", warmup=3))
    list(through.run())
    before = make_trainer(epsilon, similarity_config(schedule="cosine", warmup=3))
    list(before.run(until=5))
    save_state(before.state_dict(), tmp_path / "state")
    after = make_trainer(epsilon, similarity_config(schedule="cosine", warmup=3))
    after.load_state_dict(load_state(tmp_path / "state"))
    list(after.run())
    assert same(weights(after), weights(through))


# --- all together, in the real job --------------------------------------------------------


ALL = {
    "training.schedule": "cosine",
    "training.warmup": 2,
    "training.ema": 0.9,
    "training.photos": 2,
    "training.flip": True,
}


@pytest.mark.parametrize("weights", ["full", "lora"])
def test_resumed_equals_uninterrupted_with_all_of_them(
    world: World, tmp_path: Path, weights: str
) -> None:
    how = {**ALL, "training.weights": weights}
    subject = rpo.Subject.from_folder(world.photos, "dog")
    through = tmp_path / "through"
    settings = world.settings(**how)
    list(rpo.iterate(subject, model=str(world.model), out=through, settings=settings))
    for step in (1, 3):
        out = tmp_path / f"broken at {step}"
        break_off(world, out, StepDone, step, **how)
        list(rpo.iterate(subject, out=out, resume=True))
        assert results(out) == results(through)
        assert measured(out) == measured(through)


def test_broken_off_while_the_average_is_judged(world: World, tmp_path: Path) -> None:
    subject = rpo.Subject.from_folder(world.photos, "dog")

    def events(out: Path) -> Any:
        settings = world.settings(**ALL)
        return rpo.iterate(subject, model=str(world.model), out=out, settings=settings)

    list(events(tmp_path / "through"))
    broken, steps = events(tmp_path / "broken"), 0
    for event in broken:
        steps += isinstance(event, StepDone)
        if steps == 2 and isinstance(event, Progress) and event.phase == "validation":
            break
    broken.close()
    list(rpo.iterate(subject, out=tmp_path / "broken", resume=True))
    assert results(tmp_path / "broken") == results(tmp_path / "through")


def test_more_steps_do_not_fit_a_schedule_that_ends(world: World, tmp_path: Path) -> None:
    """Its earlier steps would have had other rates."""
    subject, out = rpo.Subject.from_folder(world.photos, "dog"), tmp_path / "run"
    break_off(world, out, StepDone, 1, **{"training.schedule": "linear"})
    with pytest.raises(UserError, match=r"training\.steps = 4, not 8.*leave that out"):
        list(rpo.iterate(subject, out=out, resume=True, settings=["training.steps=8"]))
    constant = tmp_path / "constant"
    break_off(world, constant, StepDone, 1, **{"training.warmup": 2})
    list(rpo.iterate(subject, out=constant, resume=True, settings=["training.steps=6"]))
    assert rpo.load_run(constant).finished


def test_what_is_kept_is_the_average(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    averages: list[dict[str, Any]] = []
    real = Trainer._validate

    def validate(self: Trainer) -> Any:
        yield from real(self)
        averages.append({name: a.clone() for name, a in self.average.items()})
        assert not same(averages[-1], weights(self)) or self.step == 0

    monkeypatch.setattr(Trainer, "_validate", validate)
    settings = world.settings(**{"training.ema": 0.9, "validation.keep": "last"})
    subject = rpo.Subject.from_folder(world.photos, "dog")
    list(rpo.iterate(subject, model=str(world.model), out=tmp_path / "run", settings=settings))
    kept = load_file(tmp_path / "run" / "best" / "unet" / "diffusion_pytorch_model.safetensors")
    assert len(averages) == 3
    assert same(kept, averages[-1])
