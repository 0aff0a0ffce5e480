"""evaluation/metrics.py: cosines of hand-made directions, intervals from printed t tables."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rpo.evaluation.metrics import (
    harmonic_reward,
    mean_interval,
    paired_difference,
    photo_similarity,
    subject_similarity,
    t_quantile,
    text_similarity,
)


def directions(*degrees: float, length: float = 1.0) -> Tensor:
    rows = [(math.cos(math.radians(d)), math.sin(math.radians(d))) for d in degrees]
    return length * torch.tensor(rows, dtype=torch.float64)


def test_subject_similarity_is_the_mean_over_all_pairs() -> None:
    # cosines of 0 with 60 and 90: 1/2 and 0; of 90 with 60 and 90: sqrt(3)/2 and 1
    expected = (0.5 + 0 + math.sqrt(3) / 2 + 1) / 4
    value = subject_similarity(directions(0, 90), directions(60, 90))
    assert value == pytest.approx(expected, abs=1e-12)


def test_similarities_ignore_the_length_of_the_features() -> None:
    assert subject_similarity(directions(0, length=9), directions(60)) == pytest.approx(0.5)
    assert text_similarity(directions(0, length=9), directions(60, length=4)) == pytest.approx(0.5)


def test_photo_similarity_leaves_out_each_photo_with_itself() -> None:
    # 0-60 and 60-120: 1/2; 0-120: -1/2
    assert photo_similarity(directions(0, 60, 120)) == pytest.approx(0.5 / 3, abs=1e-12)
    with pytest.raises(ValueError, match="two"):
        photo_similarity(directions(0))


def test_text_similarity_compares_each_picture_with_its_own_prompt() -> None:
    value = text_similarity(directions(0, 90), directions(60, 270))
    assert value == pytest.approx((0.5 - 1) / 2, abs=1e-12)


def test_harmonic_reward_is_the_mean_of_the_pictures_own_rewards() -> None:
    # picture 0: S_I = (1/2 + 1) / 2 = 3/4, S_T = (0 + 1) / 2 = 1/2 -> 1 / (2/3 + 1) = 3/5
    # picture 90: S_I = (cos 30 + 1) / 2, S_T = 1 -> 2 S_I / (S_I + 1)
    second = (math.sqrt(3) / 2 + 1) / 2
    expected = (0.6 + 2 * second / (second + 1)) / 2
    features = directions(0, 90), directions(60), directions(90, 90)
    assert harmonic_reward(*features) == pytest.approx(expected, abs=1e-12)
    assert harmonic_reward(*features, lam=0) == pytest.approx(0.75, abs=1e-12)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="features must be"):
        subject_similarity(torch.ones(2, 3), torch.ones(2, 4))
    with pytest.raises(ValueError, match="no features"):
        subject_similarity(torch.ones(0, 3), torch.ones(2, 3))
    with pytest.raises(ValueError, match="one text per picture"):
        text_similarity(torch.ones(2, 3), torch.ones(1, 3))
    with pytest.raises(ValueError, match="one text per image"):
        harmonic_reward(torch.ones(2, 3), torch.ones(2, 3), torch.ones(1, 3))


# Two-sided critical values as every statistics book prints them.
TABLE = [
    (1, 0.95, 12.706),
    (2, 0.95, 4.303),
    (3, 0.95, 3.182),
    (5, 0.95, 2.571),
    (5, 0.99, 4.032),
    (10, 0.90, 1.812),
    (11, 0.95, 2.201),
    (29, 0.95, 2.045),
    (120, 0.95, 1.980),
    (120, 0.99, 2.617),
]


@pytest.mark.parametrize(("freedom", "level", "printed"), TABLE)
def test_t_quantile_agrees_with_the_printed_table(
    freedom: int, level: float, printed: float
) -> None:
    assert t_quantile(freedom, level) == pytest.approx(printed, abs=5.1e-4)


def test_t_quantile_in_closed_form() -> None:
    # one degree of freedom is Cauchy: tan(pi level / 2); two: level sqrt(2 / (1 - level^2))
    assert t_quantile(1, 0.5) == pytest.approx(1.0, rel=1e-12)
    assert t_quantile(2, 0.8) == pytest.approx(0.8 * math.sqrt(2 / 0.36), rel=1e-12)


@pytest.mark.parametrize(("freedom", "level"), [(0, 0.95), (3, 0.0), (3, 1.0)])
def test_t_quantile_refuses_what_has_none(freedom: int, level: float) -> None:
    with pytest.raises(ValueError, match="freedom must be"):
        t_quantile(freedom, level)


def test_mean_interval() -> None:
    # mean 2, variance 1, t(2) = 4.303: half width 4.303 / sqrt(3) = 2.484
    interval = mean_interval([1, 2, 3])
    assert (interval.mean, interval.n) == (2, 3)
    assert interval.half_width == pytest.approx(2.484, abs=1e-3)
    assert (interval.low, interval.high) == pytest.approx((-0.484, 4.484), abs=1e-3)
    assert mean_interval([0.5] * 6).half_width == 0
    with pytest.raises(ValueError, match="two values"):
        mean_interval([1.0])


def test_a_paired_difference_takes_out_what_the_pairs_share() -> None:
    # differences 1, 2, 3 under a spread between the pairs that would drown an unpaired one
    interval = paired_difference([101, 1002, 10003], [100, 1000, 10000])
    assert interval == mean_interval([1, 2, 3])
    with pytest.raises(ValueError, match="zip"):
        paired_difference([1, 2, 3], [1, 2])
