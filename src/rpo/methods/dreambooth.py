"""DreamBooth (Ruiz et al., CVPR 2023, arXiv 2208.12242): the photos, and the class beside them.

    L = E[err_θ(x_ref)] + w E[err_θ(x_pr)]                                               (Eq. 2)

x_ref is a photo under "a photo of [V] dog". x_pr is one of the frozen base model's own pictures of
the class, under the prompt that drew it: this project's wording without the identifier, "a photo of
dog", where the paper says "a dog". They keep the class as it was (prior preservation). w is
`dreambooth.prior_weight`; the paper's denoising error has weights of the timestep that are all 1
here. Only the learner learns: no text encoder, unless it is one.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from rpo.data.prompts import Prompt
from rpo.events import Event
from rpo.learners.learner import Learner
from rpo.methods.losses import similarity_loss
from rpo.methods.method import Method, Terms, Visit
from rpo.models.class_pictures import draw_class_pictures
from rpo.models.conditions import Conditions
from rpo.models.rows import Rows
from rpo.seeds import make_generator


@dataclass(frozen=True)
class PhotosAndClass(Rows):
    """M photos, N pictures of the class, and the one row of each one's prompt (or M of captions).

    Latents are (M, C, h, w) and (N, C, h, w).
    """

    reference_latents: Tensor
    class_latents: Tensor
    reference_conditions: Conditions
    class_conditions: Conditions


@dataclass(frozen=True)
class PhotosBesideClass(Visit):
    """A visit of the photos, and as many class pictures with a noise of their own.

    Attributes:
        pictures: (B,) indices of class pictures.
        class_timesteps, class_noise: (B,) and (B, C, h, w).
    """

    pictures: Tensor
    class_timesteps: Tensor
    class_noise: Tensor


class DreamBooth(Method):
    """Fine-tuning with prior preservation."""

    Data = PhotosAndClass
    heeds_photos = True

    @classmethod
    def further_prompts(cls, reference: Prompt) -> tuple[str, ...]:
        return (reference.plain,)

    def prepare(self) -> Generator[Event, None, PhotosAndClass]:
        """Draws the class pictures, or takes them from the cache."""
        reference, encode = self.task.reference, self.backbone.encode_prompts
        latents = yield from draw_class_pictures(self.task, self.config.dreambooth.class_images)
        return PhotosAndClass(
            self.encode_photos(),
            latents,
            encode(self.photo_texts),
            encode([reference.plain]),
        )

    def batch(self, data: PhotosAndClass, step: int) -> PhotosBesideClass:
        visit = self.visit(len(data.reference_latents), step)
        pictures = self.shuffled(len(data.class_latents), step)
        # Of their own, so that the photos and their noise are those of every other method.
        timesteps, noise = self.draw_noise(
            self.size, make_generator(self.config.seed, "prior", step)
        )
        return PhotosBesideClass(
            **vars(visit), pictures=pictures, class_timesteps=timesteps, class_noise=noise
        )

    def loss(self, learner: Learner, data: PhotosAndClass, batch: PhotosBesideClass) -> Terms:
        """Photos and class pictures in one forward pass."""
        photos, timesteps, noise = batch.all_photos()
        pictures = batch.pictures
        error = self.backbone.denoising_error(
            learner.denoiser,
            torch.cat([data.reference_latents[photos], data.class_latents[pictures]]),
            torch.cat([noise, batch.class_noise]),
            torch.cat([timesteps, batch.class_timesteps]),
            Conditions.cat(
                [
                    self.photo_conditions(data.reference_conditions, photos),
                    data.class_conditions.expand(len(pictures)),
                ]
            ),
            self.row_weights(photos, len(pictures)),
        )
        similarity = similarity_loss(error[: len(photos)])
        prior = error[len(photos) :].mean()
        return Terms(
            similarity + self.config.dreambooth.prior_weight * prior,
            {"similarity": similarity.detach(), "prior": prior.detach()},
        )
