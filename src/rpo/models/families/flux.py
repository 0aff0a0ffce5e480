"""FLUX.1: CLIP's pooled vector and T5's tokens, a transformer on packed latents, rectified flow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rpo.models.conditions import Conditions
from rpo.models.families.family import (
    FLOW_SCHEDULERS,
    Family,
    clip_limit,
    per_row,
    rectified_flow,
    shift_for,
    t5_states,
    token_ids,
)
from rpo.models.noise import NoiseProcess

LATENT_SIDE = 128  # 1024 pixels; the model's files do not say
T5_TOKENS = {True: 512, False: 256}  # [guidance_embeds]: of -dev, of -schnell


class Flux(Family):
    """diffusers' FluxPipeline: FLUX.1-dev and FLUX.1-schnell (architecture: arXiv 2506.15742).

    -dev was distilled to follow a guidance scale that it is told, in one pass; -schnell cannot be
    guided. Neither compares with an empty prompt.
    """

    denoiser_name = "transformer"
    text_encoders = ("text_encoder", "text_encoder_2")
    schedulers = FLOW_SCHEDULERS
    latent_scale = 0.3611
    classifier_free = False
    patch = 2
    packed = 4

    def sample_size(self) -> int:
        return LATENT_SIDE

    def process(self, image_tokens: int) -> NoiseProcess:
        return rectified_flow(self.pipeline.scheduler, image_tokens)

    def encode(self, texts: Sequence[str]) -> Conditions:
        parts = self.pipeline
        limit = T5_TOKENS[bool(self.denoiser_config.guidance_embeds)]
        limit = min(limit, parts.tokenizer_2.model_max_length)
        tokens = t5_states(parts.tokenizer_2, parts.text_encoder_2, texts, limit)
        # T5 reads the whole prompt, CLIP only a long one's beginning.
        clip = parts.text_encoder
        ids = token_ids(parts.tokenizer, texts, clip_limit(parts.tokenizer, clip), refuse=False)
        return Conditions(tokens, clip(ids.to(clip.device)).pooler_output)

    def predict(
        self,
        denoiser: nn.Module,
        noisy: Tensor,
        timesteps: Tensor,
        conditions: Conditions,
        guidance: float,
    ) -> Tensor:
        rows, _, height, width = noisy.shape
        scale = None
        if self.denoiser_config.guidance_embeds:
            scale = noisy.new_full((rows,), guidance, dtype=torch.float32)
        packed = denoiser(
            hidden_states=pack(noisy),
            timestep=per_row(timesteps, rows).to(noisy.dtype) / 1000,
            guidance=scale,
            pooled_projections=conditions.pooled,
            encoder_hidden_states=conditions.tokens,
            txt_ids=noisy.new_zeros(conditions.tokens.shape[1], 3),
            img_ids=positions(height // 2, width // 2).to(noisy),
            return_dict=False,
        )[0]
        return unpack(packed, height, width)

    def set_timesteps(self, solver: Any, steps: int, image_tokens: int, device: Any) -> None:
        sigmas = np.linspace(1.0, 1 / steps, steps)  # before the shift; the last step ends at zero
        solver.set_timesteps(sigmas=sigmas, device=device, **shift_for(solver, image_tokens))


def pack(latents: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h/2 * w/2, 4 C): each 2 x 2 square of cells becomes one token."""
    rows, channels, height, width = latents.shape
    squares = latents.view(rows, channels, height // 2, 2, width // 2, 2)
    return squares.permute(0, 2, 4, 1, 3, 5).reshape(rows, -1, 4 * channels)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `pack`: (B, h/2 * w/2, 4 C) -> (B, C, h, w)."""
    rows, _, channels = tokens.shape
    squares = tokens.view(rows, height // 2, width // 2, channels // 4, 2, 2)
    return squares.permute(0, 3, 1, 4, 2, 5).reshape(rows, channels // 4, height, width)


def positions(height: int, width: int) -> Tensor:
    """(height * width, 3) place of each image token: 0, its row, its column."""
    grid = torch.cartesian_prod(torch.arange(height), torch.arange(width))
    return torch.cat([torch.zeros(len(grid), 1, dtype=grid.dtype), grid], dim=1)
