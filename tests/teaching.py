"""A method that teaches a tiny model without files, and what it computes, over again in float64."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from tiny import RESOLUTION
from torch import Tensor, nn

from rpo.config import Config, DreamBoothConfig, SamplingConfig, TrainingConfig, ValidationConfig
from rpo.data.prompts import Prompt
from rpo.events import Progress, StepDone
from rpo.learners import learner_class
from rpo.learners.learner import Learner
from rpo.methods import method_class
from rpo.methods.method import Method, Task
from rpo.models.backbone import Backbone
from rpo.rewards.harmonic import Scores
from rpo.training.loop import Trainer

PHOTOS = 3
CLASS = 5  # class pictures of DreamBooth


def make_config(method: str, seed: int = 3, every: int = 3, **sections: Any) -> Config:
    """Eight steps of two photos. sections: Config's fields; "training" is a mapping."""
    training = {"steps": 8, "learning_rate": 1e-3, "batch_size": 2, **sections.pop("training", {})}
    return Config(
        noun="dog",
        method=method,
        seed=seed,
        training=TrainingConfig(**training),
        validation=ValidationConfig(every=every, steps=2),
        **sections,
    )


def similarity_config(**training: Any) -> Config:
    return make_config("similarity", training=training)


def rpo_config(**training: Any) -> Config:
    """With two pictures a prompt, drawn in two steps."""
    return make_config("rpo", training=training, sampling=SamplingConfig(2, images_per_prompt=2))


def dreambooth_config(weight: float = 1.0, **more: Any) -> Config:
    section = DreamBoothConfig(CLASS, weight)
    return make_config("dreambooth", dreambooth=section, sampling=SamplingConfig(2), **more)


def make_task(backbone: Backbone, config: Config) -> Task:
    """Photos of noise, two prompts, and a reward by which every pair is a near thing."""
    pixels = torch.rand(PHOTOS, 3, RESOLUTION, RESOLUTION, generator=torch.Generator()) * 2 - 1
    subject: Any = SimpleNamespace(tensor=lambda resolution: pixels)
    reward: Any = SimpleNamespace(
        score_pairs=lambda pictures, prompts, *_: (
            torch.linspace(-3, 3, PHOTOS * len(prompts)).view(PHOTOS, -1),
            torch.zeros(len(prompts)),
        )
    )
    prompts = [Prompt.from_template(f"a {{}} {k}", "dog", "[V]") for k in "ab"]
    return Task(backbone, config, subject, prompts, reward)


class Judge:
    """Stands in for a Validator: says how large the weights are, and remembers them."""

    prompts = ("a [V] dog on the Moon",)

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    def run(self, learner: Learner) -> Any:
        yield Progress("validation", 0, 1)
        self.seen.append({name: p.detach().clone() for name, p in learner.parameters().items()})
        total = sum(p.double().sum().item() for p in self.seen[-1].values())
        value = torch.tensor([0.5 + 0.4 * math.sin(1e3 * total)])  # up and down
        return Scores(value, value), torch.zeros(1, 3, 4, 4, dtype=torch.uint8)

    def figures(self, pictures: Tensor) -> dict[str, float]:
        return {}


def prepared(method: Method) -> Iterator[Any]:
    """The events of its preparation, and in the end what it learns from."""
    data = yield from method.prepare()
    yield data


def make_trainer(backbone: Backbone, config: Config, method: type[Method] | None = None) -> Trainer:
    """Prepared, at step 0."""
    taught = (method or method_class(config))(make_task(backbone, config))
    *_, data = prepared(taught)
    learner = learner_class(config.training.weights)(backbone, config)
    return Trainer(learner, taught, data, config, Judge())  # type: ignore[arg-type]


def steps_of(events: Iterable[Any]) -> list[StepDone]:
    return [event for event in events if isinstance(event, StepDone)]


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in trainer.parameters.items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def alpha_bar(prediction_type: str) -> Tensor:
    """(1000,) in float64, from the schedules' own formulas."""
    if prediction_type == "epsilon":
        betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    else:
        power = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.minimum(1 - power[1:] / power[:-1], 0.999)
    return torch.from_numpy(np.cumprod(1 - betas))


def squared_error(
    denoiser: nn.Module,
    prediction_type: str,
    latents: Tensor,
    tokens: Tensor,
    timesteps: Tensor,
    noise: Tensor,
) -> Tensor:
    """(B,) mean squared error of a float64 U-Net; tokens: (1, L, D), the prompt of all rows."""
    power = alpha_bar(prediction_type)[timesteps][:, None, None, None]
    signal, sigma = power.sqrt(), (1 - power).sqrt()
    latents, noise = latents.double(), noise.double()
    truth = noise if prediction_type == "epsilon" else signal * noise - sigma * latents
    context = tokens.double().repeat(len(latents), 1, 1)
    said = denoiser(signal * latents + sigma * noise, timesteps, context).sample
    return ((truth - said) ** 2).mean(dim=(1, 2, 3))
