"""An estimate of a known model, made once, and a card's rate."""

from __future__ import annotations

from functools import cache

from rpo.config import load_config
from rpo.planning.architectures import load_architecture
from rpo.planning.estimate import Estimator
from rpo.planning.rates import (
    Rate,
)

RATE = Rate(1e12, 2e12, "as in a test")


@cache
def estimator(model: str = "emojiland") -> Estimator:
    return Estimator(load_architecture(model), load_config(model=model), 8, 8)
