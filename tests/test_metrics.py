"""Metrics: cosines of hand-made directions, rankings by hand, intervals from printed t tables."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rpo.evaluation.metrics import (
    METRICS,
    Features,
    average_precision,
    harmonic_reward,
    photo_similarity,
    subject_similarity,
    text_similarity,
)
from rpo.evaluation.statistics import (
    bootstrap_interval,
    mean_interval,
    paired_difference,
    t_quantile,
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


# --- the registry: a value a picture -----------------------------------------------------


def two_pictures(**more: object) -> Features:
    """Pictures at 0 and 90 degrees, of one prompt; photos at 0, 60 and 120."""
    fields = {"prompts": torch.tensor([1, 1]), "photos": directions(0, 60, 120), **more}
    return Features(pictures=directions(0, 90), **fields)  # type: ignore[arg-type]


def measured(name: str, features: Features) -> list[float]:
    values = METRICS[name].values(features)
    assert values is not None
    assert values.dtype == torch.float64
    return values.tolist()


@pytest.mark.parametrize("name", ["dino", "clip_i"])
def test_each_picture_against_the_photos(name: str) -> None:
    # 0: 1, 1/2, -1/2; 90: 0, sqrt(3)/2, sqrt(3)/2
    expected = [1 / 3, math.sqrt(3) / 3]
    assert measured(name, two_pictures()) == pytest.approx(expected, abs=1e-12)
    whole = subject_similarity(directions(0, 90), directions(0, 60, 120))
    assert sum(expected) / 2 == pytest.approx(whole)


def test_each_picture_against_its_prompt() -> None:
    features = two_pictures(texts=directions(60, 270))
    assert measured("clip_t", features) == pytest.approx([0.5, -1], abs=1e-12)


def test_each_pictures_harmonic_reward() -> None:
    # picture 0, text 90: S_I = (1 + 3/4 + 1/4) / 3 = 2/3, S_T = 1/2 -> 1 / (.75 + 1) = 4/7
    # picture 90, text 90: S_I = (1/2 + 2 h) / 3 with h = (cos 30 + 1) / 2, S_T = 1
    second = (0.5 + math.sqrt(3) / 2 + 1) / 3
    features = two_pictures(texts=directions(90, 90))
    expected = [4 / 7, 2 * second / (second + 1)]
    assert measured("harmonic", features) == pytest.approx(expected, abs=1e-12)
    text_alone = two_pictures(texts=directions(90, 90), lam=0.0)
    assert measured("harmonic", text_alone) == pytest.approx([0.5, 1], abs=1e-12)


def test_diversity_is_within_a_prompt_and_has_no_value_for_an_only_picture() -> None:
    # prompt 7: 0, 60 and 180 degrees, distances 1/2 (0-60), 2 (0-180), 3/2 (60-180)
    features = Features(
        directions(0, 60, 45, 180), torch.tensor([7, 7, 8, 7]), photos=directions(0, 1)
    )
    values = measured("diversity", features)
    assert [values[k] for k in (0, 1, 3)] == pytest.approx([1.25, 1, 1.75], abs=1e-12)
    assert math.isnan(values[2])
    assert sum(values[k] for k in (0, 1, 3)) / 3 == pytest.approx((0.5 + 2 + 1.5) / 3)


def test_class_drift_compares_pictures_of_the_same_noise() -> None:
    features = two_pictures(class_tuned=directions(0, 90, 180), class_base=directions(0, 30, 0))
    assert measured("class_drift", features) == pytest.approx([0, 0.5, 2], abs=1e-12)
    degrees = directions(*range(90)).float()
    unmoved = measured("class_drift", two_pictures(class_tuned=degrees, class_base=degrees))
    assert unmoved == pytest.approx([0] * 90, abs=1e-6)
    assert min(unmoved) >= 0  # no "-0.000" in a table


def test_average_precision_by_hand() -> None:
    relevant = torch.tensor([True, False, True, False])
    # relevant at ranks 1 and 3: (1/1 + 2/3) / 2; at 2 and 4: (1/2 + 2/4) / 2; all before: 1
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.6], [0.8, 0.9, 0.6, 0.7], [0.9, 0.1, 0.8, 0.2]])
    assert average_precision(scores, relevant).tolist() == pytest.approx([5 / 6, 1 / 2, 1])
    # a tie of the first two shares rank 2: (1/2 + 2/3) / 2
    tied = torch.tensor([[0.9, 0.9, 0.7, 0.6]])
    assert average_precision(tied, relevant).tolist() == pytest.approx([7 / 12])
    for none in (torch.ones(4, dtype=torch.bool), torch.zeros(4, dtype=torch.bool)):
        assert average_precision(scores, none).isnan().all()


def test_average_precision_does_not_depend_on_the_order_of_the_gallery() -> None:
    torch.manual_seed(0)
    scores = torch.randint(5, (6, 12)).double()  # with ties
    relevant = torch.arange(12) % 3 == 0
    order = torch.randperm(12)
    again = average_precision(scores[:, order], relevant[order])
    torch.testing.assert_close(average_precision(scores, relevant), again, rtol=0, atol=1e-12)


def test_identity_rank_among_all_and_in_the_class() -> None:
    # gallery: own at 10 and 100, a rival of the class at 30, another class at 20 and 50
    features = two_pictures(
        gallery=directions(10, 100, 30, 20, 50),
        own=torch.tensor([True, True, False, False, False]),
        peers=torch.tensor([True, True, True, False, False]),
    )
    # from 0: 10, 20, 30, 50, 100 -> own at 1 and 5; from 90: 100, 50, 30, 20, 10 -> 1 and 5
    assert measured("identity_rank", features) == pytest.approx([(1 + 2 / 5) / 2] * 2)
    # without the other class: own at 1 and 3, twice
    assert measured("identity_rank_in_class", features) == pytest.approx([(1 + 2 / 3) / 2] * 2)


def test_the_aesthetic_head_is_its_arithmetic() -> None:
    # pictures (3, 4) and (0, 2) as unit vectors: (.6, .8) and (0, 1)
    pictures = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    first = (torch.tensor([[1.0, 2.0], [0.0, -5.0]]), torch.tensor([0.5, 1.0]))
    second = (torch.tensor([[2.0, 3.0]]), torch.tensor([10.0]))
    one = Features(pictures, torch.tensor([1, 2]), pictures, head=(second,))
    assert measured("aesthetic", one) == pytest.approx([1.2 + 2.4 + 10, 3 + 10], rel=1e-6)
    two = Features(pictures, torch.tensor([1, 2]), pictures, head=(first, second))
    # (.6, .8) -> (2.7, -3) -> 5.4 - 9 + 10; no non-linearity cuts off the -3
    assert measured("aesthetic", two) == pytest.approx([6.4, 2 * 2.5 - 3 * 4 + 10], rel=1e-6)


def test_what_a_metric_needs_and_does_not_get_is_not_measured() -> None:
    bare = two_pictures()
    absent = {name for name, metric in METRICS.items() if metric.values(bare) is None}
    assert absent == {
        *("clip_t", "harmonic", "identity_rank", "identity_rank_in_class"),
        *("class_drift", "aesthetic"),
    }


def test_no_value_depends_on_the_order_of_pictures_and_photos() -> None:
    torch.manual_seed(1)
    made = {
        "pictures": torch.randn(6, 5).double(),
        "prompts": torch.tensor([1, 1, 2, 2, 2, 3]),
        "photos": torch.randn(4, 5).double(),
        "texts": torch.randn(6, 5).double(),
        "gallery": torch.randn(9, 5).double(),
        "own": torch.arange(9) < 4,
        "peers": torch.arange(9) < 6,
        "head": ((torch.randn(1, 5).double(), torch.zeros(1).double()),),
    }
    order, photos = torch.randperm(6), torch.randperm(4)
    turned = {**made, "photos": made["photos"][photos]}
    turned |= {name: made[name][order] for name in ("pictures", "prompts", "texts")}
    for name, metric in METRICS.items():
        if metric.rows == "class":
            continue
        values = metric.values(Features(**made))
        again = metric.values(Features(**turned))
        assert values is not None
        assert again is not None
        torch.testing.assert_close(again, values[order], equal_nan=True, rtol=0, atol=1e-12)
        assert values.nan_to_num(0).std() > 0, name


# --- the bootstrap -----------------------------------------------------------------------


def test_bootstrap_of_two_values_by_hand() -> None:
    # a resample of (0, 1) has the mean 0, 1/2 or 1 with the chances 1/4, 1/2, 1/4
    assert bootstrap_interval([1, 0]) == bootstrap_interval([0, 1])
    wide, narrow = bootstrap_interval([0, 1]), bootstrap_interval([0, 1], level=0.4)
    assert (wide.mean, wide.low, wide.high, wide.n) == (0.5, 0, 1, 2)
    assert (narrow.low, narrow.high) == (0.5, 0.5)


def test_bootstrap_agrees_with_the_normal_theory_of_many_values() -> None:
    values = [math.sin(1000 * k) for k in range(400)]  # deviation 1 / sqrt(2)
    interval = bootstrap_interval(values)
    assert interval.half_width == pytest.approx(1.96 * math.sqrt(0.5 / 400), rel=0.05)
    assert bootstrap_interval([0.25] * 5).half_width == 0
    with pytest.raises(ValueError, match="two values"):
        bootstrap_interval([1.0])
