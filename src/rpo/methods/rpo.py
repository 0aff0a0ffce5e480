"""Reward Preference Optimization (Miao et al., NeurIPS 2024, arXiv 2407.12164).

    L = L_sim + L_pref                                                               (Eq. 7 to 9)
    L_sim  = E[err_θ(x_ref)]
    L_pref = -E[y log σ(β (Δ(x_ref) - Δ(x_gen))) + (1 - y) log σ(-β (Δ(x_ref) - Δ(x_gen)))]
    Δ(x)   = err_base(x) - err_θ(x)
    y ~ Bernoulli(σ(r(x_ref, c) - r(x_gen, c)))                                           (Eq. 6)

The base model draws a few pictures of each training prompt, the λ-harmonic reward labels every
pair of a photo and a drawn picture, and the labels keep θ from forgetting how to answer prompts.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from rpo.errors import UserError
from rpo.events import Drawn, Event, Labelled, Progress
from rpo.learners.learner import Learner
from rpo.methods.losses import PreferenceLoss, improvement, preference_loss, similarity_loss
from rpo.methods.method import Method, Terms, Visit
from rpo.models.conditions import Conditions
from rpo.models.pictures import draw_pictures
from rpo.models.rows import Rows
from rpo.models.sampling import to_uint8
from rpo.rewards.harmonic import preference_probability
from rpo.seeds import derive_seed


@dataclass(frozen=True)
class LabelledPairs(Rows):
    """All that the steps read, computed once. M reference photos, G generated pictures.

    Attributes:
        reference_latents: (M, C, h, w).
        generated_latents: (G, C, h, w), as the base model drew them.
        reference_conditions: 1 row, "a photo of [V] dog", or M by the photos' captions.
        generated_conditions: G rows, each of the prompt that drew the picture.
        probabilities: (M, G), p(reference i preferred to generated j), Eq. 6.
    """

    reference_latents: Tensor
    generated_latents: Tensor
    reference_conditions: Conditions
    generated_conditions: Conditions
    probabilities: Tensor

    def to(self, device: torch.device) -> LabelledPairs:
        """On `device`; the probabilities stay on the CPU, where labels are drawn."""
        moved = vars(super().to(device))
        return LabelledPairs(**{**moved, "probabilities": self.probabilities.cpu()})


@dataclass(frozen=True)
class Pairs(Visit):
    """B pairs that a gradient step sees; generated: (B,) indices of drawn pictures."""

    generated: Tensor


class RPO(Method):
    """The paper's method; its weights in the loss are `training.similarity_weight` and so on."""

    Data = LabelledPairs
    heeds_photos = True

    def prepare(self) -> Generator[Event, None, LabelledPairs]:
        """The base model draws the training pictures, the reward labels all pairs.

        Each prompt is drawn `sampling.images_per_prompt` times from its conditioning wording; the
        rewards of a pair use its plain wording, and pair (i, j) carries its own gap.
        """
        task, settings, reward = self.task, self.config.sampling, self.config.reward
        drawn = [prompt for prompt in task.prompts for _ in range(settings.images_per_prompt)]
        conditions = self.backbone.encode_prompts([prompt.conditioning for prompt in drawn])
        seeds = [
            derive_seed(self.config.seed, "training image", index) for index in range(len(drawn))
        ]
        latents, pictures = yield from draw_pictures(
            self.backbone, self.backbone.denoiser, conditions, seeds, settings, "sampling"
        )
        yield Drawn(to_uint8(pictures), tuple(prompt.conditioning for prompt in drawn))
        yield Progress("labelling", 0, len(drawn))
        reward_ref, reward_gen = task.reward.score_pairs(  # (M, G), (G,)
            pictures, [prompt.plain for prompt in drawn], reward.lambda_train, reward.mean
        )
        p = preference_probability(reward_ref, reward_gen, reward.temperature)
        if not p.isfinite().all():
            raise UserError(
                f"labelling: the reward ({type(task.reward).__name__}) of some pictures is not "
                "finite (NaN); check what it returns"
            )
        yield Progress("labelling", len(drawn), len(drawn))
        yield Labelled(
            mean_probability=p.mean().item(),
            flip_rate=torch.minimum(p, 1 - p).mean().item(),
            mean_gap=(reward_ref - reward_gen).mean().item(),
            pairs=p.numel(),
            labels=reward.labels,
        )
        return LabelledPairs(
            reference_latents=self.encode_photos(),
            generated_latents=latents,
            reference_conditions=self.backbone.encode_prompts(self.photo_texts),
            generated_conditions=conditions,
            probabilities=p.repeat(2, 1) if self.config.training.flip else p,
        )

    def batch(self, data: LabelledPairs, step: int) -> Pairs:
        generated = self.shuffled(len(data.generated_latents), step)
        visit = self.visit(
            len(data.reference_latents),
            step,
            lambda photos: data.probabilities[photos, generated],
            self.config.training.independent_noise,
        )
        return Pairs(**vars(visit), generated=generated)

    def loss(self, learner: Learner, data: LabelledPairs, batch: Pairs) -> Terms:
        settings = self.config.training
        reference, preference = self.compare(learner, data, batch)
        similarity = similarity_loss(reference)
        loss = settings.similarity_weight * similarity
        loss = loss + settings.preference_weight * preference.loss
        return Terms(
            loss,
            {
                "similarity": similarity.detach(),
                "preference": preference.loss.detach(),
                "margin": preference.margin,
                "label_mean": batch.labels.mean(),
            },
        )

    def compare(
        self, learner: Learner, data: LabelledPairs, batch: Pairs
    ) -> tuple[Tensor, PreferenceLoss]:
        """err_θ of the photos, (B * training.photos,), and L_pref of the pairs.

        θ and the base model see the same rows, each in one forward pass: photos, drawn pictures,
        further photos.
        """
        size = len(batch.photos)
        pair = torch.cat(
            [data.reference_latents[batch.photos], data.generated_latents[batch.generated]]
        )
        told = data.reference_conditions
        conditions = Conditions.cat(
            [
                self.photo_conditions(told, batch.photos),
                data.generated_conditions[batch.generated],
            ]
        )
        weights = self.row_weights(batch.photos, size)
        rows = (pair, torch.cat(batch.noise), torch.cat(batch.timesteps), conditions, weights)
        everything = rows
        if batch.more:
            photos, timesteps, noise = batch.more
            everything = (
                torch.cat([pair, data.reference_latents[photos]]),
                torch.cat([rows[1], noise]),
                torch.cat([rows[2], timesteps]),
                Conditions.cat([conditions, self.photo_conditions(told, photos)]),
                self.row_weights(batch.photos, size, photos),
            )
        error = self.backbone.denoising_error(learner.denoiser, *everything)  # (2B + more,)
        with torch.inference_mode():  # no_grad without its bookkeeping
            base_error = self.backbone.denoising_error(self.backbone.denoiser, *rows)  # (2B,)
        delta = improvement(base_error, error[: 2 * size])
        result = preference_loss(
            delta[:size], delta[size:], batch.labels, self.config.training.beta
        )
        return torch.cat([error[:size], error[2 * size :]]), result
