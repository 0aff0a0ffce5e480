"""Three encoders of their own: the reward model, a CLIP-like and a DINO-like judge.

They differ in architecture, seed and objective. The reward model and the CLIP-like judge share no
individual, and each misses one artist that the other knows. All are trained on scenes drawn from
the training sprites only; the artwork of the thirty subjects is new to all of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AlignConfig,
    AlignModel,
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    ViTConfig,
    ViTModel,
)

from emojiland.art import LIVE_CLASSES
from emojiland.autoencoder import to_tensor
from emojiland.fit import device, fit
from emojiland.pool import Pool
from emojiland.scenes import instance
from emojiland.words import MAX_LENGTH

# Web captions name individuals ("Bella the pug in the snow"), so ALIGN and CLIP know them a
# little. Our captions do not; a small instance term stands in for that.
INSTANCE_WEIGHT = 0.3
SUPERVISED_TEMPERATURE = 0.1


def new_reward_model(vocabulary: int) -> AlignModel:
    """Convolutions (EfficientNet) and BERT, as ALIGN."""
    text = {
        "vocab_size": vocabulary,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_LENGTH + 4,
        "pad_token_id": 1,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    vision = {
        "image_size": 64,
        "width_coefficient": 1.0,
        "depth_coefficient": 1.0,
        "depth_divisor": 8,
        "kernel_sizes": [3, 3, 3, 3],
        "in_channels": [32, 32, 64, 96],
        "out_channels": [32, 64, 96, 160],
        "depthwise_padding": [],
        "strides": [1, 2, 2, 2],
        "num_block_repeats": [1, 1, 2, 2],
        "expand_ratios": [1, 4, 4, 4],
        "squeeze_expansion_ratio": 0.25,
        "hidden_dim": 160,
        "drop_connect_rate": 0.0,
        "batch_norm_momentum": 0.05,
    }
    return AlignModel(
        AlignConfig(
            text_config=text, vision_config=vision, projection_dim=160, temperature_init_value=0.1
        )
    )


def new_clip_judge(vocabulary: int) -> CLIPModel:
    text = {
        "vocab_size": vocabulary,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_LENGTH,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    vision = {
        "image_size": 64,
        "patch_size": 8,
        "hidden_size": 160,
        "intermediate_size": 480,
        "num_hidden_layers": 4,
        "num_attention_heads": 5,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=96))


def new_dino_judge() -> ViTModel:
    return ViTModel(
        ViTConfig(
            image_size=64,
            patch_size=8,
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=6,
        ),
        add_pooling_layer=False,
    )


def image_features(model: nn.Module, pixels: Tensor) -> Tensor:
    """(N, 3, 64, 64) in [-1, 1] -> (N, D), unit norm."""
    if isinstance(model, ViTModel):
        features = model(pixel_values=pixels).last_hidden_state[:, 0]
    elif isinstance(model, AlignModel):
        features = model.vision_model(pixel_values=pixels).pooler_output
    else:
        features = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
    return F.normalize(features, dim=-1)


def text_features(model: nn.Module, tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """N texts -> (N, D), unit norm."""
    words = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").to(
        device()
    )
    hidden = model.text_model(**words)
    if isinstance(model, AlignModel):
        features = model.text_projection(hidden.last_hidden_state[:, 0])
    else:
        features = model.text_projection(hidden.pooler_output)
    return F.normalize(features, dim=-1)


def _same(values: list | np.ndarray) -> Tensor:
    codes = np.unique(np.asarray(values), return_inverse=True)[1]
    codes = torch.from_numpy(codes)
    return (codes[:, None] == codes[None, :]).to(device())


def caption_loss(images: Tensor, texts: Tensor, scale: Tensor, captions: list[str]) -> Tensor:
    """CLIP's symmetric cross-entropy, in which equal captions are equally right."""
    logits = scale * images @ texts.T
    wanted = _same(captions).float()
    wanted = wanted / wanted.sum(-1, keepdim=True)
    return (F.cross_entropy(logits, wanted) + F.cross_entropy(logits.T, wanted)) / 2


