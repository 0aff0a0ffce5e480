"""Emojiland's Fréchet distance and sharpness: by hand, and by another way of computing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from emojiland.fidelity import edge_energy, frechet_distance, gaussian, sharpness


def test_gaussian_by_hand() -> None:
    mean, covariance = gaussian(torch.tensor([[1.0, 0.0], [3.0, 4.0]]))
    assert mean.tolist() == [2.0, 2.0]
    # deviations (-1, -2) and (1, 2), over N - 1 = 1
    assert covariance.tolist() == [[2.0, 4.0], [4.0, 8.0]]
    with pytest.raises(ValueError, match="two pictures, not 1"):
        gaussian(torch.zeros(1, 3))


def test_frechet_distance_of_diagonal_covariances() -> None:
    """There it is the sum over dimensions of (m1 - m2)^2 + (s1 - s2)^2."""
    one = torch.tensor([0.0, 1.0, 5.0]).double(), torch.tensor([1.0, 4.0, 0.0]).double().diag()
    two = torch.tensor([3.0, 1.0, 5.0]).double(), torch.tensor([9.0, 4.0, 16.0]).double().diag()
    by_hand = 3**2 + (1 - 3) ** 2 + (2 - 2) ** 2 + (0 - 4) ** 2
    assert frechet_distance(one, two) == pytest.approx(by_hand)
    assert frechet_distance(two, one) == pytest.approx(by_hand)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("rows", [40, 5])  # of 8 dimensions: of full rank, and not
def test_frechet_distance_by_singular_values(rows: int) -> None:
    """tr (C1 C2)^(1/2) is the nuclear norm of X1 X2^T / sqrt((N - 1) (M - 1)), centred."""
    rng = np.random.default_rng(0)
    first = rng.normal(size=(rows, 8)) @ rng.normal(size=(8, 8))
    second = rng.normal(size=(rows + 3, 8)) + 0.3
    expected = np.square(first.mean(0) - second.mean(0)).sum()
    first_centred, second_centred = first - first.mean(0), second - second.mean(0)
    expected += np.square(first_centred).sum() / (rows - 1)
    expected += np.square(second_centred).sum() / (rows + 2)
    common = np.linalg.norm(first_centred @ second_centred.T, "nuc")
    expected -= 2 * common / math.sqrt((rows - 1) * (rows + 2))
    both = (gaussian(torch.from_numpy(features)) for features in (first, second))
    assert frechet_distance(*both) == pytest.approx(expected, rel=1e-6)


def test_edge_energy_and_sharpness_by_hand() -> None:
    dot = torch.zeros(1, 3, 5, 5)
    dot[..., 2, 2] = 1.0
    # The Laplacian within is -4 in the middle and 1 at its four neighbours: (16 + 4) / 9.
    assert edge_energy(dot) == pytest.approx(20 / 9)
    assert edge_energy(torch.full((2, 3, 6, 6), 0.7)) == pytest.approx(0, abs=1e-12)
    # Half the contrast is a quarter of the energy; brightness does not count.
    assert sharpness(0.5 * dot + 0.2, dot) == pytest.approx(0.25)
    # A slope has no Laplacian: only what bends counts, so pixels at the border do not.
    slope = torch.arange(5.0).expand(1, 3, 5, 5)
    assert sharpness(dot + slope, dot.repeat(4, 1, 1, 1)) == pytest.approx(1)
