"""Textual inversion (Gal et al., ICLR 2023, arXiv 2208.01618): a word is sought for the subject.

    v* = argmin_v E[err(x_ref, c_v(y))]                                                      (Eq. 2)

Denoiser and text encoder are frozen; v, the vector of the token that the identifier stands for,
learns through both. y is a neutral sentence about the photo, another at every step. Here the token
stands before the noun, as in all prompts of this project; in the paper it stands in its place.
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
from rpo.methods.method import Method, Task, Terms, Visit
from rpo.models.rows import Rows
from rpo.seeds import make_generator

# Of a picture's kind and cut, and never of the subject's looks: those are the token's to say.
TEMPLATES = (
    "a photo of {}",
    "a photo of a {}",
    "a photo of the {}",
    "a photo of one {}",
    "a photo of my {}",
    "the photo of a {}",
    "a close-up photo of a {}",
    "a cropped photo of the {}",
    "a picture of a {}",
    "a picture of the {}",
    "a rendering of a {}",
    "a rendition of the {}",
)


@dataclass(frozen=True)
class PhotoLatents(Rows):
    """(M, C, h, w) latents of the photos."""

    reference_latents: Tensor


@dataclass(frozen=True)
class WordedVisit(Visit):
    """A visit; templates: (B * training.photos,) indices of sentences, one for each photo."""

    templates: Tensor

    def to(self, device: torch.device) -> WordedVisit:
        """On `device`; the templates stay on the CPU, where sentences are."""
        return WordedVisit(**{**vars(super().to(device)), "templates": self.templates})


class TextualInversion(Method):
    """L = E[err(x_ref)], the prompt encoded with gradient."""

    Data = PhotoLatents
    heeds_photos = True

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        words = (self.config.noun, self.config.identifier)
        self.sentences = [Prompt.from_template(t, *words).conditioning for t in TEMPLATES]

    def prepare(self) -> Generator[Event, None, PhotoLatents]:
        """Nothing is drawn."""
        yield from ()
        return PhotoLatents(self.encode_photos())

    def batch(self, data: PhotoLatents, step: int) -> WordedVisit:
        visit = self.visit(len(data.reference_latents), step)
        # Of their own, so that the photos and their noise are those of every other method.
        generator = make_generator(self.config.seed, "template", step)
        number = self.size * self.config.training.photos
        templates = torch.randint(len(TEMPLATES), (number,), generator=generator)
        return WordedVisit(**vars(visit), templates=templates)

    def loss(self, learner: Learner, data: PhotoLatents, batch: WordedVisit) -> Terms:
        photos, timesteps, noise = batch.all_photos()
        texts = [self.sentences[i] for i in batch.templates.tolist()]
        if captions := self.task.photo_prompts:
            own = [captions[i % len(captions)] for i in photos.tolist()]
            texts = [caption or text for caption, text in zip(own, texts, strict=True)]
        error = self.backbone.denoising_error(
            learner.denoiser,
            data.reference_latents[photos],
            noise,
            timesteps,
            learner.encode(texts),
            self.row_weights(photos),
        )
        loss = similarity_loss(error)
        return Terms(loss, {"similarity": loss.detach()})
