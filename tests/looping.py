"""A trainer of RPO on pairs that were made up, for tests of the loop without files."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from tiny import LATENT_SHAPE
from torch import Tensor

from rpo.config import Config, TrainingConfig, ValidationConfig
from rpo.events import Progress, StepDone, Validated
from rpo.learners import learner_class
from rpo.learners.learner import Learner
from rpo.methods import method_class
from rpo.methods.method import Task
from rpo.methods.rpo import LabelledPairs
from rpo.models.backbone import Backbone
from rpo.rewards.harmonic import Scores
from rpo.training.loop import Trainer

PHOTOS, PICTURES = 3, 5
NOTHING: Any = (None, (), None)  # subject, prompts and reward, which a step does not read


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_data(backbone: Backbone) -> LabelledPairs:
    texts = [f"a [V] dog {k}" for k in range(PICTURES)]
    return LabelledPairs(
        reference_latents=normal(PHOTOS, *LATENT_SHAPE),
        generated_latents=normal(PICTURES, *LATENT_SHAPE, seed=1),
        reference_conditions=backbone.encode_prompts(["a photo of [V] dog"]),
        generated_conditions=backbone.encode_prompts(texts),
        probabilities=torch.linspace(0.05, 0.95, PHOTOS * PICTURES).view(PHOTOS, PICTURES),
    )


def make_config(seed: int = 3, every: int = 3, patience: int = 0, **training) -> Config:
    training = {"steps": 8, "learning_rate": 1e-3, "batch_size": 2, **training}
    return Config(
        noun="dog",
        seed=seed,
        training=TrainingConfig(**training),
        validation=ValidationConfig(every=every, patience=patience, steps=2),
    )


def first_step(trainer: Trainer) -> StepDone:
    trainer._advance()
    (step,) = trainer.unreported()
    return step


class Judge:
    """Stands in for a Validator: rewards from a list, else by the weights themselves."""

    prompts = ("a [V] dog on the Moon",)

    def __init__(self, rewards: list[float] | None = None) -> None:
        self.rewards = list(rewards or [])

    def run(self, learner: Learner):
        yield Progress("validation", 0, 1)
        total = sum(p.double().sum().item() for p in learner.denoiser.parameters())
        by_weights = 0.5 + 0.4 * math.sin(
            1e3 * total
        )  # up and down from one validation to the next
        value = torch.tensor([self.rewards.pop(0) if self.rewards else by_weights])
        return Scores(value, value), torch.zeros(1, 3, 4, 4, dtype=torch.uint8)

    def figures(self, pictures: Tensor) -> dict[str, float]:
        return {}


def make_trainer(backbone: Backbone, config: Config, rewards: list[float] | None = None) -> Trainer:
    method = method_class(config)(Task(backbone, config, *NOTHING))
    learner = learner_class(config.training.weights)(backbone, config)
    return Trainer(learner, method, make_data(backbone), config, Judge(rewards))


def drawn(trainer: Trainer, step: int) -> Any:
    """The batch of a step."""
    return trainer.method.batch(trainer.data, step)


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in trainer.denoiser.named_parameters()}


def comparable(events) -> list:
    """Events without their pictures, which == cannot compare."""
    return [
        dataclasses.replace(event, images=None) if isinstance(event, Validated) else event
        for event in events
    ]
