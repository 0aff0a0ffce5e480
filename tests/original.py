"""A tiny pipeline as one .safetensors file, under the names that the original code gives weights.

Written from the layout of those files, block by block; diffusers' conversion goes the other way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny import save_tiny
from torch import Tensor

Weights = dict[str, Tensor]

_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


def save_original(pipeline: Any, file: Path, **more: Any) -> Path:
    """Writes the file; more: `leave_out`, prefixes; `add`, tensors; `metadata`; `half`."""
    kind = type(pipeline).__name__
    if kind == "StableDiffusion3Pipeline":
        weights = _sd3(pipeline)
    elif kind == "ZImagePipeline":  # as ComfyUI's; the other parts are files of their own
        weights = _under("model.diffusion_model.", _z_image(pipeline.transformer))
    else:
        weights = _under("model.diffusion_model.", _unet(pipeline.unet))
        if kind == "StableDiffusionXLPipeline":
            weights |= _clip("conditioner.embedders.0.transformer.", pipeline.text_encoder)
            weights |= _open_clip("conditioner.embedders.1.model.", pipeline.text_encoder_2)
        else:
            weights |= _clip("cond_stage_model.transformer.", pipeline.text_encoder)
        weights |= _under("first_stage_model.", _vae(pipeline.vae))
    gone = tuple(more.get("leave_out", ()))
    kept = {k: v.clone().contiguous() for k, v in weights.items() if not k.startswith(gone)}
    if more.get("half"):
        kept = {name: weight.half() for name, weight in kept.items()}
    save_file({**kept, **more.get("add", {})}, file, metadata=more.get("metadata"))
    return file


def small_files(folder: Path, kind: str = "epsilon") -> Path:
    """The configurations and tokenizers of a tiny pipeline, without its weights."""
    save_tiny(folder, kind)
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    return folder


def _under(prefix: str, weights: Mapping[str, Tensor]) -> Weights:
    return {prefix + name: weight for name, weight in weights.items()}


def _inner(weights: Mapping[str, Tensor], prefix: str) -> Weights:
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def _renamed(weights: Mapping[str, Tensor], names: Mapping[str, str]) -> Weights:
    found = {}
    for name, weight in weights.items():
        stem, _, kind = name.rpartition(".")
        found[f"{names.get(stem, stem)}.{kind}"] = weight
    return found


def _unet(unet: Any) -> Weights:
    state, found = unet.state_dict(), {}
    for theirs, ours in {
        "time_embed.0": "time_embedding.linear_1",
        "time_embed.2": "time_embedding.linear_2",
        "input_blocks.0.0": "conv_in",
        "out.0": "conv_norm_out",
        "out.2": "conv_out",
        "label_emb.0.0": "add_embedding.linear_1",
        "label_emb.0.2": "add_embedding.linear_2",
    }.items():
        found |= _under(f"{theirs}.", _inner(state, f"{ours}."))

    def steps(block: str, layers: int) -> Iterable[Weights]:
        for layer in range(layers):
            resnet = _renamed(_inner(state, f"{block}.resnets.{layer}."), _UNET_RESNET)
            attention = _inner(state, f"{block}.attentions.{layer}.")
            yield _under("0.", resnet) | _under("1.", attention)

    depth, layers, number = len(unet.config.block_out_channels), unet.config.layers_per_block, 1
    for level in range(depth):
        for step in steps(f"down_blocks.{level}", layers):
            found |= _under(f"input_blocks.{number}.", step)
            number += 1
        if down := _inner(state, f"down_blocks.{level}.downsamplers.0.conv."):
            found |= _under(f"input_blocks.{number}.0.op.", down)
            number += 1
    number = 0
    for level in range(depth):
        for layer, step in enumerate(steps(f"up_blocks.{level}", layers + 1)):
            if layer == layers:
                place = 2 if any(name.startswith("1.") for name in step) else 1
                up = _inner(state, f"up_blocks.{level}.upsamplers.0.conv.")
                step |= _under(f"{place}.conv.", up)
            found |= _under(f"output_blocks.{number}.", step)
            number += 1
    for place, part in {0: "resnets.0", 1: "attentions.0", 2: "resnets.1"}.items():
        middle = _inner(state, f"mid_block.{part}.")
        names = {} if place == 1 else _UNET_RESNET
        found |= _under(f"middle_block.{place}.", _renamed(middle, names))
    assert len(found) == len(state)
    return found


def _vae(vae: Any) -> Weights:
    state, found = vae.state_dict(), {}
    depth = len(vae.config.block_out_channels)
    shortcut = {"conv_shortcut": "nin_shortcut"}
    for half, way, blocks in (
        ("encoder", "down", "down_blocks"),
        ("decoder", "up", "up_blocks"),
    ):
        part = _inner(state, f"{half}.")
        for theirs, ours in {
            "conv_in": "conv_in",
            "conv_out": "conv_out",
            "norm_out": "conv_norm_out",
        }.items():
            found |= _under(f"{half}.{theirs}.", _inner(part, f"{ours}."))
        for index in range(depth):
            level = index if way == "down" else depth - 1 - index
            block = _inner(part, f"{blocks}.{index}.")
            for layer in range(3):
                resnet = _renamed(_inner(block, f"resnets.{layer}."), shortcut)
                found |= _under(f"{half}.{way}.{level}.block.{layer}.", resnet)
            resized = _inner(block, f"{way}samplers.0.conv.")
            found |= _under(f"{half}.{way}.{level}.{way}sample.conv.", resized)
        for index in (0, 1):
            resnet = _renamed(_inner(part, f"mid_block.resnets.{index}."), shortcut)
            found |= _under(f"{half}.mid.block_{index + 1}.", resnet)
        attention = _renamed(_inner(part, "mid_block.attentions.0."), _VAE_ATTENTION)
        for name, weight in attention.items():  # convolutions of 1 x 1 there, linear layers here
            weight = weight[:, :, None, None] if weight.ndim == 2 else weight
            found[f"{half}.mid.attn_1.{name}"] = weight
    for name in ("quant_conv", "post_quant_conv"):
        found |= _under(f"{name}.", _inner(state, f"{name}."))
    assert len(found) == len(state)
    return found


def _clip(prefix: str, encoder: Any) -> Weights:
    """Under transformers' own names, as they were before 5.6: all in "text_model."."""
    state = encoder.state_dict()
    named = {k if k.startswith("text_") else f"text_model.{k}": v for k, v in state.items()}
    return _under(prefix, named)


