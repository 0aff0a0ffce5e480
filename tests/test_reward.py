"""harmonic.py and alignment.py: Eq. 5 and 6 by hand, the reward model on a stub encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from rpo.errors import UserError
from rpo.models.encoders import Encoder
from rpo.rewards.alignment import AlignmentReward
from rpo.rewards.harmonic import (
    MEANS,
    Scores,
    arithmetic_mean,
    draw_labels,
    harmonic_mean,
    image_alignment,
    preference_probability,
    text_alignment,
)


def direction(degrees: float, length: float = 1.0) -> list[float]:
    return [length * math.cos(math.radians(degrees)), length * math.sin(math.radians(degrees))]


@pytest.mark.parametrize(
    ("s_image", "s_text", "harmonic"), [(0.9, 0.01, 0.020), (0.7, 0.21, 0.323)]
)
def test_worked_example(s_image: float, s_text: float, harmonic: float) -> None:
    """Both pairs have the same arithmetic mean; the harmonic one punishes the lopsided pair."""
    pair = torch.tensor([s_image]), torch.tensor([s_text])
    assert harmonic_mean(*pair, 0.5).item() == pytest.approx(harmonic, abs=5e-4)
    assert arithmetic_mean(*pair, 0.5).item() == pytest.approx(0.455)


def test_lambda_weighs_the_image() -> None:
    # 1 / (0.3 / 0.6 + 0.7 / 0.35) = 1 / 2.5; arithmetic 0.3 * 0.6 + 0.7 * 0.35 = 0.425
    s_image, s_text = torch.tensor(0.6), torch.tensor(0.35)
    assert harmonic_mean(s_image, s_text, 0.3).item() == pytest.approx(0.4)
    assert arithmetic_mean(s_image, s_text, 0.3).item() == pytest.approx(0.425)


@pytest.mark.parametrize("mean", MEANS)
def test_lambda_zero_is_text_and_lambda_one_is_image(mean: str) -> None:
    scores = Scores(image=torch.tensor([0.0, 0.9]), text=torch.tensor([0.8, 0.0]))
    assert scores.combine(0, mean).tolist() == scores.text.tolist()
    assert scores.combine(1, mean).tolist() == scores.image.tolist()


def test_a_zero_score_gives_zero_and_never_nan() -> None:
    s_image, s_text = torch.tensor([0.0, 0.5, 0.0]), torch.tensor([0.5, 0.0, 0.0])
    assert harmonic_mean(s_image, s_text, 0.5).tolist() == [0, 0, 0]


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("lam", [-0.1, 1.1, math.nan])
def test_lambda_outside_its_range_is_refused(mean: str, lam: float) -> None:
    with pytest.raises(ValueError, match="lambda"):
        MEANS[mean](torch.ones(1), torch.ones(1), lam)


def test_unknown_mean_is_refused() -> None:
    with pytest.raises(ValueError, match="harmonic, arithmetic"):
        Scores(torch.ones(1), torch.ones(1)).combine(0.5, "geometric")


def test_image_alignment_averages_over_the_references() -> None:
    # cosines of 0° with 0°, 90° and 180° are 1, 0 and -1: scores 1, 0.5, 0, mean 0.5;
    # 60° gives (1.5 + (cos 30° + 1) + 0.5) / 6. Lengths do not matter.
    images = torch.tensor([direction(0, 3.0), direction(60)])
    references = torch.tensor([direction(0), direction(90, 0.1), direction(180)])
    expected = [0.5, (1.5 + math.sqrt(3) / 2 + 1 + 0.5) / 6]
    assert image_alignment(images, references).tolist() == pytest.approx(expected)
    with pytest.raises(ValueError, match="reference"):
        image_alignment(images, references[:0])


def test_text_alignment_pairs_rows() -> None:
    images = torch.tensor([direction(0), direction(0), direction(10)])
    texts = torch.tensor([direction(60), direction(180), direction(10, 7.0)])
    scores = text_alignment(images, texts)
    assert scores.tolist() == pytest.approx([0.75, 0.0, 1.0])
    assert scores.min() >= 0
    assert scores.max() <= 1
    with pytest.raises(ValueError, match="one text per image"):
        text_alignment(images, texts[:1])


def test_preference_probability_is_a_logistic_of_the_gap() -> None:
    p = preference_probability(torch.tensor([[0.5], [0.9]]), torch.tensor([0.5, 0.1]))  # (2, 2)
    expected = [
        [0.5, 1 / (1 + math.exp(-0.4))],
        [1 / (1 + math.exp(-0.4)), 1 / (1 + math.exp(-0.8))],
    ]
    for row, numbers in zip(p.tolist(), expected, strict=True):
        assert row == pytest.approx(numbers)
    # A temperature of 0.1 makes a gap of 0.4 count as 4.
    sure = preference_probability(torch.tensor(0.9), torch.tensor(0.5), temperature=0.1)
    assert sure.item() == pytest.approx(1 / (1 + math.exp(-4)))
    with pytest.raises(ValueError, match="temperature"):
        preference_probability(p, p, temperature=0)


@pytest.mark.parametrize("gap", [-2.0, -0.38, 0.0, 1.0])
def test_label_frequency_is_sigma_of_the_gap(gap: float) -> None:
    n = 40_000
    p = preference_probability(torch.full((n,), gap), torch.zeros(n))
    labels = draw_labels(p, torch.Generator().manual_seed(0))
    assert set(labels.tolist()) == {0.0, 1.0}
    sigma = 1 / (1 + math.exp(-gap))
    four_standard_errors = 4 * math.sqrt(sigma * (1 - sigma) / n)
    assert labels.mean().item() == pytest.approx(sigma, abs=four_standard_errors)


def test_labels_follow_their_generator_only() -> None:
    p = torch.full((64,), 0.5)
    first = draw_labels(p, torch.Generator().manual_seed(3))
    torch.rand(10)  # the global stream must not matter
    assert torch.equal(first, draw_labels(p, torch.Generator().manual_seed(3)))
    assert not torch.equal(first, draw_labels(p, torch.Generator().manual_seed(4)))


class Compass(Encoder):
    """An encoder with features known by hand: a picture's brightness, or a text, is an angle."""

    def __init__(self, has_text: bool = True) -> None:
        self.name, self.has_text = "compass", has_text
        self.calls: list[list[str] | int] = []

    def encode_images(self, images: Tensor) -> Tensor:  # type: ignore[override]
        self.calls.append(len(images))
        return torch.tensor([direction(180 * image.mean().item()) for image in images])

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        self.calls.append(list(texts))
        return torch.tensor([direction(float(text)) for text in texts])


