"""The training objective (Eq. 7 to 9) as pure functions of per-sample denoising errors.

Symbols: err_θ(x) is the mean over a latent's elements of (target - model_θ(x_t, t, c))², one
number per sample, so every tensor here is (B,). ``ref`` is a reference photo, ``gen`` a picture
that the base model drew.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


def similarity_loss(error_ref: Tensor) -> Tensor:
    """L_sim = E[err_θ(x_ref)], Eq. 7. error_ref (B,) -> scalar."""
    return error_ref.mean()


def improvement(error_base: Tensor, error_model: Tensor) -> Tensor:
    """Δ(x) = err_base(x) - err_θ(x): positive where θ denoises better than the frozen base.

    Both errors (B,) must come from the same x_t, or Δ measures the noise. -> (B,)
    """
    return error_base - error_model


@dataclass(frozen=True)
class PreferenceLoss:
    """The loss (scalar with gradient) and what is logged beside it (detached scalar)."""

    loss: Tensor
    margin: Tensor  # batch mean of β (Δ_ref - Δ_gen), the logit of "the reference is preferred"


def preference_loss(
    delta_ref: Tensor, delta_gen: Tensor, labels: Tensor, beta: float = 1.0
) -> PreferenceLoss:
    """L_pref = -E[y log σ(m) + (1 - y) log σ(-m)] with m = β (Δ_ref - Δ_gen), Eq. 8 and 9.

    delta_ref, delta_gen, labels: (B,), else ValueError (a silent broadcast would train on pairs
    that do not exist). labels: 1 where the reference is preferred, 0 where the generated picture
    is. At m = 0, the first step, the loss is log 2 whatever the labels.
    """
    if not (delta_ref.ndim == 1 and delta_ref.shape == delta_gen.shape == labels.shape):
        shapes = ", ".join(str(tuple(x.shape)) for x in (delta_ref, delta_gen, labels))
        raise ValueError(f"delta_ref, delta_gen and labels must all be (B,), not {shapes}")
    margin = beta * (delta_ref - delta_gen)
    loss = -(labels * F.logsigmoid(margin) + (1 - labels) * F.logsigmoid(-margin)).mean()
    return PreferenceLoss(loss, margin.detach().mean())
