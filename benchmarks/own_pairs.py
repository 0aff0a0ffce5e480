"""Preferences among the model's own drawings, in place of the reward's gradient.

    python -m benchmarks.own_pairs benchmarks/online.toml --row own-pairs

Method `own_pairs` is `online` with one term exchanged. Two drawings of the present model, by the
same prompt, are a pair; the one with the higher r_λ is preferred (D3PO, arXiv 2311.13231, with the
loss of Diffusion-DPO, arXiv 2311.12908, against the frozen base). It needs no gradient through
decoder and reward model. What came of it stands in docs/why.md. It is a method from outside too:
registered below, and then taught by the command as any other.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import torch
from torch import Tensor

from rpo.cli import main
from rpo.config.methods import METHODS
from rpo.learners.learner import Learner
from rpo.methods.losses import improvement, preference_loss
from rpo.methods.online import Online, Rewarded
from rpo.rewards.harmonic import preference_probability
from rpo.seeds import make_generator


class OwnPairs(Online):
    """L_sim + w L_pref of pairs (x_a, x_b) that the present model drew by one prompt."""

    def reward(self, learner: Learner, batch: Rewarded) -> Tensor:
        """-L_pref of the batch's pairs: its first half of P drawings against its second."""
        half = len(batch.prompts) // 2
        rows = batch.prompts[:half].tolist() * 2
        latents, probability = self.judged(learner, rows, batch.seeds[: 2 * half].tolist())
        timesteps, noise = self.draw_noise(half, make_generator(int(batch.seeds[0]), "noise"))
        device = self.backbone.device
        seen = (
            latents,
            noise.repeat(2, 1, 1, 1).to(device),
            timesteps.repeat(2).to(device),
            self.told[rows],
        )
        error = self.backbone.denoising_error(learner.denoiser, *seen)
        with torch.no_grad():
            base = self.backbone.denoising_error(self.backbone.denoiser, *seen)
        first, second = improvement(base, error).split(half)
        return -preference_loss(first, second, probability, self.config.training.beta).loss

    @torch.no_grad()
    def judged(self, learner: Learner, rows: list[int], seeds: list[int]) -> tuple[Tensor, Tensor]:
        """(2N, C, h, w) drawings, and (N,) how surely each of the first N is preferred."""
        reward, latents = self.config.reward, self.draw(learner, rows, seeds)
        pictures = self.backbone.decode(latents)
        scores = self.task.reward.score(pictures, [self.task.prompts[k].plain for k in rows])
        value = scores.combine(self.config.online.lambda_online, reward.mean)
        first, second = value.to(latents.device).split(len(rows) // 2)
        if reward.labels == "drawn":
            return latents, (first > second).float()
        return latents, preference_probability(first, second, reward.temperature)


FACTS = replace(
    METHODS["online"],
    place="benchmarks.own_pairs:OwnPairs",
    title="Preferences among own drawings",
    paper="arXiv 2311.13231",
    learns="the photos, and which of two drawings of its own is better",
)

if __name__ in ("__main__", "__mp_main__"):  # a job's own process too has the method
    METHODS["own_pairs"] = FACTS
if __name__ == "__main__":
    sys.argv[1:1] = ["bench"]
    main()
