"""The course of a run: its events, resuming, patience, and what must hold whatever is set."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from looping import comparable, make_config, make_trainer, weights
from teaching import same
from torch import Tensor

from rpo.errors import UserError
from rpo.events import Progress, StepDone, Stopped, Validated
from rpo.models.backbone import Backbone
from rpo.runs.checkpoint import load_state, save_state


def test_events_in_order(epsilon: Backbone) -> None:
    trainer = make_trainer(epsilon, make_config(steps=7), rewards=[0.3, 0.5, 0.5, 0.4])
    events = list(trainer.run())
    validated = [event for event in events if isinstance(event, Validated)]
    assert [(v.step, v.improved) for v in validated] == [(0, 1), (3, 1), (6, 0), (7, 0)]
    assert [v.reward for v in validated] == pytest.approx([0.3, 0.5, 0.5, 0.4])
    assert [e.step for e in events if isinstance(e, StepDone)] == list(range(1, 8))
    assert events[-1] == Stopped(7, 3, "finished")
    kinds = "".join(type(event).__name__[0] for event in events)
    assert kinds == "PV" + "SSSPV" + "SSSPV" + "SPV" + "S"


def test_all_steps_done_is_finished_though_the_patience_ran_out(epsilon: Backbone) -> None:
    trainer = make_trainer(epsilon, make_config(steps=6, patience=1), rewards=[0.5, 0.9, 0.1])
    assert list(trainer.run())[-1] == Stopped(6, 3, "finished")


def test_gradients_do_not_outlive_their_step(epsilon: Backbone) -> None:
    trainer = make_trainer(epsilon, make_config(steps=1))
    list(trainer.run())
    assert [p for p in trainer.parameters.values() if p.grad is not None] == []


@pytest.mark.parametrize("every", [2, 100])
def test_steps_reported_together_are_the_same_steps(epsilon: Backbone, every: int) -> None:
    """As on a GPU, which the host asks for its figures only now and then."""
    single, grouped = (make_trainer(epsilon, make_config(steps=8)) for _ in range(2))
    grouped.report_every = every
    expected, ahead = comparable(single.run()), 0
    events = []
    for event in grouped.run():
        events += comparable([event])
        if isinstance(event, StepDone):
            ahead = max(ahead, grouped.step - event.step)
    assert events == expected
    assert ahead == min(every, 3) - 1  # a validation every 3 steps comes in between
    assert same(weights(single), weights(grouped))


def test_steps_that_nobody_saw_are_not_forgotten(epsilon: Backbone) -> None:
    trainer = make_trainer(epsilon, make_config(steps=8, every=100))
    trainer.report_every = 5
    seen = []
    for event in trainer.run():
        if isinstance(event, StepDone):
            seen.append(event.step)
            if event.step == 2:
                break
    assert trainer.step == 5
    assert seen + [event.step for event in trainer.unreported()] == [1, 2, 3, 4, 5]
    assert trainer.unreported() == []


def test_patience_stops(epsilon: Backbone) -> None:
    trainer = make_trainer(epsilon, make_config(steps=30, patience=2), rewards=[0.1, 0.9, 0.2, 0.3])
    assert list(trainer.run())[-1] == Stopped(9, 3, "patience")
    assert list(trainer.run()) == [Stopped(9, 3, "patience")]
    patient = make_trainer(epsilon, make_config(steps=30, patience=3), rewards=[0.1, 0.95])
    patient.load_state_dict(trainer.state_dict())
    assert isinstance(next(patient.run()), StepDone)  # a raised patience goes on


@pytest.mark.parametrize("pause", [0, 3, 4, 7])
def test_resumed_equals_uninterrupted(backbone: Backbone, pause: int, tmp_path: Path) -> None:
    config = make_config()
    through = make_trainer(backbone, config)
    expected = comparable(through.run())

    before = make_trainer(backbone, config)
    events = comparable(before.run(until=pause))
    save_state(before.state_dict(), tmp_path / "state.safetensors")
    after = make_trainer(backbone, config)
    after.load_state_dict(load_state(tmp_path / "state.safetensors"))
    events += comparable(after.run())
    assert events == expected
    assert same(weights(after), weights(through))


@pytest.mark.parametrize("last_seen", [StepDone, Progress, Validated])
def test_a_state_taken_at_any_event_resumes(epsilon: Backbone, last_seen: type) -> None:
    """Even between a step and the validation that is due after it."""
    through = make_trainer(epsilon, make_config())
    expected = comparable(through.run())
    broken, events, state = make_trainer(epsilon, make_config()), [], {}
    for event in broken.run():
        events += comparable([event])
        if broken.step == 3 and isinstance(event, last_seen):
            state = broken.state_dict()
            break
    after = make_trainer(epsilon, make_config())
    after.load_state_dict(state)
    list(broken.run())  # the source of the state may go on: nothing is shared
    events += comparable(after.run())
    skip = Progress("validation", 0, 1)
    assert [e for e in events if e != skip] == [e for e in expected if e != skip]
    assert same(weights(after), weights(through))


def test_the_seed_decides_everything(epsilon: Backbone) -> None:
    def outcome(seed: int) -> tuple[list, dict[str, Tensor]]:
        torch.manual_seed(torch.seed())  # the global generator has no say
        trainer = make_trainer(epsilon, make_config(seed=seed))
        return comparable(trainer.run()), weights(trainer)

    (events, first), (again, second), (_, other) = outcome(0), outcome(0), outcome(1)
    assert events == again
    assert same(first, second)
    assert not same(first, other)


def test_a_state_of_another_model_is_refused(epsilon: Backbone) -> None:
    trainer = make_trainer(epsilon, make_config())
    state = trainer.state_dict()
    state["weights"] = dict(list(state["weights"].items())[1:])
    with pytest.raises(UserError, match="another model"):
        trainer.load_state_dict(state)
    with pytest.raises(UserError, match="another model"):
        trainer.load_state_dict({})


def test_not_a_number_stops_with_a_remedy(epsilon: Backbone) -> None:
    trainer = make_trainer(epsilon, make_config())
    trainer.data.reference_latents[:] = math.nan
    before = weights(trainer)
    with pytest.raises(UserError, match=r"^step 1, training: the loss became nan.*rate") as caught:
        list(trainer.run())
    assert "\n" not in str(caught.value)
    assert same(weights(trainer), before)

    runaway = make_trainer(epsilon, make_config(learning_rate=1e20))
    with pytest.raises(UserError, match=r"^step [2-8], .*training.learning_rate 1e\+20"):
        list(runaway.run())
