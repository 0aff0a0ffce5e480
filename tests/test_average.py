"""training.ema: the average of the weights, judged in their place."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from teaching import (
    Judge,
    make_trainer,
    same,
    similarity_config,
    weights,
)

from rpo.errors import UserError
from rpo.events import Progress, Validated
from rpo.models.backbone import Backbone
from rpo.runs.checkpoint import load_state, save_state


@pytest.mark.parametrize("decay", [0.6, 0.99])
def test_the_average_by_an_independent_recursion(epsilon: Backbone, decay: float) -> None:
    """a_0 = w_0; a_k = d a_(k-1) + (1 - d) w_k with d = min(decay, k / (k + 1))."""
    trainer = make_trainer(epsilon, similarity_config(ema=decay, steps=12))
    expected = {name: w.double() for name, w in weights(trainer).items()}
    history = [weights(trainer)]
    for k in range(1, 13):
        trainer._advance()
        history.append(weights(trainer))
        d = min(decay, k / (k + 1))
        for name, weight in history[-1].items():
            expected[name] = d * expected[name] + (1 - d) * weight.double()
            close = {"rtol": 1e-5, "atol": 1e-6}
            torch.testing.assert_close(trainer.average[name].double(), expected[name], **close)
    if decay == 0.99:  # never reached: the plain mean of all weights so far
        name = max(expected, key=lambda name: expected[name].numel())
        mean = torch.stack([past[name].double() for past in history]).mean(0)
        torch.testing.assert_close(expected[name], mean)
    assert not same(dict(trainer.average), weights(trainer))


def test_the_average_is_judged_and_the_weights_go_on(epsilon: Backbone) -> None:
    averaged = make_trainer(epsilon, similarity_config(ema=0.5))
    plain = make_trainer(epsilon, similarity_config())
    averages = {}
    for event in averaged.run():
        if isinstance(event, Validated):
            averages[event.step] = {n: a.clone() for n, a in averaged.average.items()}
    list(plain.run())
    assert same(weights(averaged), weights(plain))  # what learns knows nothing of it
    judge: Any = averaged.validator
    assert list(averages) == [0, 3, 6, 8]
    for seen, step in zip(judge.seen, averages, strict=True):
        assert same(seen, averages[step])
    assert not same(judge.seen[-1], weights(averaged))


def test_weights_come_back_where_a_validation_is_broken_off(epsilon: Backbone) -> None:
    class Impatient(Judge):
        def run(self, learner: Any) -> Any:
            yield from ()
            raise RuntimeError("broken off")

    trainer = make_trainer(epsilon, similarity_config(ema=0.5))
    list(trainer.run(until=2))
    before, average = weights(trainer), {n: a.clone() for n, a in trainer.average.items()}
    trainer.validator = Impatient()  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match="broken off"):
        list(trainer.run())
    assert trainer.step == 3
    assert not same(weights(trainer), before)
    assert not same(weights(trainer), dict(trainer.average))
    with trainer.averaged():
        assert not same(weights(trainer), average)
    through = make_trainer(epsilon, similarity_config(ema=0.5))
    list(through.run(until=3))
    assert same(weights(trainer), weights(through))


@pytest.mark.parametrize("pause", [0, 2, 3, 7])
def test_an_average_resumes(epsilon: Backbone, tmp_path: Path, pause: int) -> None:
    through = make_trainer(epsilon, similarity_config(ema=0.9))
    list(through.run())
    before = make_trainer(epsilon, similarity_config(ema=0.9))
    list(before.run(until=pause))
    save_state(before.state_dict(), tmp_path / "state")
    after = make_trainer(epsilon, similarity_config(ema=0.9))
    after.load_state_dict(load_state(tmp_path / "state"))
    list(after.run())
    assert same(weights(after), weights(through))
    assert same(dict(after.average), dict(through.average))


def test_a_state_taken_while_the_average_is_judged_resumes(epsilon: Backbone) -> None:
    """Then the weights and their average have changed places."""
    through = make_trainer(epsilon, similarity_config(ema=0.9))
    list(through.run())
    broken, state = make_trainer(epsilon, similarity_config(ema=0.9)), {}
    for event in broken.run():
        if isinstance(event, Progress) and broken.step == 3:
            state = copy.deepcopy(broken.state_dict())
            break
    after = make_trainer(epsilon, similarity_config(ema=0.9))
    after.load_state_dict(state)
    list(after.run())
    assert same(weights(after), weights(through))
    assert same(dict(after.average), dict(through.average))


def test_a_state_without_an_average_is_refused(epsilon: Backbone) -> None:
    plain = make_trainer(epsilon, similarity_config())
    with pytest.raises(UserError, match="another model"):
        make_trainer(epsilon, similarity_config(ema=0.9)).load_state_dict(plain.state_dict())
