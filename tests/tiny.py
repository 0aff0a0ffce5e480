"""Tiny models of the real diffusers and transformers classes, with seeded random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    PNDMScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    ZImageTransformer2DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from rpo.models.backbone import Backbone
from rpo.models.loading import pipeline_class
from rpo.quiet import quiet

StableDiffusionPipeline = pipeline_class("StableDiffusionPipeline")

RESOLUTION = 16  # pixels
LATENT_SHAPE = (4, 8, 8)
TOKENS = 40  # the longest prompt, a token a letter


def tiny_tokenizer() -> CLIPTokenizer:
    """One token a printable ASCII character, and `[V]` as one token of its own."""
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=TOKENS)
    tokenizer.add_tokens("[V]")
    return tokenizer


def tiny_t5_tokenizer() -> T5Tokenizer:
    """One token a printable ASCII character, another for the space before a word."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    letters = [(chr(code), -3.0) for code in range(33, 127)]
    return T5Tokenizer(vocab=special + letters, extra_ids=0, model_max_length=TOKENS)


def tiny_chat_tokenizer() -> Qwen2Tokenizer:
    """One token a printable ASCII character, three marks around a prompt."""
    letters = [chr(code) for code in range(33, 127)]
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    vocabulary = {word: index for index, word in enumerate(["Ġ", *letters, *marks])}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=[], model_max_length=TOKENS)
    tokenizer.add_special_tokens({"additional_special_tokens": marks[1:]})
    tokenizer.add_tokens("[V]")
    tokenizer.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>{% endif %}"
    )
    return tokenizer


def _clip_config(width: int) -> CLIPTextConfig:
    tokenizer = tiny_tokenizer()
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        projection_dim=width,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _t5(width: int) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tiny_t5_tokenizer()),
            d_model=width,
            d_kv=8,
            d_ff=32,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            initializer_factor=0.2,
        )
    )


def _unet(**more: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=LATENT_SHAPE[1],
        in_channels=LATENT_SHAPE[0],
        out_channels=LATENT_SHAPE[0],
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=4,
        norm_num_groups=4,
        **more,
    )


def _vae(**more: Any) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=LATENT_SHAPE[0],
        norm_num_groups=4,
        sample_size=RESOLUTION,
        scaling_factor=0.7,
        **more,
    )


def _linear_schedule(scheduler: Any, **more: Any) -> Any:
    """Stable Diffusion's."""
    return scheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", **more)


