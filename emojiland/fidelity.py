"""How far pictures are from real scenes: two pure formulas on features and on pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from emojiland.autoencoder import edges


def gaussian(features: Tensor) -> tuple[Tensor, Tensor]:
    """(N, D) -> mean (D,) and unbiased covariance (D, D), in float64. ValueError for N < 2."""
    if len(features) < 2:
        raise ValueError(f"a covariance needs two pictures, not {len(features)}")
    return features.double().mean(0), features.double().T.cov()


def frechet_distance(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), arXiv 1706.08500, of two Gaussians (m, C).

    C1 C2 has the eigenvalues of the symmetric R C2 R with R = C1^(1/2); so its root's trace is the
    sum of their roots, and no root of an asymmetric matrix is taken.
    """
    (mean, covariance), (mean2, covariance2) = one, other
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    common = torch.linalg.eigvalsh(root @ covariance2 @ root).clamp(min=0).sqrt().sum()
    apart = (mean - mean2).square().sum()
    return float(apart + covariance.trace() + covariance2.trace() - 2 * common)


def edge_energy(images: Tensor) -> float:
    """Mean square of the Laplacian over pictures (N, 3, H, W), colours and pixels within."""
    return float(edges(images).square().mean())


def sharpness(images: Tensor, scenes: Tensor) -> float:
    """The edge energy of pictures over that of real scenes, (N, 3, H, W) and (M, 3, H, W).

    1 is as sharp as the scenes; a blur lowers it, and noise raises it as well as edges do.
    """
    return edge_energy(images) / edge_energy(scenes)
