"""A toy method, reward, stopping rule and judge to be given from outside, and jobs with them."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jobs import World
from torch import Tensor, nn

import rpo
from rpo import events
from rpo.events import Validated
from rpo.learners.learner import Learner
from rpo.methods.method import Method, Terms, Visit
from rpo.models.rows import Rows
from rpo.rewards.harmonic import Scores
from rpo.training.stopping import Decision


@dataclass(frozen=True)
class Latents(Rows):
    """(M, C, h, w)."""

    latents: Tensor


class ToyMethod(Method):
    """Nothing but noise is to be seen in the photos; it knows no prompt but the empty one."""

    Data = Latents

    def __init__(self, task: Any) -> None:
        super().__init__(task)
        self.gain = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.gain.weight, 1.0)

    def prepare(self) -> Generator[rpo.Event, None, Latents]:
        yield events.Progress("sampling", 0, 1)
        return Latents(self.encode_photos())

    def batch(self, data: Latents, step: int) -> Visit:
        return self.visit(len(data.latents), step)

    def loss(self, learner: Learner, data: Latents, batch: Visit) -> Terms:
        conditions = self.backbone.unconditional().expand(len(batch.photos))
        error = self.backbone.denoising_error(
            learner.denoiser,
            data.latents[batch.photos],
            batch.noise[0],
            batch.timesteps[0],
            conditions,
        ).mean()
        gain = self.gain.weight.sum()
        return Terms(gain.square() * error, {"error": error.detach(), "gain": gain.detach()})

    def networks(self) -> dict[str, nn.Module]:
        return {"toy": self.gain}


class ToyReward:
    """The picture's brightness, whatever the text."""

    def score(self, images: Tensor, texts: Sequence[str]) -> Scores:
        bright = images.float().mean((1, 2, 3))
        return Scores(bright, torch.full_like(bright, 0.5))


class ToyRule:
    """Keeps every second validation's weights and stops at the third."""

    def __init__(self) -> None:
        self.best_step: int | None = None
        self.best_reward: float | None = None
        self.seen = 0

    @property
    def exhausted(self) -> bool:
        return self.seen >= 3

    def update(self, step: int, reward: float) -> Decision:
        self.seen += 1
        if improved := self.seen % 2 == 0:
            self.best_step, self.best_reward = step, reward
        return Decision(improved, self.exhausted)

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen, "toy_step": self.best_step, "toy_reward": self.best_reward}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.seen = state["seen"]
        self.best_step, self.best_reward = state["toy_step"], state["toy_reward"]


def sharpness(pictures: Tensor, prompts: Sequence[str]) -> float:
    """Mean difference of neighbours, of uint8 pictures."""
    assert pictures.dtype == torch.uint8
    assert list(prompts) == ["a dog at sea", "a blue dog"]  # without the identifier
    return float(pictures.float().diff(dim=-1).abs().mean())


def toys() -> dict[str, Any]:
    return {
        "method": ToyMethod,
        "judges": {"sharpness": sharpness},
        "stopping": ToyRule(),
        "reward": ToyReward(),
    }


def events_of(world: World, out: Path, resume: bool = False, **more: Any) -> Any:
    """A job of six steps, validated every two."""
    settings = world.settings(more.pop("steps", 6))
    if "reward" in more:  # then nobody needs the model of another one
        settings = [setting for setting in settings if not setting.startswith("reward.")]
    subject = rpo.Subject.from_folder(world.photos, "dog")
    options = {"model": str(world.model), "out": out, "resume": resume, "settings": settings}
    return rpo.iterate(subject, **options, **more)


def records_of(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def break_at(job: Any, at: type, step: int) -> list[Any]:
    seen = []
    for event in job:
        seen.append(event)
        if isinstance(event, at) and getattr(event, "step", step) == step:
            break
    job.close()
    return seen


def assert_numbered(records: list[dict[str, Any]], seen: list[Any], run: str) -> None:
    """Every event is stamped, and numbers rise, over all sessions and in the file."""
    numbers = [event.number for event in seen]
    assert numbers == sorted(set(numbers))
    assert numbers[0] == 0
    assert {event.run for event in seen} == {run}
    times = [event.time for event in seen]
    assert times == sorted(times)
    assert times[0] > 1.7e9
    written = [record["number"] for record in records]
    assert written == sorted(set(written))
    assert {record["run"] for record in records} == {run}
    assert set(written) >= {event.number for event in seen if isinstance(event, Validated)}


def failing(at: int, error: BaseException) -> type[ToyMethod]:
    """A ToyMethod that raises in the step after `at` steps, the first time only."""
    left = [error]

    class Failing(ToyMethod):
        def loss(self, learner: Learner, data: Latents, batch: Visit) -> Terms:
            terms = super().loss(learner, data, batch)
            drawn = self.batch(data, at)
            if left and torch.equal(drawn.noise[0], batch.noise[0]):
                raise left.pop()
            return terms

    Failing.__name__ = "ToyMethod"
    return Failing


def until_raised(job: Iterator[Any]) -> tuple[list[Any], BaseException]:
    seen = []
    try:
        for event in job:
            seen.append(event)
    except BaseException as error:
        return seen, error
    raise AssertionError("nothing was raised")
