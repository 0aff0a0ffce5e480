"""losses.py: Eq. 7 to 9 against numbers worked out by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from rpo.methods.losses import improvement, preference_loss, similarity_loss


def test_similarity_loss_is_the_batch_mean() -> None:
    assert similarity_loss(torch.tensor([0.1, 0.3, 0.8])).item() == pytest.approx(0.4)


def test_improvement_is_positive_where_the_model_beats_the_base() -> None:
    delta = improvement(torch.tensor([0.5, 0.2]), torch.tensor([0.25, 0.3]))
    torch.testing.assert_close(delta, torch.tensor([0.25, -0.1]))


@pytest.mark.parametrize("label", [0.0, 1.0])
@pytest.mark.parametrize("beta", [0.5, 1.0, 2000.0])
def test_zero_delta_gives_log_two_whatever_the_label(label: float, beta: float) -> None:
    zero = torch.zeros(3)
    result = preference_loss(zero, zero, torch.full((3,), label), beta)
    assert result.loss.item() == pytest.approx(math.log(2))
    assert result.margin.item() == 0


def test_preference_loss_by_hand() -> None:
    # Margins 2 (0.75 - 0.25) = 1 and 2 (0.5 - 0.75) = -0.5, both labelled "reference preferred":
    # -log σ(1) = 0.313262 and -log σ(-0.5) = 0.974077, mean 0.643669.
    result = preference_loss(
        torch.tensor([0.75, 0.5]), torch.tensor([0.25, 0.75]), torch.ones(2), beta=2.0
    )
    assert result.loss.item() == pytest.approx(0.643669, abs=1e-6)
    assert result.margin.item() == pytest.approx(0.25)


def test_swapping_the_pair_and_the_label_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    ref, gen = torch.randn(2, 8, generator=generator)
    labels = torch.tensor([1.0, 0.0] * 4)
    straight, swapped = preference_loss(ref, gen, labels), preference_loss(gen, ref, 1 - labels)
    torch.testing.assert_close(straight.loss, swapped.loss)
    assert straight.margin.item() == pytest.approx(-swapped.margin.item())


def test_gradient_equals_the_derivative_by_hand() -> None:
    """dL/dΔ_ref = β (σ(m) - y) / B, and the opposite for Δ_gen."""
    generator = torch.Generator().manual_seed(1)
    ref, gen = torch.randn(2, 6, generator=generator, dtype=torch.float64).unbind()
    ref, gen = ref.clone().requires_grad_(), gen.clone().requires_grad_()
    labels = torch.tensor([1, 0, 1, 1, 0, 0], dtype=torch.float64)
    beta = 1.7
    preference_loss(ref, gen, labels, beta).loss.backward()
    expected = [
        beta * (1 / (1 + math.exp(-beta * (r - g))) - y) / 6
        for r, g, y in zip(ref.tolist(), gen.tolist(), labels.tolist(), strict=True)
    ]
    assert ref.grad is not None
    assert gen.grad is not None
    assert ref.grad.tolist() == pytest.approx(expected, abs=1e-12)
    assert gen.grad.tolist() == pytest.approx([-value for value in expected], abs=1e-12)


def test_a_huge_wrong_margin_stays_finite() -> None:
    # -log σ(-m) tends to m: no overflow, and a full gradient of 1.
    delta = torch.tensor([5000.0], requires_grad=True)
    result = preference_loss(delta, torch.zeros(1), torch.zeros(1))
    result.loss.backward()
    assert result.loss.item() == 5000
    assert delta.grad is not None
    assert delta.grad.item() == 1


def test_what_is_logged_carries_no_gradient() -> None:
    delta = torch.ones(2, requires_grad=True)
    result = preference_loss(delta, torch.zeros(2), torch.ones(2))
    assert result.loss.requires_grad
    assert not result.margin.requires_grad
    assert {field.name for field in dataclasses.fields(result)} == {"loss", "margin"}


@pytest.mark.parametrize("shapes", [((2,), (1,), (2,)), ((2,), (2,), (1,)), ((), (), ())])
def test_shapes_that_would_broadcast_are_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    ref, gen, labels = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match=r"must all be \(B,\)"):
        preference_loss(ref, gen, labels)