def pictures(*brightness: float) -> Tensor:
    return torch.tensor(brightness)[:, None, None, None].expand(-1, 3, 2, 2)


def test_alignment_reward_scores() -> None:
    reward = AlignmentReward(Compass(), pictures(0.0, 0.5))  # references at 0° and 90°
    scores = reward.score(pictures(0.0, 1.0), ["60", "90"])  # pictures at 0° and 180°
    assert scores.image.tolist() == pytest.approx([(1 + 0.5) / 2, (0 + 0.5) / 2])
    assert scores.text.tolist() == pytest.approx([0.75, 0.5])
    # 1 / (0.5 / 0.75 + 0.5 / 0.75) and 1 / (0.5 / 0.25 + 0.5 / 0.5)
    assert scores.combine(0.5).tolist() == pytest.approx([0.75, 1 / 3])


def test_references_are_scored_against_every_text() -> None:
    reward = AlignmentReward(Compass(), pictures(0.0, 0.5))
    table = reward.score_references(["60", "90", "180"])
    assert table.shape == (2, 3)
    s60, s30 = 0.75, (math.sqrt(3) / 2 + 1) / 2
    assert table.flatten().tolist() == pytest.approx([s60, 0.5, 0, s30, 1, 0.5], abs=1e-6)


def test_pairs_are_scored_under_the_generated_image_s_text() -> None:
    reward = AlignmentReward(Compass(), pictures(0.0, 0.5))
    reference, generated = reward.score_pairs(pictures(0.0, 1.0), ["60", "90"])
    assert generated.tolist() == pytest.approx([0.75, 0.5])
    assert torch.equal(reference, reward.score_references(["60", "90"]))
    # With λ = 1 only S_I is left: each reference against both is (1 + 0.5) / 2.
    reference, generated = reward.score_pairs(pictures(0.0, 1.0), ["60", "90"], lam=1.0)
    assert reference.flatten().tolist() == pytest.approx([0.75] * 4)
    assert generated.tolist() == pytest.approx([0.75, 0.25])


def test_references_and_texts_are_encoded_once() -> None:
    encoder = Compass()
    reward = AlignmentReward(encoder, pictures(0.0, 0.5))
    reward.score(pictures(0.0, 0.1, 0.2), ["60", "90", "60"])
    reward.score(pictures(0.3, 0.4), ["90", "10"])
    assert encoder.calls == [2, 3, ["60", "90"], 2, ["10"]]


def test_mismatched_texts_and_textless_encoders_are_refused() -> None:
    reward = AlignmentReward(Compass(), pictures(0.0))
    with pytest.raises(ValueError, match="2 images but 1 texts"):
        reward.score(pictures(0.0, 1.0), ["60"])
    with pytest.raises(UserError, match="no text tower"):
        AlignmentReward(Compass(has_text=False), pictures(0.0))
