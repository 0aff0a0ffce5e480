"""DINO, CLIP-I, CLIP-T and the λ-harmonic reward on features, and confidence intervals.

Pure functions: the features come from `rpo.models.encoders`, so nothing here needs a model. The
protocol is DreamBooth's (arXiv 2208.12242, section 4.1), as the RPO paper uses it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from rpo.rewards.harmonic import Scores, image_alignment, text_alignment


def subject_similarity(generated: Tensor, photos: Tensor) -> float:
    """Mean cosine over all pairs of a generated picture and a photo: DINO, or CLIP-I.

    generated (N, D), photos (M, D). ValueError for other shapes.
    """
    return _cosines(generated, photos).mean().item()


def photo_similarity(photos: Tensor) -> float:
    """Mean cosine over all pairs of two different photos: the "real photos" row of the tables.

    photos (M, D) with M >= 2, else ValueError. A method far above this copies the photos.
    """
    count = len(photos)
    if count < 2:
        raise ValueError("the similarity among photos needs two of them")
    cosines = _cosines(photos, photos)
    return ((cosines.sum() - cosines.trace()) / (count * (count - 1))).item()


def text_similarity(generated: Tensor, texts: Tensor) -> float:
    """Mean cosine of each picture with its own prompt: CLIP-T.

    generated (N, D), texts (N, D) of the prompts *without* the identifier. ValueError for other
    shapes.
    """
    if generated.ndim != 2 or generated.shape != texts.shape or not len(texts):
        raise ValueError(f"one text per picture: {tuple(generated.shape)}, {tuple(texts.shape)}")
    return F.cosine_similarity(generated, texts, dim=-1).mean().item()


def harmonic_reward(generated: Tensor, photos: Tensor, texts: Tensor, lam: float = 0.5) -> float:
    """Mean λ-harmonic reward of the pictures (Eq. 5) in the features of any two-tower encoder.

    generated (N, D), photos (M, D), texts (N, D). ValueError for other shapes or λ not in [0, 1].
    """
    scores = Scores(image_alignment(generated, photos), text_alignment(generated, texts))
    return scores.combine(lam).mean().item()


def _cosines(first: Tensor, second: Tensor) -> Tensor:
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(
            f"features must be (N, D) and (M, D), not {tuple(first.shape)}, {tuple(second.shape)}"
        )
    if not len(first) or not len(second):
        raise ValueError("no features to compare")
    return F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).T


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
