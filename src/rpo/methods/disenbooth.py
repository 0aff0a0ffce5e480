"""DisenBooth (Chen et al., ICLR 2024, arXiv 2305.03374): the subject apart from the single photo.

    L   = E[err_θ(x_ref | f_s + f_i)] + λ_2 E[err_θ(x_ref | f_s)] + λ_3 E[cos(f_s, f_i)]
    f_i = g + MLP(g),  g = M * f

f_s, the identity-preserved condition, is the text's states of "a photo of [V] dog". f_i, the
identity-irrelevant one (pose, background), comes from f, the photo's features by the reward model's
image tower, through a mask M and an MLP, which learn; it is added to each token's state. λ_2 is
`disenbooth.weak_weight`: f_s alone should denoise too, but weakly. λ_3 is
`disenbooth.disentangle_weight`: the two should say different things. Pictures are drawn by f_s
alone, so the adapter is not kept.

Adapter and cosine (of the mean over tokens) follow the authors' disen_net.py, M = σ(mask) included.
Where features and states differ in width, g takes a linear map in the first summand.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rpo.errors import UserError
from rpo.events import Event
from rpo.learners.learner import Learner
from rpo.methods.losses import similarity_loss
from rpo.methods.method import Task, Terms, Visit
from rpo.methods.similarity import Photos, Similarity
from rpo.models.conditions import Conditions
from rpo.seeds import derive_seed


@dataclass(frozen=True)
class DescribedPhotos(Photos):
    """The photos with their features, (M, D) unit vectors."""

    features: Tensor


class ImageAdapter(nn.Module):
    """From a photo's features to the text's states: (B, D) unit vectors -> (B, K)."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.mask = nn.Parameter(torch.zeros(features))
        same = features == width
        self.skip = nn.Identity() if same else nn.Linear(features, width, bias=False)
        self.mlp = nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, features: Tensor) -> Tensor:
        # A unit vector's elements shrink with its length; the states' are of the order of one.
        masked = self.mask.sigmoid() * features * features.shape[-1] ** 0.5
        return self.skip(masked) + self.mlp(masked)


class DisenBooth(Similarity):
    """Reconstruction under both conditions; a second row through θ where λ_2 is above 0."""

    Data = DescribedPhotos

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        count, features = len(task.subject.images), getattr(task.reward, "references", None)
        if features is None or features.ndim != 2 or len(features) != count:
            raise UserError(
                f"method disenbooth: {type(task.reward).__name__} has no `references` of these "
                f"{count} photos, (M, D) features of its image tower; give an AlignmentReward of "
                "them, or use another method"
            )
        self.features: Tensor = features.float()

    @cached_property
    def adapter(self) -> ImageAdapter:
        """A function of the seed."""
        prompt = self.backbone.encode_prompts([self.task.reference.conditioning])
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(self.config.seed, "image adapter"))
            return ImageAdapter(self.features.shape[1], prompt.tokens.shape[-1])

    def networks(self) -> dict[str, nn.Module]:
        return {"image_adapter": self.adapter}

    def prepare(self) -> Generator[Event, None, DescribedPhotos]:
        """A mirrored photo has the features of its original."""
        photos = yield from super().prepare()
        copies = 2 if self.config.training.flip else 1
        return DescribedPhotos(**vars(photos), features=self.features.repeat(copies, 1))

    def loss(self, learner: Learner, data: Photos, batch: Visit) -> Terms:
        """Both conditions of a photo see the same noisy latent, in one forward pass."""
        assert isinstance(data, DescribedPhotos)
        settings = self.config.disenbooth
        photos, timesteps, noise = batch.all_photos()
        shared = self.photo_conditions(data.reference_conditions, photos)
        own = self.adapter(data.features[photos])  # (B, K)
        conditions = [replace(shared, tokens=shared.tokens + own[:, None])]
        if settings.weak_weight:
            conditions.append(shared)
        rows = len(conditions)
        error = self.backbone.denoising_error(
            learner.denoiser,
            data.reference_latents[photos].repeat(rows, 1, 1, 1),
            noise.repeat(rows, 1, 1, 1),
            timesteps.repeat(rows),
            Conditions.cat(conditions),
            self.row_weights(*[photos] * rows),
        )
        similarity = similarity_loss(error[: len(photos)])
        cosine = F.cosine_similarity(shared.tokens.float().mean(1), own).mean()
        loss = similarity + settings.disentangle_weight * cosine
        figures = {"similarity": similarity.detach(), "cosine": cosine.detach()}
        if settings.weak_weight:
            weak = similarity_loss(error[len(photos) :])
            loss = loss + settings.weak_weight * weak
            figures["weak"] = weak.detach()
        return Terms(loss, figures)