def _open_clip(prefix: str, encoder: Any) -> Weights:
    state = {k.removeprefix("text_model."): v for k, v in encoder.state_dict().items()}
    found = {
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
        "text_projection": state["text_projection.weight"].T,
    }
    for layer in range(encoder.config.num_hidden_layers):
        ours, theirs = f"encoder.layers.{layer}.", f"transformer.resblocks.{layer}."
        for kind in ("weight", "bias"):
            rows = [state[f"{ours}self_attn.{way}_proj.{kind}"] for way in "qkv"]
            found[f"{theirs}attn.in_proj_{kind}"] = torch.cat(rows)
            for new, old in {
                "attn.out_proj": "self_attn.out_proj",
                "ln_1": "layer_norm1",
                "ln_2": "layer_norm2",
                "mlp.c_fc": "mlp.fc1",
                "mlp.c_proj": "mlp.fc2",
            }.items():
                found[f"{theirs}{new}.{kind}"] = state[f"{ours}{old}.{kind}"]
    return _under(prefix, found)


def _swapped(weight: Tensor) -> Tensor:
    """Shift and scale change places between the original and diffusers."""
    return torch.cat(list(reversed(weight.chunk(2))))


def _sd3(pipeline: Any) -> Weights:
    state, found = pipeline.transformer.state_dict(), {}
    found["pos_embed"] = state["pos_embed.pos_embed"]
    for theirs, ours in {
        "x_embedder.proj": "pos_embed.proj",
        "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
        "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
        "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
        "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
        "context_embedder": "context_embedder",
        "final_layer.linear": "proj_out",
    }.items():
        found |= _under(f"{theirs}.", _inner(state, f"{ours}."))
    for kind in ("weight", "bias"):
        name = f"final_layer.adaLN_modulation.1.{kind}"
        found[name] = _swapped(state[f"norm_out.linear.{kind}"])
    layers = pipeline.transformer.config.num_layers
    for layer in range(layers):
        block = _inner(state, f"transformer_blocks.{layer}.")
        attention = {
            "x_block.attn": ("attn.", "to_q", "to_k", "to_v", "to_out.0", "norm_q", "norm_k"),
            "x_block.attn2": ("attn2.", "to_q", "to_k", "to_v", "to_out.0", "norm_q", "norm_k"),
            "context_block.attn": (
                "attn.",
                *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
                *("norm_added_q", "norm_added_k"),
            ),
        }
        for theirs, (prefix, *rows, out, norm_q, norm_k) in attention.items():
            inner, place = _inner(block, prefix), f"joint_blocks.{layer}.{theirs}"
            if not inner:
                continue
            for kind in ("weight", "bias"):
                found[f"{place}.qkv.{kind}"] = torch.cat([inner[f"{row}.{kind}"] for row in rows])
            found |= _under(f"{place}.proj.", _inner(inner, f"{out}."))
            found |= _under(f"{place}.ln_q.", _inner(inner, f"{norm_q}."))
            found |= _under(f"{place}.ln_k.", _inner(inner, f"{norm_k}."))
        for theirs, ours in {
            "x_block.adaLN_modulation.1": "norm1.linear",
            "x_block.mlp.fc1": "ff.net.0.proj",
            "x_block.mlp.fc2": "ff.net.2",
            "context_block.adaLN_modulation.1": "norm1_context.linear",
            "context_block.mlp.fc1": "ff_context.net.0.proj",
            "context_block.mlp.fc2": "ff_context.net.2",
        }.items():
            part = _inner(block, f"{ours}.")
            if layer == layers - 1 and ours == "norm1_context.linear":
                part = {name: _swapped(weight) for name, weight in part.items()}
            found |= _under(f"joint_blocks.{layer}.{theirs}.", part)
    weights = _under("model.diffusion_model.", found)
    weights |= _under("first_stage_model.", _vae(pipeline.vae))
    weights |= _clip("text_encoders.clip_l.transformer.", pipeline.text_encoder)
    weights |= _clip("text_encoders.clip_g.transformer.", pipeline.text_encoder_2)
    if pipeline.text_encoder_3 is not None:
        t5 = pipeline.text_encoder_3.state_dict()
        t5.pop("encoder.embed_tokens.weight", None)  # the same as "shared"
        weights |= _under("text_encoders.t5xxl.transformer.", t5)
    return weights


def _z_image(transformer: Any) -> Weights:
    found = {}
    for name, weight in transformer.state_dict().items():
        for theirs, ours in {
            "x_embedder": "all_x_embedder.2-1",
            "final_layer": "all_final_layer.2-1",
            "attention.out": "attention.to_out.0",
            "attention.q_norm": "attention.norm_q",
            "attention.k_norm": "attention.norm_k",
        }.items():
            name = name.replace(ours, theirs)
        if name.endswith(".attention.to_q.weight"):
            block = name.removesuffix("to_q.weight")
            parts = [transformer.state_dict()[f"{block}to_{part}.weight"] for part in "qkv"]
            found[f"{block}qkv.weight"] = torch.cat(parts)
        elif not name.endswith((".attention.to_k.weight", ".attention.to_v.weight")):
            found[name] = weight
    return found
