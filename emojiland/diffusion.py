"""The text-to-image model: a U-Net on 8x8 latents and the text encoder trained along with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from emojiland.autoencoder import CHANNELS
from emojiland.fit import device, fit
from emojiland.growing import grow
from emojiland.pool import Pool
from emojiland.scenes import FILLERS
from emojiland.words import MAX_LENGTH
from rpo.models.loading import pipeline_class

StableDiffusionPipeline = pipeline_class("StableDiffusionPipeline")

EMPTY = 0.1  # share of empty prompts, for classifier-free guidance
FILLED = 0.2  # share of captions with a meaningless word before the noun
PHOTO = 0.2  # share of captions that begin with "a photo of"
DRESSED = 4.0  # how much likelier a scene with an outfit is drawn: they are few


def new_scheduler() -> DDPMScheduler:
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        steps_offset=1,
        clip_sample=False,
    )


def new_text_encoder(vocabulary: int) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_LENGTH,
            projection_dim=128,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )


def new_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=(128, 192),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=32,
        norm_num_groups=16,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids


def build(tokenizer: CLIPTokenizer) -> nn.ModuleDict:
    torch.manual_seed(2)
    return nn.ModuleDict({"unet": new_unet(), "text": new_text_encoder(len(tokenizer))})


def train(
    pool: Pool,
    latents: np.ndarray,
    scale: float,
    tokenizer: CLIPTokenizer,
    work: Path,
    steps: int,
    start: nn.ModuleDict | None = None,
    batch: int = 64,
) -> nn.ModuleDict:
    """start: a model of latents with as many or fewer channels, whose weights it begins from."""
    model = build(tokenizer)
    if start is not None:
        grow(model, start)
        with torch.no_grad():  # v of a new channel: nothing is known of it yet
            narrow = start["unet"].conv_out.out_channels
            model["unet"].conv_out.weight[narrow:] = 0
            model["unet"].conv_out.bias[narrow:] = 0
    model = model.to(device())
    schedule = new_scheduler()
    odds = np.array([DRESSED if look.outfit else 1.0 for look in pool.looks])
    upto = np.cumsum(odds / odds.sum())

    def loss(rng: np.random.Generator, noise: torch.Generator):
        picks = np.sort(np.searchsorted(upto[:-1], rng.random(batch), side="right"))
        texts = []
        for k in picks:
            fate, noun = rng.random(), pool.nouns[k]
            if fate < EMPTY:
                texts.append("")
                continue
            if fate < EMPTY + FILLED:
                noun = f"{FILLERS[rng.integers(len(FILLERS))]} {noun}"
            photo = "a photo of " if rng.random() < PHOTO else ""
            texts.append(photo + pool.looks[k].caption(noun))
        clean = torch.from_numpy(latents[picks].astype(np.float32)) * scale
        grain = torch.randn(clean.shape, generator=noise)
        t = torch.randint(0, 1000, (batch,), generator=noise)
        noisy = schedule.add_noise(clean, grain, t).to(device())
        target = schedule.get_velocity(clean, grain, t).to(device())
        words = model["text"](tokenize(tokenizer, texts).to(device())).last_hidden_state
        guess = model["unet"](noisy, t.to(device()), words).sample
        value = (guess - target).square().mean()
        return value, {"loss": value.item()}

    fit("diffusion", model, loss, work, steps=steps, peak=1e-3, seed=2, ema_decay=0.998)
    return model


def pipeline(
    model: nn.ModuleDict, vae: AutoencoderKL, scale: float, tokenizer: CLIPTokenizer
) -> StableDiffusionPipeline:
    vae.register_to_config(scaling_factor=scale)
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=model["text"],
        tokenizer=tokenizer,
        unet=model["unet"],
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
