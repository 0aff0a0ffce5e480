"""benchmarks/own_pairs.py: a method from outside; its pairs, its labels, its gradient."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import World
from test_online import PROMPTS, make_method, next_value
from tiny import tiny_backbone

from benchmarks.own_pairs import FACTS, OwnPairs
from rpo.bench.order import make_orders
from rpo.bench.suite import read_suite
from rpo.config import METHODS, Config
from rpo.methods import method_class
from rpo.seeds import make_generator

VARIATIONS = Path(__file__).parents[1] / "benchmarks" / "online.toml"


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "own_pairs", FACTS)


@pytest.fixture
def method(world: World) -> OwnPairs:
    online = make_method(tiny_backbone("v_prediction"), world, pictures=4)
    config = replace(online.config, method="own_pairs")
    assert method_class(config) is OwnPairs
    return OwnPairs(replace(online.task, config=config))


def with_labels(method: OwnPairs, labels: str) -> OwnPairs:
    config: Config = method.config
    config = replace(config, reward=replace(config.reward, labels=labels))
    return OwnPairs(replace(method.task, config=config))


class Learner:
    def __init__(self, method: OwnPairs) -> None:
        self.denoiser = method.backbone.trainable_copy()


def test_the_drawing_with_the_higher_reward_is_preferred(method: OwnPairs) -> None:
    learner: Any = Learner(method)
    rows, seeds = [0, 1, 0, 1], [1, 2, 3, 4]
    latents, surely = method.judged(learner, rows, seeds)
    assert len(latents) == 4
    pictures = method.backbone.decode(latents)
    scores = method.task.reward.score(pictures, [PROMPTS[k].plain for k in rows])
    reward = [1 / (0.5 / i + 0.5 / t) for i, t in zip(scores.image, scores.text, strict=True)]
    assert surely.tolist() == [float(reward[0] > reward[2]), float(reward[1] > reward[3])]
    _, expected = with_labels(method, "expected").judged(learner, rows, seeds)
    gaps = [float(reward[k] - reward[k + 2]) for k in range(2)]
    assert expected.tolist() == pytest.approx([1 / (1 + math.exp(-gap)) for gap in gaps], abs=1e-6)


def test_at_the_base_model_the_gradient_is_half_of_each_error(method: OwnPairs) -> None:
    """m = 0: the loss is log 2, its gradient β (1/2 - p) ∇(err(x_b) - err(x_a)), p 0 or 1."""
    learner: Any = Learner(method)
    drawn = method.batch(next_value(method.prepare()), 4)
    loss = -method.reward(learner, drawn)
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)
    loss.backward()
    found = [p.grad.clone() for p in learner.denoiser.parameters() if p.grad is not None]
    learner.denoiser.zero_grad()

    rows = drawn.prompts[:2].tolist() * 2
    latents, surely = method.judged(learner, rows, drawn.seeds.tolist())
    timesteps, noise = method.draw_noise(2, make_generator(int(drawn.seeds[0]), "noise"))
    error = method.backbone.denoising_error(
        learner.denoiser, latents, torch.cat([noise] * 2), timesteps.repeat(2), method.told[rows]
    )
    beta = method.config.training.beta
    signs = torch.where(surely == 1, 1.0, -1.0)  # the preferred one's error must fall
    (beta / 2 * (signs * (error[:2] - error[2:])).mean()).backward()
    expected = [p.grad for p in learner.denoiser.parameters() if p.grad is not None]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


def test_the_suite_of_variations_changes_one_thing_a_row(tmp_path: Path) -> None:
    suite = read_suite(VARIATIONS)
    assert len(list(make_orders(suite, tmp_path))) == len(suite) == 3 * len(suite.rows)
    online = [row for row in suite.rows if row.method == "online"]
    (plain,) = (row for row in online if not row.changes)
    for row in online:
        assert (row.config == plain.config) == (row is plain)
    assert {len(row.changes) for row in online} == {0, 1, 3}  # three where L_pref's labels change
    assert len(read_suite(VARIATIONS, small=True).entries) == 1
