"""FLUX.1: CLIP's pooled vector and T5's tokens, a transformer on packed latents, rectified flow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from rpo.config.presets import Preset
from rpo.models.families.facts import QKV, VAE, Header, Place, Told
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

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rpo.models.conditions import Conditions
    from rpo.models.noise import NoiseProcess

LATENT_SIDE = 128  # 1024 pixels; the model's files do not say
T5_TOKENS = {True: 512, False: 256}  # [guidance_embeds]: of -dev, of -schnell
QKV_MLP = (1, 1, 1, 4)  # the first layer of its single blocks; their MLP is four times as wide
_DOUBLE = {
    "attn.to_q": Place("img_attn.qkv", 0, QKV),
    "attn.to_k": Place("img_attn.qkv", 1, QKV),
    "attn.to_v": Place("img_attn.qkv", 2, QKV),
    "attn.to_out.0": Place("img_attn.proj"),
    "attn.add_q_proj": Place("txt_attn.qkv", 0, QKV),
    "attn.add_k_proj": Place("txt_attn.qkv", 1, QKV),
    "attn.add_v_proj": Place("txt_attn.qkv", 2, QKV),
    "attn.to_add_out": Place("txt_attn.proj"),
    "ff.net.0.proj": Place("img_mlp.0"),
    "ff.net.2": Place("img_mlp.2"),
    "ff_context.net.0.proj": Place("txt_mlp.0"),
    "ff_context.net.2": Place("txt_mlp.2"),
    "norm1.linear": Place("img_mod.lin"),
    "norm1_context.linear": Place("txt_mod.lin"),
}
_SINGLE = {
    "attn.to_q": Place("linear1", 0, QKV_MLP),
    "attn.to_k": Place("linear1", 1, QKV_MLP),
    "attn.to_v": Place("linear1", 2, QKV_MLP),
    "proj_mlp": Place("linear1", 3, QKV_MLP),
    "proj_out": Place("linear2"),
    "norm.linear": Place("modulation.lin"),
}


class Flux(Family):
    """diffusers' FluxPipeline: FLUX.1-dev and FLUX.1-schnell (architecture: arXiv 2506.15742).

    -dev was distilled to follow a guidance scale that it is told, in one pass; -schnell cannot be
    guided. Neither compares with an empty prompt.
    """

    title = "FLUX.1"
    denoiser_name = "transformer"
    text_encoders = ("text_encoder", "text_encoder_2")
    schedulers = FLOW_SCHEDULERS
    latent_scale = 0.3611
    tiny_decoder = "madebyollin/taef1"
    classifier_free = False
    patch = 2
    packed = 4
    presets: ClassVar = {
        "flux": Preset(
            "as paper, with the guidance and steps customary for FLUX dev",
            {
                "sampling": {"steps": 28, "guidance_scale": 3.5},
                "validation": {"guidance_scale": 3.5},
            },
        ),
        "flux-schnell": Preset(
            "as paper, unguided and in 4 steps, for FLUX schnell",
            {
                "sampling": {"steps": 4, "guidance_scale": 0.0},
                "validation": {"steps": 4, "guidance_scale": 0.0},
            },
        ),
    }
    shapes = ("flux-dev",)
    file_parts: ClassVar = {
        "vae": VAE,
        "text_encoder": ("text_encoders.clip_l.",),
        "text_encoder_2": ("text_encoders.t5xxl.",),
    }
    file_ends = ("img_in.weight", "final_layer.linear.weight")
    lora_blocks: ClassVar = {
        "transformer_blocks": ("double_blocks", _DOUBLE),
        "single_transformer_blocks": ("single_blocks", _SINGLE),
    }

    def sample_size(self) -> int:
        return LATENT_SIDE

    def process(self, image_tokens: int) -> NoiseProcess:
        return rectified_flow(self.pipeline.scheduler, image_tokens)

    def encode(self, texts: Sequence[str]) -> Conditions:
        from rpo.models.conditions import Conditions

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
        import torch

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
        import numpy as np

        sigmas = np.linspace(1.0, 1 / steps, steps)  # before the shift; the last step ends at zero
        solver.set_timesteps(sigmas=sigmas, device=device, **shift_for(solver, image_tokens))

    @classmethod
    def preset(cls, configuration: Callable[[str], Mapping[str, Any]]) -> str:
        guided = configuration(cls.denoiser_name).get("guidance_embeds", False)
        return "flux" if guided else "flux-schnell"

    @classmethod
    def tokens(
        cls, text_encoder: str, texts: Mapping[str, Any], denoiser: Mapping[str, Any], limit: int
    ) -> int:
        if text_encoder == "text_encoder_2":
            return min(T5_TOKENS[bool(denoiser.get("guidance_embeds"))], limit)
        return super().tokens(text_encoder, texts, denoiser, limit)

    @classmethod
    def told(cls, texts: Mapping[str, Any], denoiser: Mapping[str, Any], limit: int) -> Told:
        tokens = cls.tokens("text_encoder_2", texts, denoiser, limit)
        return Told(tokens, denoiser["joint_attention_dim"], denoiser["pooled_projection_dim"])

    @classmethod
    def claims(cls, header: Header) -> bool:
        return "double_blocks.0.img_mod.lin.weight" in header.inner

    @classmethod
    def file_config(cls, header: Header) -> Mapping[str, Any]:
        return {"guidance_embeds": "guidance_in.in_layer.weight" in header.inner}

    @classmethod
    def reference(cls, header: Header) -> str:
        guided = cls.file_config(header)["guidance_embeds"]
        return f"black-forest-labs/FLUX.1-{'dev' if guided else 'schnell'}"

    @classmethod
    def kohya_version(cls, denoiser: Mapping[str, Any], scheduler: Mapping[str, Any]) -> str:
        return "flux1"

    @classmethod
    def modelspec(
        cls, denoiser: Mapping[str, Any], scheduler: Mapping[str, Any]
    ) -> tuple[str, str]:
        which = "dev" if denoiser.get("guidance_embeds") else "schnell"
        return f"flux-1-{which}", "https://github.com/black-forest-labs/flux"


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
    import torch

    grid = torch.cartesian_prod(torch.arange(height), torch.arange(width))
    return torch.cat([torch.zeros(len(grid), 1, dtype=grid.dtype), grid], dim=1)
