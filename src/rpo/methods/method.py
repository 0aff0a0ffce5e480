"""The seam between a method and the loop: what is prepared, drawn for a step, and minimised.

A method is one file: it prepares what it learns from, draws a step's batch as a function of
(seed, step) alone, and turns that batch into a loss. The loop knows no method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from rpo.config import Config
from rpo.data.prompts import Prompt, photo_texts
from rpo.errors import UserError
from rpo.events import Event
from rpo.models.backbone import Backbone
from rpo.models.conditions import Conditions
from rpo.models.photo_weights import cell_weights, weights_of_rows
from rpo.models.rows import Rows
from rpo.rewards.harmonic import draw_labels
from rpo.seeds import make_generator

if TYPE_CHECKING:
    from rpo.data.subject import Subject
    from rpo.learners.learner import Learner
    from rpo.rewards.alignment import AlignmentReward


@dataclass(frozen=True)
class Task:
    """What a method has to work with.

    prompts: those of training; reward: labels and validates; model_files: gives the SHA-256 of each
    of the base model's files, by name, which takes time. photo_prompts: the conditioning wording of
    each photo's caption, where some have one; "" for the others. photo_weights: (M, 1, H, W), how
    much each pixel of the photos counts in a loss, where that is not 1.
    """

    backbone: Backbone
    config: Config
    subject: Subject
    prompts: Sequence[Prompt]
    reward: AlignmentReward
    model_files: Callable[[], Mapping[str, str]] | None = None
    photo_prompts: Sequence[str] = ()
    photo_weights: Tensor | None = None

    @property
    def reference(self) -> Prompt:
        """The prompt of the reference photos, "a photo of [V] dog"."""
        return Prompt.reference(self.config.noun, self.config.identifier)


@dataclass(frozen=True)
class Terms:
    """What a method says of a batch.

    Attributes:
        loss: what is minimised, a scalar with gradient.
        figures: detached scalars by name; `StepDone` carries them, each a mean over the step.
    """

    loss: Tensor
    figures: Mapping[str, Tensor]


@dataclass(frozen=True)
class Visit(Rows):
    """What a gradient step of B pairs, or photos, sees of the photos.

    Attributes:
        photos: (B,) indices of reference latents.
        labels: (B,) 1 where the photo is preferred.
        timesteps, noise: (B,) and (B, C, h, w) of the photo, and of what it is compared with; the
            same tensors twice unless the halves' noise is independent.
        more: further photos of L_sim (`training.photos`): indices, timesteps and noise.
    """

    photos: Tensor
    labels: Tensor
    timesteps: tuple[Tensor, Tensor]
    noise: tuple[Tensor, Tensor]
    more: tuple[Tensor, ...]

    def all_photos(self) -> tuple[Tensor, Tensor, Tensor]:
        """Indices, timesteps and noise of all photos of L_sim, the further ones last."""
        first = (self.photos, self.timesteps[0], self.noise[0])
        if not self.more:
            return first
        photos, timesteps, noise = map(torch.cat, zip(first, self.more, strict=True))
        return photos, timesteps, noise


class Method(ABC):
    """How a learner is taught. One instance a job.

    Attributes:
        Data: the class of what `prepare` returns.
        heeds_photos: whether its loss takes `task.photo_prompts` and `task.photo_weights` into
            account, by `photo_texts`, `photo_conditions` and `row_weights`; else they are refused.
    """

    Data: ClassVar[type[Rows]]
    heeds_photos: ClassVar[bool] = False

    def __init__(self, task: Task) -> None:
        """Raises UserError for a task that this method cannot do. Nothing is drawn yet."""
        self.task, self.config, self.backbone = task, task.config, task.backbone
        if (task.photo_prompts or task.photo_weights is not None) and not self.heeds_photos:
            raise UserError(
                f"method {type(self).__name__}: its loss knows no captions, masks or padding; set "
                "photos.captions=false, photos.unmasked_weight=1 and photos.crop=centre"
            )

    @abstractmethod
    def prepare(self) -> Generator[Event, None, Any]:
        """Yields its progress and returns the `Data`, computed once and kept in the run."""

    @abstractmethod
    def batch(self, data: Any, step: int) -> Rows:
        """What step `step` (from 0) sees, on the CPU; a function of (seed, step) alone."""

    @abstractmethod
    def loss(self, learner: Learner, data: Any, batch: Any) -> Terms:
        """The loss of a batch; data and batch are on the backbone's device."""

    @classmethod
    def further_prompts(cls, reference: Prompt) -> tuple[str, ...]:
        """What it encodes besides the conditioning wordings of reference, training and validation.

        With `offload` the job has them encoded before the denoiser is on the device.
        """
        return ()

    def networks(self) -> dict[str, nn.Module]:
        """Small networks of the method's own that learn beside the learner and are not kept."""
        return {}

    # --- what several methods share -------------------------------------------------------

    @property
    def size(self) -> int:
        """Pairs, or photos, of one gradient step."""
        return self.config.training.batch_size * self.config.training.accumulate

    def encode_photos(self) -> Tensor:
        """(M, C, h, w) latents of the photos; with `training.flip` their mirrored ones follow."""
        pictures = self.task.subject.tensor(self.backbone.resolution)
        if self.config.training.flip:
            pictures = torch.cat([pictures, pictures.flip(-1)])
        return self.backbone.encode_images(pictures)

    @property
    def photo_texts(self) -> list[str]:
        """What the photos are told by: one prompt for all, or each photo's own."""
        return photo_texts(self.task.photo_prompts, self.task.reference.conditioning)

    @staticmethod
    def photo_conditions(conditions: Conditions, photos: Tensor) -> Conditions:
        """The rows for these photos, of the encoded `photo_texts`. photos: (B,) indices."""
        if len(conditions) == 1:
            return conditions.expand(len(photos))
        return conditions[photos % len(conditions)]  # the mirrored ones come second

    @cached_property
    def _cells(self) -> Tensor | None:
        weights, side = self.task.photo_weights, self.backbone.latent_shape[-1]
        if weights is None:
            return None
        return cell_weights(weights, side, self.config.training.flip).to(self.backbone.device)

    def row_weights(self, *rows: Tensor | int) -> Tensor | None:
        """(B, 1, h, w) for `Backbone.denoising_error`, by `weights_of_rows`; None if all count."""
        return None if self._cells is None else weights_of_rows(self._cells, *rows)

    def draw_noise(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(size,) timesteps and (size, C, h, w) noise."""
        timesteps = self.backbone.process.draw_timesteps(size, generator)
        return timesteps, torch.randn(size, *self.backbone.latent_shape, generator=generator)

    def visit(
        self,
        photos: int,
        step: int,
        probability: Callable[[Tensor], Tensor] = torch.ones_like,
        independent: bool = False,
    ) -> Visit:
        """What `step` sees of `photos` latents. All methods of one seed see the same.

        probability: (B,) chances of the label 1, given the (B,) chosen photos.
        independent: the second noise and timesteps are of their own.
        """
        settings, size = self.config.training, self.size
        count = photos // 2 if settings.flip else photos
        generator = make_generator(self.config.seed, "step", step)
        chosen = torch.randint(count, (size,), generator=generator)
        labels = probability(chosen).float()
        if self.config.reward.labels == "drawn":
            labels = draw_labels(labels, generator)
        first = self.draw_noise(size, generator)
        # Sharing removes the noise's own difficulty from the comparison, as in Diffusion-DPO.
        second = self.draw_noise(size, generator) if independent else first
        more: tuple[Tensor, ...] = ()
        if settings.photos > 1:
            further = size * (settings.photos - 1)
            others = torch.randint(count, (further,), generator=generator)
            more = (others, *self.draw_noise(further, generator))
        if settings.flip:

            def mirrored(index: Tensor) -> Tensor:
                return index + count * torch.randint(2, index.shape, generator=generator)

            chosen, more = mirrored(chosen), (*map(mirrored, more[:1]), *more[1:])
        return Visit(chosen, labels, (first[0], second[0]), (first[1], second[1]), more)

    def shuffled(self, pictures: int, step: int, what: str = "epoch") -> Tensor:
        """(B,) indices of drawn pictures: each comes once an epoch, in a shuffled order."""
        order = []
        for position in range(step * self.size, (step + 1) * self.size):
            epoch, place = divmod(position, pictures)
            shuffle = make_generator(self.config.seed, what, epoch)
            order.append(torch.randperm(pictures, generator=shuffle)[place])
        return torch.stack(order)
