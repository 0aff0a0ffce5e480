"""Stable Diffusion 3 and 3.5: two CLIPs and T5, a transformer, rectified flow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rpo.models.conditions import Conditions
from rpo.models.families.family import (
    FLOW_SCHEDULERS,
    Family,
    clip_states,
    per_row,
    rectified_flow,
    shift_for,
    t5_states,
)
from rpo.models.noise import NoiseProcess

T5_TOKENS = 256  # as many as diffusers' pipeline reads


class StableDiffusion3(Family):
    """diffusers' StableDiffusion3Pipeline (arXiv 2403.03206).

    T5 may be absent (null in model_index.json): the model was trained to do without it, and reads
    zeros in the place of its states. T5 reads the whole prompt; where it is there, the CLIPs see
    only a long prompt's beginning.
    """

    denoiser_name = "transformer"
    text_encoders = ("text_encoder", "text_encoder_2", "text_encoder_3")
    schedulers = FLOW_SCHEDULERS
    latent_scale = 1.5305
    optional = ("text_encoder_3", "tokenizer_3")
    patch = 2

    def largest_size(self) -> int | None:
        return self.denoiser_config.pos_embed_max_size * self.patch

    def process(self, image_tokens: int) -> NoiseProcess:
        return rectified_flow(self.pipeline.scheduler, image_tokens)

    def encode(self, texts: Sequence[str]) -> Conditions:
        parts, t5 = self.pipeline, self.pipeline.text_encoder_3
        refuse = t5 is None
        first, first_end = clip_states(parts.tokenizer, parts.text_encoder, texts, refuse)
        second, second_end = clip_states(parts.tokenizer_2, parts.text_encoder_2, texts, refuse)
        width = self.denoiser_config.joint_attention_dim
        if t5 is None:
            third = first.new_zeros(len(first), T5_TOKENS, width)
        else:
            limit = min(T5_TOKENS, parts.tokenizer_3.model_max_length)
            third = t5_states(parts.tokenizer_3, t5, texts, limit)
        clips = torch.cat([first, second], dim=-1)
        clips = F.pad(clips, (0, width - clips.shape[-1]))
        return Conditions(
            torch.cat([clips, third], dim=-2), torch.cat([first_end, second_end], dim=-1)
        )

    def predict(
        self,
        denoiser: nn.Module,
        noisy: Tensor,
        timesteps: Tensor,
        conditions: Conditions,
        guidance: float,
    ) -> Tensor:
        return denoiser(
            hidden_states=noisy,
            timestep=per_row(timesteps, len(noisy)),
            encoder_hidden_states=conditions.tokens,
            pooled_projections=conditions.pooled,
            return_dict=False,
        )[0]

    def set_timesteps(self, solver: Any, steps: int, image_tokens: int, device: Any) -> None:
        solver.set_timesteps(steps, device=device, **shift_for(solver, image_tokens))
