"""Stable Diffusion XL: two CLIP text encoders; the U-Net also reads a pooled vector and sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from rpo.errors import UserError
from rpo.models.families.facts import DENOISER, VAE, Header, Place, Told
from rpo.models.families.family import DISCRETE_SCHEDULERS, Family, clip_states, variance_preserving

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rpo.models.conditions import Conditions
    from rpo.models.noise import NoiseProcess

# Parts of a layer's name after its block, for the U-Nets of Stable Diffusion (arXiv 2112.10752).
_RESNET = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}


class StableDiffusionXL(Family):
    """diffusers' StableDiffusionXLPipeline (arXiv 2307.01952).

    Every picture here is square, uncropped and of the model's resolution: its size conditions
    (section 2.2) are (r, r), (0, 0) and (r, r) in training as in sampling.
    """

    title = "Stable Diffusion XL"
    denoiser_name = "unet"
    text_encoders = ("text_encoder", "text_encoder_2")
    schedulers = DISCRETE_SCHEDULERS
    latent_scale = 0.13025
    tiny_decoder = "madebyollin/taesdxl"
    shapes = ("sdxl",)
    file_parts: ClassVar = {
        "vae": VAE,
        "text_encoder": ("conditioner.embedders.0.",),
        "text_encoder_2": ("conditioner.embedders.1.",),
    }
    file_ends = ("input_blocks.0.0.weight", "out.2.weight")

    def settings(self) -> dict[str, Any]:
        zeros = self.pipeline.config.force_zeros_for_empty_prompt
        # No watermark: pictures are drawn here by `sample`, which has none either.
        return {"force_zeros_for_empty_prompt": zeros, "add_watermarker": False}

    def process(self, image_tokens: int) -> NoiseProcess:
        return variance_preserving(self.pipeline.scheduler)

    def encode(self, texts: Sequence[str]) -> Conditions:
        import torch

        from rpo.models.conditions import Conditions

        parts = self.pipeline
        first, _ = clip_states(parts.tokenizer, parts.text_encoder, texts)
        second, pooled = clip_states(parts.tokenizer_2, parts.text_encoder_2, texts)
        return Conditions(torch.cat([first, second], dim=-1), pooled)

    def unconditional(self) -> Conditions:
        import torch

        from rpo.models.conditions import Conditions

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
        added: dict[str, Any] = {
            "text_embeds": conditions.pooled,
            "time_ids": sizes.expand(len(noisy), -1),
        }
        if conditions.images is not None:
            added["image_embeds"] = [conditions.images]
        return denoiser(
            noisy,
            timesteps,
            encoder_hidden_states=conditions.tokens,
            added_cond_kwargs=added,
            return_dict=False,
        )[0]

    @classmethod
    def told(cls, texts: Mapping[str, Any], denoiser: Mapping[str, Any], limit: int) -> Told:
        tokens = cls.tokens("text_encoder", texts, denoiser, limit)
        pooled = texts["text_encoder_2"]["projection_dim"]
        return Told(tokens, denoiser["cross_attention_dim"], pooled)

    @classmethod
    def claims(cls, header: Header) -> bool:
        marks = ("input_blocks.0.0.weight", "label_emb.0.0.weight")
        if not all(DENOISER + name in header.shapes for name in marks):
            return False
        if any(key.startswith("conditioner.embedders.0.model.") for key in header.shapes):
            raise UserError(
                f"{header.path}: the refiner of Stable Diffusion XL, which only finishes pictures; "
                "use the base model"
            )
        return True

    @classmethod
    def reference(cls, header: Header) -> str:
        return "stabilityai/stable-diffusion-xl-base-1.0"

    @classmethod
    def place(cls, layer: str, layers_per_block: int) -> Place | None:
        name = _original_unet(layer, layers_per_block + 1)
        return Place(name) if name else None

    @classmethod
    def kohya_version(cls, denoiser: Mapping[str, Any], scheduler: Mapping[str, Any]) -> str:
        return "sdxl_base_v1-0"

    @classmethod
    def modelspec(
        cls, denoiser: Mapping[str, Any], scheduler: Mapping[str, Any]
    ) -> tuple[str, str]:
        return "stable-diffusion-xl-v1-base", "https://github.com/Stability-AI/generative-models"


def _original_unet(layer: str, stride: int) -> str | None:
    """A layer of SDXL's U-Net by the name it was published with.

    There the blocks are numbered through: `stride` to a resolution, of which the last of a
    resolution's input blocks is its downsampler alone.
    """
    if layer in _UNET_ENDS:
        return _UNET_ENDS[layer]
    if match := re.fullmatch(r"mid_block\.(attentions|resnets)\.(\d+)\.(.+)", layer):
        kind, index, rest = match[1], int(match[2]), match[3]
        if kind == "attentions":
            return f"middle_block.{2 * index + 1}.{rest}"
        return f"middle_block.{2 * index}.{_RESNET[rest]}" if rest in _RESNET else None
    match = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.+)", layer)
    if match is None:
        return None
    side, block, kind, index, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    number = stride * block + index + (side == "down")
    blocks = "input_blocks" if side == "down" else "output_blocks"
    if kind == "attentions":
        return f"{blocks}.{number}.1.{rest}"
    if kind == "resnets":
        return f"{blocks}.{number}.0.{_RESNET[rest]}" if rest in _RESNET else None
    if (kind, rest) == ("downsamplers", "conv"):
        return f"input_blocks.{stride * (block + 1)}.0.op"
    if (kind, rest) == ("upsamplers", "conv"):
        # SDXL upsamples only after blocks with attention, where the upsampler is the third part.
        return f"output_blocks.{stride * (block + 1) - 1}.2.conv"
    return None
