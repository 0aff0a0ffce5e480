"""Confidence intervals of means: Student's t, and the bootstrap over subjects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """A mean over `n` independent units, and its confidence interval from `low` to `high`."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def half_width(self) -> float:
        """The "±" of a table."""
        return (self.high - self.low) / 2


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Student's t interval of the mean of independent values.

    Repetitions on one subject are not independent of each other: average them first, and give
    one value a subject. ValueError for fewer than two values.
    """
    count = len(values)
    if count < 2:
        raise ValueError("a confidence interval needs two values or more")
    mean = math.fsum(values) / count
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    half = t_quantile(count - 1, level) * math.sqrt(variance / count)
    return Interval(mean, mean - half, mean + half, count)


def paired_difference(
    first: Sequence[float], second: Sequence[float], level: float = 0.95
) -> Interval:
    """Student's t interval of the mean of first - second, unit by unit.

    ValueError unless both have the same number of values, two or more.
    """
    return mean_interval([a - b for a, b in zip(first, second, strict=True)], level)


def t_quantile(freedom: int, level: float = 0.95) -> float:
    """The t with P(|T| < t) = level, for Student's T with a whole number of degrees of freedom.

    ValueError unless freedom >= 1 and 0 < level < 1.
    """
    if freedom < 1 or not 0 < level < 1:
        raise ValueError(f"freedom must be >= 1 and level in (0, 1), not {freedom}, {level}")
    low, high = 0.0, math.pi / 2
    for _ in range(60):  # halving an interval 60 times exhausts a double's precision
        angle = (low + high) / 2
        low, high = (angle, high) if _coverage(angle, freedom) < level else (low, angle)
    return math.sqrt(freedom) * math.tan((low + high) / 2)


def _coverage(angle: float, freedom: int) -> float:
    """P(|T| < sqrt(ν) tan(angle)): Abramowitz and Stegun 26.7.3 (ν odd) and 26.7.4 (ν even).

    Both are sin θ times a series in powers of cos θ, in which each term is the one before times
    cos² θ (k - 1) / k; an odd ν starts one power later and adds θ itself.
    """
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    series = 0.0
    for power in range(odd, freedom - 1, 2):
        series += term
        term *= math.cos(angle) ** 2 * (power + 1) / (power + 2)
    series *= math.sin(angle)
    return 2 / math.pi * (angle + series) if odd else series


def bootstrap_interval(values: Sequence[float], level: float = 0.95, seed: int = 0) -> Interval:
    """The percentile bootstrap interval of the mean (Efron 1979) of independent values.

    It assumes no normal distribution, but of few values it is too narrow: below about ten, look at
    the values themselves. The order of the values changes nothing. ValueError for fewer than two.
    """
    count = len(values)
    if count < 2:
        raise ValueError("a confidence interval needs two values or more")
    row = torch.tensor(sorted(values), dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(count, (RESAMPLES, count), generator=generator)
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = row[drawn].mean(dim=1).quantile(tails).tolist()
    return Interval(math.fsum(values) / count, low, high, count)
