"""Tiny models of the real diffusers and transformers classes, with seeded random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from rpo.backbone import Backbone, StableDiffusionPipeline, quiet

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


def tiny_pipeline(prediction_type: str = "epsilon", seed: int = 0) -> StableDiffusionPipeline:
    """A Stable Diffusion pipeline of 16 x 16 pictures that runs in milliseconds.

    "epsilon" has Stable Diffusion's linear schedule and PNDM, "v_prediction" the cosine schedule
    with trailing timesteps and DDIM.
    """
    tokenizer = tiny_tokenizer()
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=LATENT_SHAPE[1],
            in_channels=LATENT_SHAPE[0],
            out_channels=LATENT_SHAPE[0],
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=4,
            norm_num_groups=4,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=LATENT_SHAPE[0],
            norm_num_groups=4,
            sample_size=RESOLUTION,
            scaling_factor=0.7,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=TOKENS,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        if prediction_type == "epsilon":
            scheduler = PNDMScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                skip_prk_steps=True,
                steps_offset=1,
            )
        else:
            scheduler = DDIMScheduler(
                beta_schedule="squaredcos_cap_v2",
                prediction_type=prediction_type,
                timestep_spacing="trailing",
                clip_sample=False,
                steps_offset=1,
            )
        pipeline = StableDiffusionPipeline(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    for module in (unet, vae, text_encoder):
        module.eval()
    return pipeline


def save_tiny(folder: Path, prediction_type: str = "epsilon", seed: int = 0) -> Path:
    """Writes `tiny_pipeline` as an ordinary diffusers folder and returns it."""
    with quiet():
        tiny_pipeline(prediction_type, seed).save_pretrained(folder)
    return folder


def tiny_backbone(prediction_type: str = "epsilon", seed: int = 0) -> Backbone:
    """`tiny_pipeline` on the CPU, wrapped for the engine."""
    return Backbone(tiny_pipeline(prediction_type, seed), device="cpu")
