"""What the loop tells its callers: small frozen records, nothing else leaves it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from torch import Tensor

if TYPE_CHECKING:
    from rpo.methods.preparation import TrainingData


@dataclass(frozen=True)
class Progress:
    """`done` of `total` pieces of the phase's work (pictures, pairs)."""

    phase: Literal["sampling", "labelling", "training", "validation"]
    done: int
    total: int


@dataclass(frozen=True)
class Notice:
    """What a person should know: the work goes on, but not as it was set."""

    message: str


@dataclass(frozen=True)
class Labelled:
    """The preference model over all pairs (reference photo, generated picture).

    Attributes:
        mean_probability: mean p(reference preferred to generated), Eq. 6.
        flip_rate: expected share of labels that contradict the reward's order, mean min(p, 1 - p).
        mean_gap: mean r(reference) - r(generated).
        pairs: how many pairs there are, M * G.
    """

    mean_probability: float
    flip_rate: float
    mean_gap: float
    pairs: int


@dataclass(frozen=True)
class Prepared:
    """The end of the preparation: the training data and the base model's own pictures.

    images: (G, 3, H, W) uint8 on the CPU, in the order of `data.generated_latents`;
    prompts: the G prompts (with the identifier) that drew them.
    """

    data: TrainingData
    images: Tensor
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class StepDone:
    """One gradient step; `step` counts from 1. Losses are unweighted but for `loss`, the total.

    margin: mean of beta * (Delta(ref) - Delta(gen)); grad_norm: before clipping;
    label_mean: share of pairs whose label prefers the reference photo.
    """

    step: int
    loss: float
    similarity: float
    preference: float
    margin: float
    grad_norm: float
    label_mean: float


@dataclass(frozen=True)
class Validated:
    """The validation pictures after `step` steps: (N, 3, H, W) uint8 on the CPU, and their means.

    reward: mean of r_lambda_val (Eq. 5); improved: these weights are the best so far.
    """

    step: int
    reward: float
    image_alignment: float
    text_alignment: float
    improved: bool
    images: Tensor
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class Stopped:
    """The end: all steps are done, or the patience ran out."""

    step: int
    best_step: int
    reason: Literal["finished", "patience"]


Event: TypeAlias = Progress | Notice | Labelled | Prepared | StepDone | Validated | Stopped
