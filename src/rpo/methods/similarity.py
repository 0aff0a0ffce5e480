"""L_sim alone (Eq. 7): the photos are reconstructed, and nothing holds the rest in place.

The "L_sim only" row of Table 2 of arXiv 2407.12164; DreamBooth (arXiv 2208.12242) without its
prior. Nothing is drawn and nothing is labelled.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from rpo.events import Event
from rpo.learners.learner import Learner
from rpo.methods.losses import similarity_loss
from rpo.methods.method import Method, Terms, Visit
from rpo.models.conditions import Conditions
from rpo.models.rows import Rows


@dataclass(frozen=True)
class Photos(Rows):
    """(M, C, h, w) latents of the photos, and the one row of their prompt, or a row a photo."""

    reference_latents: Tensor
    reference_conditions: Conditions


class Similarity(Method):
    """L = E[err_θ(x_ref)]."""

    Data: ClassVar[type[Rows]] = Photos
    heeds_photos = True

    def prepare(self) -> Generator[Event, None, Photos]:
        yield from ()
        return Photos(self.encode_photos(), self.backbone.encode_prompts(self.photo_texts))

    def batch(self, data: Photos, step: int) -> Visit:
        return self.visit(len(data.reference_latents), step)

    def loss(self, learner: Learner, data: Photos, batch: Visit) -> Terms:
        photos, timesteps, noise = batch.all_photos()
        error = self.backbone.denoising_error(
            learner.denoiser,
            data.reference_latents[photos],
            noise,
            timesteps,
            self.photo_conditions(data.reference_conditions, photos),
            self.row_weights(photos),
        )
        loss = similarity_loss(error)
        return Terms(loss, {"similarity": loss.detach()})
