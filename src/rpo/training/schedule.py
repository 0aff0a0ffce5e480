"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from rpo.config import TrainingConfig


def learning_rate(step: int, settings: TrainingConfig) -> float:
    """That of step `step`, counted from 0: warm-up, then constant or falling towards 0.

    It rises as (step + 1) / warmup, so that the last step of the warm-up has the full rate; with
    u = (step - warmup) / (steps - warmup) it is then multiplied by 1, by 1 - u, or by
    (1 + cos(pi u)) / 2.
    """
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    if settings.schedule == "constant":
        return settings.learning_rate
    done = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    share = 1 - done if settings.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    return settings.learning_rate * share
