"""When to keep the weights and when to stop: a pure state machine over validation rewards."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol


@dataclass(frozen=True)
class Decision:
    """What one validation means: keep these weights? end the training?"""

    improved: bool
    stop: bool


class StoppingRule(Protocol):
    """What the loop asks after every validation. Its state is plain numbers, for resuming.

    Attributes:
        best_step, best_reward: of the weights to keep; None before the first validation.
        exhausted: whether the training should end.
    """

    best_step: int | None
    best_reward: float | None

    @property
    def exhausted(self) -> bool: ...

    def update(self, step: int, reward: float) -> Decision: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class KeepBest:
    """Remembers the step of the highest reward; a tie keeps the earlier step.

    keep: "best", or "last" for training without selection (Table 2): then every validation improves
    and the patience never runs out.
    patience: stop after this many validations in a row without improvement; 0 never stops (the
    paper runs to the end and keeps the best). ValueError if negative.
    """

    def __init__(self, patience: int = 0, keep: Literal["best", "last"] = "best") -> None:
        if patience < 0:
            raise ValueError(f"patience must be >= 0, not {patience}")
        self.patience, self.keep = patience, keep
        self.best_step: int | None = None
        self.best_reward: float | None = None
        self.stale = 0  # validations since the best one

    def update(self, step: int, reward: float) -> Decision:
        """Takes the reward of one validation. ValueError if it is not finite."""
        if not math.isfinite(reward):
            raise ValueError(f"the validation reward at step {step} is {reward}")
        improved = self.keep == "last" or self.best_reward is None or reward > self.best_reward
        if improved:
            self.best_step, self.best_reward, self.stale = step, float(reward), 0
        else:
            self.stale += 1
        return Decision(improved, stop=self.exhausted)

    @property
    def exhausted(self) -> bool:
        """Whether the patience has run out."""
        return 0 < self.patience <= self.stale

    def state_dict(self) -> dict[str, float]:
        """Plain numbers only; best_step -1 means that nothing was validated yet."""
        if self.best_step is None or self.best_reward is None:
            return {"best_step": -1, "best_reward": 0.0, "stale": 0}
        return {
            "best_step": self.best_step,
            "best_reward": self.best_reward,
            "stale": self.stale,
        }

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restores ``state_dict``'s numbers; patience stays the configured one."""
        seen = state["best_step"] >= 0
        self.best_step = int(state["best_step"]) if seen else None
        self.best_reward = float(state["best_reward"]) if seen else None
        self.stale = int(state["stale"])