def instance_loss(features: Tensor, instances: np.ndarray) -> Tensor:
    """Supervised contrastive loss (Khosla et al. 2020): scenes of one individual attract."""
    same = _same(instances)
    self_mask = torch.eye(len(features), dtype=torch.bool, device=features.device)
    logits = (features @ features.T / SUPERVISED_TEMPERATURE).masked_fill(self_mask, -1e9)
    positive = same & ~self_mask
    log_p = logits - torch.logsumexp(logits, dim=-1, keepdim=True)
    return -((log_p * positive).sum(-1) / positive.sum(-1).clamp(min=1)).mean()


def _families(
    pool: Pool, artwork: Path, keep: Callable[[int, str], bool]
) -> dict[str, list[np.ndarray]]:
    """Class noun -> for each individual kept, the numbers of its scenes (two at least)."""
    scenes = defaultdict(list)
    for k, who in enumerate(pool.instances):
        scenes[int(who)].append(k)
    families: dict[str, list[np.ndarray]] = defaultdict(list)
    for who, numbers in scenes.items():
        sprite = instance(artwork, who).sprite
        if len(numbers) > 1 and keep(who, sprite.artist):
            families[sprite.noun].append(np.array(numbers))
    return dict(families)


def _pairs(rng: np.random.Generator, families: dict[str, list[np.ndarray]], count: int, nouns: int):
    """Two scenes each of `count` individuals out of a few classes: rivals that look alike.

    The living come twice as often: only they wear the many outfits.
    """
    names = sorted([*families, *LIVE_CLASSES])
    chosen = [names[k] for k in rng.permutation(len(names))[:nouns]]
    picks = []
    for k in range(count):
        mine = families[chosen[k % nouns]]
        scenes = mine[rng.integers(len(mine))]
        picks += list(rng.choice(scenes, 2, replace=False))
    return np.array(picks)


@dataclass(frozen=True)
class Recipe:
    """What sets one encoder apart. `keep` says which individuals, by which artists, it sees."""

    new: Callable[[int], nn.Module]  # from the vocabulary's size
    keep: Callable[[int, str], bool]
    seed: int
    nouns: int  # classes in a batch: the fewer, the more its individuals look alike
    peak: float = 1e-3
    with_text: bool = True


RECIPES = {
    "reward": Recipe(
        new_reward_model,
        lambda who, artist: who % 2 == 0 and artist != "emojione",
        seed=3,
        nouns=15,
    ),
    "judge-clip": Recipe(
        new_clip_judge,
        lambda who, artist: who % 2 == 1 and artist != "fluent-emoji",
        seed=4,
        nouns=15,
    ),
    "judge-dino": Recipe(
        lambda vocabulary: new_dino_judge(),
        lambda who, artist: who % 3 != 0,
        seed=5,
        nouns=4,
        peak=7e-4,
        with_text=False,
    ),
}


def train(
    name: str,
    pool: Pool,
    tokenizer: CLIPTokenizer,
    work: Path,
    artwork: Path,
    steps: int,
    batch: int = 128,
) -> nn.Module:
    """Trains, or resumes, the encoder of that name in RECIPES."""
    recipe = RECIPES[name]
    torch.manual_seed(recipe.seed)
    model = recipe.new(len(tokenizer)).to(device())
    families = _families(pool, artwork, recipe.keep)

    def loss(rng: np.random.Generator, noise: torch.Generator):
        picks = _pairs(rng, families, batch // 2, recipe.nouns)
        pixels = to_tensor(pool.images[picks])
        light = 1 + 0.1 * torch.randn(batch, 3, 1, 1, generator=noise)
        images = image_features(model, (pixels * light).to(device()))
        individuals = instance_loss(images, pool.instances[picks])
        if not recipe.with_text:
            return individuals, {"instance": individuals.item()}
        captions = [pool.captions[k] for k in picks]
        texts = text_features(model, tokenizer, captions)
        if isinstance(model, AlignModel):
            scale = 1 / model.temperature.clamp(min=0.01)
        else:
            scale = model.logit_scale.exp().clamp(max=100)
        value = caption_loss(images, texts, scale, captions)
        total = value + INSTANCE_WEIGHT * individuals
        return total, {
            "caption": value.item(),
            "instance": individuals.item(),
            "scale": scale.item(),
        }

    return fit(
        name, model, loss, work, steps=steps, peak=recipe.peak, seed=recipe.seed, ema_decay=0.998
    )
