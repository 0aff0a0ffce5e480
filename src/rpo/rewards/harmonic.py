"""The λ-Harmonic reward (Eq. 5) and the Bradley-Terry labels (Eq. 6), as pure functions.

Every score lies in [0, 1] and every tensor returned here lives on the CPU when its inputs do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def image_alignment(images: Tensor, references: Tensor) -> Tensor:
    """S_I(x) = mean over the references of (cos(f(x), f(x_i)) + 1) / 2, Eq. 5.

    images (N, D), references (M, D) -> (N,). Features of any length; zero references raise
    ValueError.
    """
    if len(references) == 0:
        raise ValueError("image alignment needs at least one reference")
    cosine = F.normalize(images, dim=-1) @ F.normalize(references, dim=-1).T  # (N, M)
    return ((cosine + 1) / 2).clamp(0, 1).mean(dim=-1)


def text_alignment(images: Tensor, texts: Tensor) -> Tensor:
    """S_T(x, c) = (cos(f(x), g(c)) + 1) / 2, Eq. 5: image n against text n.

    images (N, D), texts (N, D) -> (N,).
    """
    if images.shape != texts.shape:
        raise ValueError(f"one text per image: {tuple(images.shape)} and {tuple(texts.shape)}")
    # The clamp removes rounding only: a cosine of -1 - 1e-7 must not become a negative score.
    return ((F.cosine_similarity(images, texts, dim=-1) + 1) / 2).clamp(0, 1)


def harmonic_mean(s_image: Tensor, s_text: Tensor, lam: float) -> Tensor:
    """r_λ = 1 / (λ / S_I + (1 - λ) / S_T), Eq. 5; λ = 0 gives S_T and λ = 1 gives S_I exactly.

    s_image and s_text broadcast. A score of zero with a positive weight gives zero.
    ValueError unless 0 <= lam <= 1.
    """
    _check_weight(lam)
    s_image, s_text = torch.broadcast_tensors(s_image, s_text)
    if lam in (0, 1):  # without this a zero score of weight zero would be 0 / 0
        return (s_image if lam == 1 else s_text).clone()
    return 1 / (lam / s_image + (1 - lam) / s_text)


def arithmetic_mean(s_image: Tensor, s_text: Tensor, lam: float) -> Tensor:
    """λ S_I + (1 - λ) S_T, the ablation of Table 6. s_image and s_text broadcast.

    ValueError unless 0 <= lam <= 1.
    """
    _check_weight(lam)
    return lam * s_image + (1 - lam) * s_text


MEANS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "harmonic": harmonic_mean,
    "arithmetic": arithmetic_mean,
}


def preference_probability(
    reward_ref: Tensor, reward_gen: Tensor, temperature: float = 1.0
) -> Tensor:
    """p(x_ref ≻ x_gen) = σ((r(x_ref, c) - r(x_gen, c)) / temperature), Eq. 6.

    The rewards broadcast; temperature 1 is the paper's, a smaller one makes the labels surer.
    ValueError unless temperature > 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    return torch.sigmoid((reward_ref - reward_gen) / temperature)


def draw_labels(probability: Tensor, generator: torch.Generator) -> Tensor:
    """y ~ Bernoulli(p), Eq. 6: 1.0 where the reference is preferred, else 0.0; shape of p.

    The generator must live on the device of ``probability``.
    """
    return torch.bernoulli(probability, generator=generator)


@dataclass(frozen=True)
class Scores:
    """The two alignments of N images: ``image`` is S_I and ``text`` is S_T, both (N,) in [0, 1]."""

    image: Tensor
    text: Tensor

    def combine(self, lam: float, mean: str = "harmonic") -> Tensor:
        """The reward r_λ of each image, (N,), by a mean named in ``MEANS`` (else ValueError)."""
        if mean not in MEANS:
            raise ValueError(f"unknown mean {mean!r}, choose from {', '.join(MEANS)}")
        return MEANS[mean](self.image, self.text, lam)


def _check_weight(lam: float) -> None:
    if not 0 <= lam <= 1:
        raise ValueError(f"lambda must lie in [0, 1], not {lam}")
