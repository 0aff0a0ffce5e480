"""Stable Diffusion 3 and 3.5: two CLIPs and T5, a transformer, rectified flow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from rpo.config.presets import Preset
from rpo.models.families.facts import QKV, VAE, Header, Place, Told
from rpo.models.families.family import (
    FLOW_SCHEDULERS,
    Family,
    clip_states,
    per_row,
    rectified_flow,
    shift_for,
    t5_states,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rpo.models.conditions import Conditions
    from rpo.models.noise import NoiseProcess

T5_TOKENS = 256  # as many as diffusers' pipeline reads
_BLOCK = {
    "attn.to_q": Place("x_block.attn.qkv", 0, QKV),
    "attn.to_k": Place("x_block.attn.qkv", 1, QKV),
    "attn.to_v": Place("x_block.attn.qkv", 2, QKV),
    "attn.to_out.0": Place("x_block.attn.proj"),
    "attn.add_q_proj": Place("context_block.attn.qkv", 0, QKV),
    "attn.add_k_proj": Place("context_block.attn.qkv", 1, QKV),
    "attn.add_v_proj": Place("context_block.attn.qkv", 2, QKV),
    "attn.to_add_out": Place("context_block.attn.proj"),
    "attn2.to_q": Place("x_block.attn2.qkv", 0, QKV),
    "attn2.to_k": Place("x_block.attn2.qkv", 1, QKV),
    "attn2.to_v": Place("x_block.attn2.qkv", 2, QKV),
    "attn2.to_out.0": Place("x_block.attn2.proj"),
    "ff.net.0.proj": Place("x_block.mlp.fc1"),
    "ff.net.2": Place("x_block.mlp.fc2"),
    "ff_context.net.0.proj": Place("context_block.mlp.fc1"),
    "ff_context.net.2": Place("context_block.mlp.fc2"),
    # No modulation: in the last block diffusers swaps its halves, and no loader swaps them back.
}


class StableDiffusion3(Family):
    """diffusers' StableDiffusion3Pipeline (arXiv 2403.03206).

    T5 may be absent (null in model_index.json): the model was trained to do without it, and reads
    zeros in the place of its states. T5 reads the whole prompt; where it is there, the CLIPs see
    only a long prompt's beginning.
    """

    title = "Stable Diffusion 3 or 3.5"
    denoiser_name = "transformer"
    text_encoders = ("text_encoder", "text_encoder_2", "text_encoder_3")
    schedulers = FLOW_SCHEDULERS
    latent_scale = 1.5305
    tiny_decoder = "madebyollin/taesd3"
    optional = ("text_encoder_3", "tokenizer_3")
    without_optional = (
        "leave T5 out (prompts are then followed less closely): write [null, null] for "
        "text_encoder_3 and tokenizer_3 in model_index.json"
    )
    patch = 2
    presets: ClassVar = {
        "sd3": Preset(
            "as paper, with the guidance and steps customary for Stable Diffusion 3",
            {
                "sampling": {"steps": 28, "guidance_scale": 5.0},
                "validation": {"guidance_scale": 5.0},
            },
        )
    }
    shapes = ("sd35-medium",)
    file_parts: ClassVar = {
        "vae": VAE,
        "text_encoder": ("text_encoders.clip_l.",),
        "text_encoder_2": ("text_encoders.clip_g.",),
        "text_encoder_3": ("text_encoders.t5xxl.",),
    }
    lora_blocks: ClassVar = {"transformer_blocks": ("joint_blocks", _BLOCK)}

    def largest_size(self) -> int | None:
        return self.denoiser_config.pos_embed_max_size * self.patch

    def process(self, image_tokens: int) -> NoiseProcess:
        return rectified_flow(self.pipeline.scheduler, image_tokens)

    def encode(self, texts: Sequence[str]) -> Conditions:
        import torch
        import torch.nn.functional as F

        from rpo.models.conditions import Conditions

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

    @classmethod
    def tokens(
        cls, text_encoder: str, texts: Mapping[str, Any], denoiser: Mapping[str, Any], limit: int
    ) -> int:
        if text_encoder != "text_encoder_3":
            return super().tokens(text_encoder, texts, denoiser, limit)
        # zeros in the place of an absent T5, as many as always
        return min(T5_TOKENS, limit) if text_encoder in texts else T5_TOKENS

    @classmethod
    def told(cls, texts: Mapping[str, Any], denoiser: Mapping[str, Any], limit: int) -> Told:
        both = ("text_encoder", "text_encoder_3")
        tokens = sum(cls.tokens(name, texts, denoiser, limit) for name in both)
        return Told(tokens, denoiser["joint_attention_dim"], denoiser["pooled_projection_dim"])

    @classmethod
    def claims(cls, header: Header) -> bool:
        return "joint_blocks.0.x_block.attn.qkv.weight" in header.inner

    @classmethod
    def reference(cls, header: Header) -> str:
        if any(".x_block.attn2." in key for key in header.inner):
            return "stabilityai/stable-diffusion-3.5-medium"
        if any(".ln_q." in key for key in header.inner):
            return "stabilityai/stable-diffusion-3.5-large"
        return "stabilityai/stable-diffusion-3-medium-diffusers"

    @classmethod
    def kohya_version(cls, denoiser: Mapping[str, Any], scheduler: Mapping[str, Any]) -> str:
        return "sd3"

    @classmethod
    def modelspec(
        cls, denoiser: Mapping[str, Any], scheduler: Mapping[str, Any]
    ) -> tuple[str, str]:
        return "stable-diffusion-3", "diffusers"