def _stable_diffusion(scheduler: Any) -> dict[str, Any]:
    return {
        "unet": _unet(cross_attention_dim=16),
        "vae": _vae(),
        "text_encoder": CLIPTextModel(_clip_config(16)),
        "tokenizer": tiny_tokenizer(),
        "scheduler": scheduler,
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


def _epsilon() -> dict[str, Any]:
    return _stable_diffusion(
        _linear_schedule(PNDMScheduler, skip_prk_steps=True, steps_offset=1),
    )


def _v_prediction() -> dict[str, Any]:
    return _stable_diffusion(
        DDIMScheduler(
            beta_schedule="squaredcos_cap_v2",
            prediction_type="v_prediction",
            timestep_spacing="trailing",
            clip_sample=False,
            steps_offset=1,
        )
    )


def _sdxl(zeros: bool = True) -> dict[str, Any]:
    return {
        "unet": _unet(
            cross_attention_dim=40,  # of both text encoders
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=24 + 6 * 4,  # pooled, and the six sizes
        ),
        "vae": _vae(),
        "text_encoder": CLIPTextModel(_clip_config(16)),
        "text_encoder_2": CLIPTextModelWithProjection(_clip_config(24)),
        "tokenizer": tiny_tokenizer(),
        "tokenizer_2": tiny_tokenizer(),
        "scheduler": _linear_schedule(EulerDiscreteScheduler, steps_offset=1),
        "force_zeros_for_empty_prompt": zeros,
        "add_watermarker": False,
    }


def _sd3(t5: bool = True) -> dict[str, Any]:
    return {
        "transformer": SD3Transformer2DModel(
            sample_size=LATENT_SHAPE[1],
            patch_size=2,
            in_channels=LATENT_SHAPE[0],
            out_channels=LATENT_SHAPE[0],
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=48,
            caption_projection_dim=16,
            pooled_projection_dim=40,
            pos_embed_max_size=8,
            qk_norm="rms_norm",
            dual_attention_layers=(0,),  # as Stable Diffusion 3.5 medium has
        ),
        "vae": _vae(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        "text_encoder": CLIPTextModelWithProjection(_clip_config(16)),
        "text_encoder_2": CLIPTextModelWithProjection(_clip_config(24)),
        "text_encoder_3": _t5(48) if t5 else None,
        "tokenizer": tiny_tokenizer(),
        "tokenizer_2": tiny_tokenizer(),
        "tokenizer_3": tiny_t5_tokenizer() if t5 else None,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    }


def _flux(guided: bool = True) -> dict[str, Any]:
    return {
        "transformer": FluxTransformer2DModel(
            in_channels=4 * LATENT_SHAPE[0],
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=16,
            guidance_embeds=guided,
            axes_dims_rope=(4, 2, 2),
        ),
        "vae": _vae(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        "text_encoder": CLIPTextModel(_clip_config(16)),
        "text_encoder_2": _t5(32),
        "tokenizer": tiny_tokenizer(),
        "tokenizer_2": tiny_t5_tokenizer(),
        "scheduler": FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=guided,
            base_image_seq_len=4,
            max_image_seq_len=64,  # so that a tiny picture's 16 tokens lie between
            shift=3.0 if guided else 1.0,
        ),
    }


def _z_image(shift: float = 6.0) -> dict[str, Any]:
    transformer = ZImageTransformer2DModel(
        in_channels=LATENT_SHAPE[0],
        dim=16,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=32,
        axes_dims=[4, 2, 2],
        axes_lens=[128, 128, 128],
    )
    with torch.no_grad():  # they begin at zero, where a mistake would not show
        transformer.x_pad_token.normal_()
        transformer.cap_pad_token.normal_()
    return {
        "transformer": transformer,
        "vae": _vae(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        "text_encoder": Qwen3Model(
            Qwen3Config(
                vocab_size=len(tiny_chat_tokenizer()),
                hidden_size=32,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=16,
                max_position_embeddings=64,
            )
        ),
        "tokenizer": tiny_chat_tokenizer(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=shift),
    }


# What a pipeline of each kind is made of. "epsilon" has Stable Diffusion's linear schedule and
# PNDM, "v_prediction" the cosine schedule with trailing timesteps and DDIM.
KINDS: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "epsilon": ("StableDiffusionPipeline", _epsilon),
    "v_prediction": ("StableDiffusionPipeline", _v_prediction),
    "sdxl": ("StableDiffusionXLPipeline", _sdxl),
    "sdxl-encoding-the-empty-prompt": ("StableDiffusionXLPipeline", lambda: _sdxl(zeros=False)),
    "sd3": ("StableDiffusion3Pipeline", _sd3),
    "sd3-without-t5": ("StableDiffusion3Pipeline", lambda: _sd3(t5=False)),
    "flux-dev": ("FluxPipeline", _flux),
    "flux-schnell": ("FluxPipeline", lambda: _flux(guided=False)),
    "z-image": ("ZImagePipeline", _z_image),
}


def tiny_pipeline(kind: str = "epsilon", seed: int = 0) -> Any:
    """A pipeline of 16 x 16 pictures that runs in milliseconds."""
    name, build = KINDS[kind]
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(seed)
        parts = build()
        pipeline = pipeline_class(name)(**parts)
    for part in parts.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    return pipeline


def save_tiny(folder: Path, kind: str = "epsilon", seed: int = 0) -> Path:
    """Writes `tiny_pipeline` as an ordinary diffusers folder and returns it."""
    with quiet():
        tiny_pipeline(kind, seed).save_pretrained(folder)
    return folder


def tiny_backbone(kind: str = "epsilon", seed: int = 0, **how: Any) -> Backbone:
    """`tiny_pipeline` on the CPU, wrapped for the engine."""
    return Backbone(tiny_pipeline(kind, seed), device="cpu", resolution=RESOLUTION, **how)
