"""What a job is given from outside, in place of what its settings name, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rpo.config import METHODS, Config
from rpo.errors import UserError, near_names
from rpo.events import FIELDS
from rpo.runs.folder import RunFolder

if TYPE_CHECKING:
    from rpo.methods.method import Method
    from rpo.rewards.alignment import AlignmentReward
    from rpo.training.stopping import StoppingRule
    from rpo.training.validation import Judge


@dataclass(frozen=True)
class Parts:
    """What is given from outside, in place of what the settings name."""

    method: type[Method] | None = None
    reward: AlignmentReward | None = None
    stopping: StoppingRule | None = None
    judges: Mapping[str, Judge] = field(default_factory=dict)

    def check(self, config: Config, resumed: RunFolder | None) -> None:
        """Raises UserError for parts that are wrong, or others than `resumed` was made with."""
        self._check_method(config, resumed)
        for name in self.judges:
            if name in FIELDS["validated"]:
                raise UserError(
                    f"judges: {name!r} is a name that Validated has itself; choose another"
                )
        if resumed is not None:
            self._check_reward(config, resumed)

    def _check_method(self, config: Config, resumed: RunFolder | None) -> None:
        """Refuses an unknown method, or a learner that it cannot teach."""
        name = config.method
        if self.method is not None:
            return
        if name not in METHODS and resumed is not None:
            raise UserError(
                f"--resume: {resumed.path} was made in Python with a method of its own, the class "
                f"{name}; give it again: rpo.train(..., resume=True, method={name})"
            )
        if name not in METHODS:
            raise UserError(f"unknown method {name!r}; {near_names(name, METHODS)}")
        learners = METHODS[name].learners
        if config.training.weights not in learners:
            raise UserError(
                f"training.weights {config.training.weights} cannot be taught by method "
                f"{name}; use {' or '.join(learners)}"
            )

    def _check_reward(self, config: Config, resumed: RunFolder) -> None:
        """Refuses another reward than before; of one given from outside the class is known."""
        before = now = f"reward.model {config.reward.model}"
        if self.reward is not None:
            now = type(self.reward).__name__
        if "reward" not in resumed.environment()["models"]:
            before = resumed.started().get("reward_model", now)
        if now != before:
            raise UserError(
                f"--resume: {resumed.path} was made with the reward {before}, not {now}; give the "
                "same again, as reward= in Python if it was given there, or start a new run"
            )
