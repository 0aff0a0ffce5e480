"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, a U-Net, diffusion in discrete steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from rpo.models.conditions import Conditions
from rpo.models.families.family import (
    DISCRETE_SCHEDULERS,
    Family,
    clip_limit,
    token_ids,
    variance_preserving,
)
from rpo.models.noise import NoiseProcess


class StableDiffusion(Family):
    """diffusers' StableDiffusionPipeline (arXiv 2112.10752)."""

    denoiser_name = "unet"
    text_encoders = ("text_encoder",)
    schedulers = DISCRETE_SCHEDULERS
    latent_scale = 0.18215
    unused = ("safety_checker", "feature_extractor", "image_encoder")

    def settings(self) -> dict[str, Any]:
        return {"requires_safety_checker": False}

    def process(self, image_tokens: int) -> NoiseProcess:
        return variance_preserving(self.pipeline.scheduler)

    def encode(self, texts: Sequence[str]) -> Conditions:
        tokenizer, text_encoder = self.pipeline.tokenizer, self.pipeline.text_encoder
        ids = token_ids(tokenizer, texts, clip_limit(tokenizer, text_encoder))
        return Conditions(text_encoder(ids.to(text_encoder.device))[0])

    def predict(
        self,
        denoiser: nn.Module,
        noisy: Tensor,
        timesteps: Tensor,
        conditions: Conditions,
        guidance: float,
    ) -> Tensor:
        return denoiser(
            noisy, timesteps, encoder_hidden_states=conditions.tokens, return_dict=False
        )[0]
