"""Frozen weights in 8 or 4 bits, by bitsandbytes, under an adapter that learns in full precision.

int8 is LLM.int8() (arXiv 2208.07339): a scale a row. nf4 is QLoRA's (arXiv 2305.14314): a scale for
64 weights, whose 16 values are spaced as a normal distribution is.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import nn

from rpo.config import Config
from rpo.errors import UserError
from rpo.quiet import quiet

_NF4_BLOCK = 64


def refuse_impossible(config: Config) -> None:
    """Raises UserError where `quantize` and the other settings, or this machine, do not go well."""
    if config.quantize == "no":
        return
    if config.training.weights in ("full", "cross-attention"):
        raise UserError(
            f"quantize {config.quantize}: quantised weights cannot learn, only an adapter on them "
            "can; add --set training.weights=lora"
        )
    refuse_absent_bitsandbytes(f"quantize {config.quantize}", "no")


def refuse_absent_bitsandbytes(setting: str, otherwise: str) -> None:
    """Raises UserError where it is not installed; otherwise: the value that does without it."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f"{setting} is bitsandbytes', which is not installed; "
            f"pip install bitsandbytes, or leave it {otherwise}"
        )


def quantized_layers(denoiser: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of its blocks. The few outside (first, last, time) are small and matter."""
    return {
        name: module
        for name, module in denoiser.named_modules()
        if isinstance(module, nn.Linear) and "blocks." in name
    }


def quantize(denoiser: nn.Module, kind: str, dtype: torch.dtype) -> None:
    """Replaces `quantized_layers` in place; the weights are rounded when they move to a device.

    kind: "int8" or "nf4"; dtype: what nf4's products are computed in. Raises UserError where there
    is nothing to quantise.
    """
    layers = quantized_layers(denoiser)
    if not layers:
        raise UserError(f"quantize {kind}: the denoiser has no linear layers; leave it no")
    with quiet():
        from bitsandbytes.nn import Int8Params, Linear4bit, Linear8bitLt, Params4bit

    for name, layer in layers.items():
        sizes, weight = (layer.in_features, layer.out_features), layer.weight.detach()
        bias = layer.bias is not None
        small: Any
        if kind == "nf4":
            form: dict[str, Any] = {"quant_type": "nf4", "compress_statistics": False}
            small = Linear4bit(*sizes, bias, dtype, device="meta", **form)
            small.weight = Params4bit(weight, requires_grad=False, module=small, **form)
            # A layout for some processors, in which not every width fits and nothing can learn.
            small.support_avx512bf16_for_cpu = False
        else:
            small = Linear8bitLt(*sizes, bias, has_fp16_weights=False, device="meta")
            small.weight = Int8Params(weight, requires_grad=False, has_fp16_weights=False)
        small.bias = layer.bias
        parent, _, child = name.rpartition(".")
        setattr(denoiser.get_submodule(parent), child, small)


def saved_bytes(denoiser: nn.Module, kind: str, element: int) -> int:
    """Bytes that quantising saves where weights take `element` bytes each."""
    if kind == "no":
        return 0
    saved = 0
    for layer in quantized_layers(denoiser).values():
        count = layer.weight.numel()
        if kind == "nf4":
            held = -(-count // 2) + 4 * -(-count // _NF4_BLOCK)
        else:
            held = count + 4 * layer.out_features
        saved += element * count - held
    return saved
