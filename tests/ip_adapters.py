"""Tiny random IP-Adapters and their vision encoder, in the files and under the names published."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny import tiny_pipeline
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

WIDTH, PROJECTED = 12, 8  # of the vision encoder's states, and of its projected features


def adapter_weights(kind: str = "epsilon", form: str = "plain", seed: int = 3) -> dict[str, Tensor]:
    """For the U-Net of `tiny_pipeline(kind)`; form: "plain" or "plus"."""
    unet = tiny_pipeline(kind).unet
    told = unet.config.cross_attention_dim
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = _plain(told) if form == "plain" else _plus(told)
        state = {f"image_proj.{name}": tensor for name, tensor in made.items()}
        layers = [n for n in unet.attn_processors if n.endswith("attn2.processor")]
        for place, name in enumerate(layers):
            hidden = unet.get_submodule(name.removesuffix(".processor")).to_k.out_features
            for part in ("to_k_ip", "to_v_ip"):  # the odd numbers are those of cross-attention
                state[f"ip_adapter.{2 * place + 1}.{part}.weight"] = torch.randn(hidden, told)
    return state


def _plain(told: int) -> dict[str, Tensor]:
    return {
        "proj.weight": torch.randn(4 * told, PROJECTED),
        "proj.bias": torch.randn(4 * told),
        "norm.weight": 1 + torch.randn(told) / 4,
        "norm.bias": torch.randn(told),
    }


def _plus(told: int, inner: int = 64, own: int = 16, depth: int = 4) -> dict[str, Tensor]:
    made = {
        "latents": torch.randn(1, 3, own),
        "proj_in.weight": torch.randn(own, WIDTH),
        "proj_in.bias": torch.randn(own),
        "proj_out.weight": torch.randn(told, own),
        "proj_out.bias": torch.randn(told),
        "norm_out.weight": 1 + torch.randn(told) / 4,
        "norm_out.bias": torch.randn(told),
    }
    for layer in range(depth):
        at, forward = f"layers.{layer}.0", f"layers.{layer}.1"
        for norm in (f"{at}.norm1", f"{at}.norm2", f"{forward}.0"):
            made |= {f"{norm}.weight": 1 + torch.randn(own) / 4, f"{norm}.bias": torch.randn(own)}
        made |= {
            f"{at}.to_q.weight": torch.randn(inner, own) / 4,
            f"{at}.to_kv.weight": torch.randn(2 * inner, own) / 4,
            f"{at}.to_out.weight": torch.randn(own, inner) / 4,
            f"{forward}.1.weight": torch.randn(4 * own, own) / 4,
            f"{forward}.3.weight": torch.randn(own, 4 * own) / 4,
        }
    return made


def save_vision(folder: Path, projected: int = PROJECTED) -> Path:
    """A random CLIP vision encoder of two patches a side."""
    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        patch_size=8,
        projection_dim=projected,
        initializer_range=0.5,
    )
    with torch.random.fork_rng():
        torch.manual_seed(4)
        CLIPVisionModelWithProjection(config).save_pretrained(folder)
    return folder


def save_adapter(folder: Path, kind: str = "epsilon", form: str = "plain") -> Path:
    """Both as published, and the path of the adapter's file."""
    folder.mkdir(parents=True, exist_ok=True)
    save_vision(folder / "image_encoder")
    file = folder / f"ip-adapter-{form}.safetensors"
    save_file(adapter_weights(kind, form), file)
    return file
