"""Before training: the base model draws its pictures, the reward labels all pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rpo.config import Config
from rpo.data.prompts import Prompt
from rpo.events import Event, Labelled, Prepared, Progress
from rpo.models.backbone import Backbone
from rpo.models.conditions import Conditions
from rpo.models.pictures import draw_pictures
from rpo.models.sampling import to_uint8
from rpo.rewards.alignment import AlignmentReward
from rpo.rewards.harmonic import preference_probability
from rpo.seeds import derive_seed

if TYPE_CHECKING:
    from rpo.data.subject import Subject


@dataclass(frozen=True)
class TrainingData:
    """All that the loop reads, computed once. M reference photos, G generated pictures.

    Attributes:
        reference_latents: (M, C, h, w).
        generated_latents: (G, C, h, w), as the base model drew them.
        reference_conditions: 1 row, "a photo of [V] dog".
        generated_conditions: G rows, each of the prompt that drew the picture.
        probabilities: (M, G), p(reference i preferred to generated j), Eq. 6.
    """

    reference_latents: Tensor
    generated_latents: Tensor
    reference_conditions: Conditions
    generated_conditions: Conditions
    probabilities: Tensor

    def to(self, device: torch.device) -> TrainingData:
        """The same on `device`; the probabilities stay on the CPU, where labels are drawn."""
        moved = {field.name: getattr(self, field.name).to(device) for field in fields(self)}
        return TrainingData(**{**moved, "probabilities": self.probabilities.cpu()})

    def tensors(self) -> dict[str, Tensor]:
        """All of it by name, for saving; "generated_conditions.tokens" and the like."""
        named: dict[str, Tensor] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Conditions):
                named |= {f"{field.name}.{key}": part for key, part in value.tensors().items()}
            else:
                named[field.name] = value
        return named

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor]) -> TrainingData:
        """The inverse of `tensors`. Raises TypeError for other names."""
        values: dict[str, Any] = {}
        for name, tensor in tensors.items():
            field, _, part = name.partition(".")
            if part:
                values.setdefault(field, {})[part] = tensor
            else:
                values[field] = tensor
        for name, value in values.items():
            if isinstance(value, dict):
                values[name] = Conditions.from_tensors(value)
        return TrainingData(**values)


def prepare(
    backbone: Backbone,
    reward: AlignmentReward,
    subject: Subject,
    prompts: Sequence[Prompt],
    config: Config,
) -> Iterator[Event]:
    """Let the base model draw the training pictures and label all pairs; ends with `Prepared`.

    Each prompt is drawn `sampling.images_per_prompt` times from its conditioning wording; the
    rewards of a pair use its plain wording, and pair (i, j) carries its own gap.
    """
    settings = config.sampling
    drawn = [prompt for prompt in prompts for _ in range(settings.images_per_prompt)]
    conditions = backbone.encode_prompts([prompt.conditioning for prompt in drawn])
    seeds = [derive_seed(config.seed, "training image", index) for index in range(len(drawn))]
    latents, pictures = yield from draw_pictures(
        backbone, backbone.denoiser, conditions, seeds, settings, "sampling"
    )
    yield Progress("labelling", 0, len(drawn))
    reward_ref, reward_gen = reward.score_pairs(  # (M, G), (G,)
        pictures, [prompt.plain for prompt in drawn], config.reward.lambda_train, config.reward.mean
    )
    gap = reward_ref - reward_gen
    p = preference_probability(reward_ref, reward_gen, config.reward.temperature)
    yield Progress("labelling", len(drawn), len(drawn))
    yield Labelled(
        mean_probability=p.mean().item(),
        flip_rate=torch.minimum(p, 1 - p).mean().item(),
        mean_gap=gap.mean().item(),
        pairs=p.numel(),
    )
    reference_prompt = Prompt.reference(subject.noun, config.identifier)
    data = TrainingData(
        reference_latents=backbone.encode_images(subject.tensor(backbone.resolution)),
        generated_latents=latents,
        reference_conditions=backbone.encode_prompts([reference_prompt.conditioning]),
        generated_conditions=conditions,
        probabilities=p,
    )
    yield Prepared(data, to_uint8(pictures), tuple(prompt.conditioning for prompt in drawn))
