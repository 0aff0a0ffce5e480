"""Stable Diffusion XL: two CLIP text encoders; the U-Net also reads a pooled vector and sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rpo.models.conditions import Conditions
from rpo.models.families.family import DISCRETE_SCHEDULERS, Family, clip_states, variance_preserving
from rpo.models.noise import NoiseProcess


class StableDiffusionXL(Family):
    """diffusers' StableDiffusionXLPipeline (arXiv 2307.01952).

    Every picture here is square, uncropped and of the model's resolution: its size conditions
    (section 2.2) are (r, r), (0, 0) and (r, r) in training as in sampling.
    """

    denoiser_name = "unet"
    text_encoders = ("text_encoder", "text_encoder_2")
    schedulers = DISCRETE_SCHEDULERS
    latent_scale = 0.13025

    def settings(self) -> dict[str, Any]:
        zeros = self.pipeline.config.force_zeros_for_empty_prompt
        # No watermark: pictures are drawn here by `sample`, which has none either.
        return {"force_zeros_for_empty_prompt": zeros, "add_watermarker": False}

    def process(self, image_tokens: int) -> NoiseProcess:
        return variance_preserving(self.pipeline.scheduler)

    def encode(self, texts: Sequence[str]) -> Conditions:
        parts = self.pipeline
        first, _ = clip_states(parts.tokenizer, parts.text_encoder, texts)
        second, pooled = clip_states(parts.tokenizer_2, parts.text_encoder_2, texts)
        return Conditions(torch.cat([first, second], dim=-1), pooled)

    def unconditional(self) -> Conditions:
        empty = self.encode([""])
        if not self.pipeline.config.force_zeros_for_empty_prompt:
            return empty
        assert empty.pooled is not None
        return Conditions(torch.zeros_like(empty.tokens), torch.zeros_like(empty.pooled))

    def predict(
        self,
        denoiser: nn.Module,
        noisy: Tensor,
        timesteps: Tensor,
        conditions: Conditions,
        guidance: float,
    ) -> Tensor:
        height, width = (side * self.pipeline.vae_scale_factor for side in noisy.shape[-2:])
        sizes = noisy.new_tensor([height, width, 0, 0, height, width])
        added = {"text_embeds": conditions.pooled, "time_ids": sizes.expand(len(noisy), -1)}
        return denoiser(
            noisy,
            timesteps,
            encoder_hidden_states=conditions.tokens,
            added_cond_kwargs=added,
            return_dict=False,
        )[0]
