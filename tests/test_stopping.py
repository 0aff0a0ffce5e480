"""stopping.py: keep-best and patience."""

from __future__ import annotations

import pytest

from rpo.training.stopping import Decision, KeepBest


def replay(keeper: KeepBest, rewards: list[float], start: int = 0) -> list[Decision]:
    return [keeper.update((start + i) * 40, reward) for i, reward in enumerate(rewards)]


def test_keeps_the_highest_and_never_stops_without_patience() -> None:
    keeper = KeepBest()
    decisions = replay(keeper, [0.5, 0.7, 0.6, 0.1, 0.65, 0.2])
    assert [d.improved for d in decisions] == [True, True, False, False, False, False]
    assert not any(d.stop for d in decisions)
    assert (keeper.best_step, keeper.best_reward) == (40, 0.7)


def test_a_tie_keeps_the_earlier_step() -> None:
    keeper = KeepBest()
    assert [d.improved for d in replay(keeper, [0.5, 0.5])] == [True, False]
    assert keeper.best_step == 0


def test_keeping_the_last_never_looks_at_the_reward_and_never_stops() -> None:
    keeper = KeepBest(patience=1, keep="last")
    decisions = replay(keeper, [0.5, 0.4, 0.1])
    assert decisions == [Decision(improved=True, stop=False)] * 3
    assert (keeper.best_step, keeper.best_reward) == (80, 0.1)


def test_the_first_validation_is_the_best_even_when_it_is_zero_or_negative() -> None:
    assert KeepBest().update(0, 0.0).improved
    assert KeepBest().update(0, -3.0).improved


def test_patience_counts_validations_in_a_row_and_restarts_on_improvement() -> None:
    keeper = KeepBest(patience=2)
    decisions = replay(keeper, [0.5, 0.4, 0.6, 0.6, 0.5])
    assert [d.stop for d in decisions] == [False, False, False, False, True]
    assert keeper.best_step == 80


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), -float("inf")])
def test_a_reward_that_is_no_number_is_refused_and_leaves_no_trace(reward: float) -> None:
    keeper = KeepBest(patience=1)
    keeper.update(0, 0.5)
    with pytest.raises(ValueError, match="step 40"):
        keeper.update(40, reward)
    assert (keeper.best_step, keeper.stale) == (0, 0)


def test_negative_patience_is_refused() -> None:
    with pytest.raises(ValueError, match="patience"):
        KeepBest(patience=-1)


@pytest.mark.parametrize("cut", range(6))
def test_resumed_equals_uninterrupted(cut: int) -> None:
    rewards = [0.5, 0.6, 0.55, 0.6, 0.7]
    whole = KeepBest(patience=2)
    expected = replay(whole, rewards)
    first = KeepBest(patience=2)
    decisions = replay(first, rewards[:cut])
    state = first.state_dict()
    assert all(type(value) in (int, float) for value in state.values())
    second = KeepBest(patience=2)
    second.load_state_dict(state)
    assert decisions + replay(second, rewards[cut:], start=cut) == expected
    assert second.state_dict() == whole.state_dict()
