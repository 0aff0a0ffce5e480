"""Models of real architectures with random weights: speed and memory do not depend on the weights.

They are written in the ordinary layouts, so that the library loads them as it loads any model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from transformers import BertTokenizer, CLIPTokenizer, T5Tokenizer
from transformers.models.efficientnet.image_processing_pil_efficientnet import (
    EfficientNetImageProcessorPil,
)

from rpo.models.families import FAMILIES
from rpo.models.loading import pipeline_class
from rpo.planning.architectures import Architecture, Part, load_architecture
from rpo.quiet import quiet

LETTERS = [chr(code) for code in range(33, 127)]
_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
_SCHEDULERS: Mapping[str, Any] = {
    "StableDiffusionPipeline": lambda: DDIMScheduler(
        **_BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1
    ),
    "StableDiffusionXLPipeline": lambda: EulerDiscreteScheduler(**_BETAS, steps_offset=1),
    "StableDiffusion3Pipeline": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0),
    "FluxPipeline": lambda: FlowMatchEulerDiscreteScheduler(
        shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15
    ),
}
# What makes the networks of Stable Diffusion 1.5 small, to see on any machine that all runs.
_TINY: Mapping[str, Mapping[str, Any]] = {
    "denoiser": {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": 4,
        "norm_num_groups": 4,
        "cross_attention_dim": 16,
    },
    "vae": {
        "block_out_channels": (8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "layers_per_block": 1,
        "norm_num_groups": 4,
    },
    "text_encoder": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    },
}
_TINY_REWARD = {
    "model_type": "align",
    "projection_dim": 32,
    "text_config": {
        "vocab_size": 200,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    },
    "vision_config": {
        "image_size": 32,
        "hidden_dim": 32,
        "in_channels": [32, 16],
        "out_channels": [16, 32],
        "kernel_sizes": [3, 3],
        "strides": [1, 2],
        "num_block_repeats": [1, 1],
        "expand_ratios": [1, 2],
        "depthwise_padding": [],
        "depth_divisor": 8,
        "width_coefficient": 1.0,
        "depth_coefficient": 1.0,
    },
}


def shape_of(name: str) -> Architecture:
    """One of `rpo.planning.architectures.BUILT_IN`; "tiny" is SD 1.5 with small layers."""
    if name != "tiny":
        return load_architecture(name)
    shape = load_architecture("sd15")

    def small(part: Part, changes: Mapping[str, Any]) -> Part:
        return Part(part.kind, {**part.config, **changes})

    texts = {k: small(part, _TINY["text_encoder"]) for k, part in shape.text_encoders.items()}
    return replace(
        shape,
        denoiser=small(shape.denoiser, _TINY["denoiser"]),
        vae=small(shape.vae, _TINY["vae"]),
        text_encoders=texts,
        reward=Part("AutoModel", _TINY_REWARD),
        reward_size=32,
    )


def write_models(name: str, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
    """folder/pipeline and folder/reward of an architecture, with seeded random weights."""
    torch.manual_seed(0)
    shape = shape_of(name)
    kind = next(key for key, family in FAMILIES.items() if family is shape.family)
    parts = {shape.family.denoiser_name: shape.denoiser, "vae": shape.vae, **shape.text_encoders}
    components: dict[str, Any] = {name: part.build(dtype, device) for name, part in parts.items()}
    for key in shape.text_encoders:
        components[key.replace("text_encoder", "tokenizer")] = _tokenizer(shape, key)
    components["scheduler"] = _SCHEDULERS[kind]()
    if kind == "StableDiffusionPipeline":
        components |= {"safety_checker": None, "feature_extractor": None}
        components["requires_safety_checker"] = False
    with quiet():
        pipeline_class(kind)(**components).save_pretrained(folder / "pipeline")
        del components
        shape.reward.build(torch.float32, device).save_pretrained(folder / "reward")
        _bert_tokenizer(shape).save_pretrained(folder / "reward")
        EfficientNetImageProcessorPil(
            size={"height": shape.reward_size, "width": shape.reward_size}, include_top=False
        ).save_pretrained(folder / "reward")


def _tokenizer(shape: Architecture, key: str) -> CLIPTokenizer | T5Tokenizer:
    """One token a letter, padded to what the model reads: the length decides the speed."""
    if "T5" in shape.text_encoders[key].kind:
        special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
        letters = [(letter, -3.0) for letter in LETTERS]
        return T5Tokenizer(vocab=special + letters, extra_ids=0, model_max_length=shape.tokens(key))
    words = [*LETTERS, *(letter + "</w>" for letter in LETTERS)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=shape.tokens(key))


def _bert_tokenizer(shape: Architecture) -> BertTokenizer:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS]
    words += [f"##{letter}" for letter in LETTERS]
    return BertTokenizer(vocab={word: index for index, word in enumerate(words)})
