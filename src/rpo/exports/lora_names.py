"""What a denoiser's layers are called in other tools.

diffusers renamed the layers of the models that it took over, and split fused projections. Kohya's
sd-scripts, A1111, Forge and ComfyUI kept the names of the first publications for all models but
Stable Diffusion 1 and 2, for which kohya chose diffusers'. The rules were read from the loaders of
sd-scripts (networks/lora*.py), ComfyUI (comfy/lora.py, comfy/utils.py) and A1111
(extensions-builtin/Lora).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from rpo.errors import UserError

ADAPTER_FILE = "pytorch_lora_weights.safetensors"  # diffusers' own name for it
# Kohya's loader of U-Nets looks for layers within Transformer2DModel, ResnetBlock2D, Downsample2D
# and Upsample2D. Those outside it leaves out without a word; ComfyUI and A1111 read them.
_IN_KOHYAS_BLOCKS = re.compile(r"\.(attentions|resnets|downsamplers|upsamplers)\.")
QKV = (1, 1, 1)  # query, key and value, stacked
QKV_MLP = (1, 1, 1, 4)  # the first layer of FLUX's single blocks; its MLP is four times as wide


@dataclass(frozen=True)
class Place:
    """A layer of another tool's model, and which of its rows a layer of diffusers is.

    name: with dots. sizes: the heights of the blocks of rows that the layer is stacked from, in
    multiples of the model's width; block: which of them.
    """

    name: str
    block: int = 0
    sizes: tuple[int, ...] = (1,)


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

_SD3_BLOCK = {
    "attn.to_q": Place("x_block.attn.qkv", 0, QKV),
    "attn.to_k": Place("x_block.attn.qkv", 1, QKV),
    "attn.to_v": Place("x_block.attn.qkv", 2, QKV),
    "attn.to_out.0": Place("x_block.attn.proj"),
    "attn.add_q_proj": Place("context_block.attn.qkv", 0, QKV),
    "attn.add_k_proj": Place("context_block.attn.qkv", 1, QKV),
    "attn.add_v_proj": Place("context_block.attn.qkv", 2, QKV),
    "attn.to_add_out": Place("context_block.attn.proj"),
    "attn2.to_q": Place("x_block.attn2.qkv", 0, QKV),
    "attn2.to_k": Place("x_block.attn2.qkv", 1, QKV),
    "attn2.to_v": Place("x_block.attn2.qkv", 2, QKV),
    "attn2.to_out.0": Place("x_block.attn2.proj"),
    "ff.net.0.proj": Place("x_block.mlp.fc1"),
    "ff.net.2": Place("x_block.mlp.fc2"),
    "ff_context.net.0.proj": Place("context_block.mlp.fc1"),
    "ff_context.net.2": Place("context_block.mlp.fc2"),
    # No modulation: in the last block diffusers swaps its halves, and no loader swaps them back.
}
_FLUX_DOUBLE = {
    "attn.to_q": Place("img_attn.qkv", 0, QKV),
    "attn.to_k": Place("img_attn.qkv", 1, QKV),
    "attn.to_v": Place("img_attn.qkv", 2, QKV),
    "attn.to_out.0": Place("img_attn.proj"),
    "attn.add_q_proj": Place("txt_attn.qkv", 0, QKV),
    "attn.add_k_proj": Place("txt_attn.qkv", 1, QKV),
    "attn.add_v_proj": Place("txt_attn.qkv", 2, QKV),
    "attn.to_add_out": Place("txt_attn.proj"),
    "ff.net.0.proj": Place("img_mlp.0"),
    "ff.net.2": Place("img_mlp.2"),
    "ff_context.net.0.proj": Place("txt_mlp.0"),
    "ff_context.net.2": Place("txt_mlp.2"),
    "norm1.linear": Place("img_mod.lin"),
    "norm1_context.linear": Place("txt_mod.lin"),
}
_FLUX_SINGLE = {
    "attn.to_q": Place("linear1", 0, QKV_MLP),
    "attn.to_k": Place("linear1", 1, QKV_MLP),
    "attn.to_v": Place("linear1", 2, QKV_MLP),
    "proj_mlp": Place("linear1", 3, QKV_MLP),
    "proj_out": Place("linear2"),
    "norm.linear": Place("modulation.lin"),
}
# [pipeline][folder of blocks in diffusers] -> its name elsewhere, and the layers of a block
_TRANSFORMERS = {
    "StableDiffusion3Pipeline": {"transformer_blocks": ("joint_blocks", _SD3_BLOCK)},
    "FluxPipeline": {
        "transformer_blocks": ("double_blocks", _FLUX_DOUBLE),
        "single_transformer_blocks": ("single_blocks", _FLUX_SINGLE),
    },
}


def place_of(pipeline: str, layer: str, layers_per_block: int = 2) -> Place:
    """Where a layer of the denoiser lies in the model as kohya's tools know it.

    pipeline: the class in model_index.json; layer: its name in diffusers, such as
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"; layers_per_block: of the U-Net's
    configuration. Raises UserError for a layer that has no name there.
    """
    if pipeline == "StableDiffusionPipeline":
        return Place(layer)  # kohya's names for Stable Diffusion 1 and 2 are diffusers'
    if pipeline == "StableDiffusionXLPipeline":
        if name := _original_unet(layer, layers_per_block + 1):
            return Place(name)
    else:
        folder, number, rest = [*layer.split(".", 2), "", ""][:3]
        other, layers = _TRANSFORMERS.get(pipeline, {}).get(folder, ("", {}))
        if rest in layers:
            place = layers[rest]
            return Place(f"{other}.{number}.{place.name}", place.block, place.sizes)
    raise UserError(
        f"--to: the trained layer {layer} has no name in this format; use --to diffusers"
    )


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


def kohya_key(place: Place) -> str:
    """The beginning of a layer's keys in kohya's files: "lora_unet_input_blocks_4_1_proj_in"."""
    return "lora_unet_" + place.name.replace(".", "_")


def obstacle(
    to: str,
    pipeline: str,
    layers: Collection[str],
    dora: Collection[str] = (),
    layers_per_block: int = 2,
) -> str:
    """Why a format cannot hold an adapter of these layers, with the remedy; empty where it can.

    to: "kohya" or "comfyui", as all others hold any; layers: names in diffusers' denoiser; dora:
    those of them that have magnitudes; pipeline, layers_per_block: as for `place_of`.
    """
    if to not in ("kohya", "comfyui"):
        return ""
    from rpo.models.families import FAMILIES  # late, as it imports torch

    unet = FAMILIES[pipeline].denoiser_name == "unet"
    unnamed, unread = [], []
    stacks: dict[str, list[Place]] = {}
    for layer in layers:
        try:
            place = place_of(pipeline, layer, layers_per_block)
        except UserError:
            unnamed.append(layer)
            continue
        if unet and not _IN_KOHYAS_BLOCKS.search(layer):
            unread.append(layer)
        if layer in dora:
            stacks.setdefault(place.name, []).append(place)
    if unnamed:
        return f"{_listed(unnamed)} has no name in this format; use --to diffusers"
    if to == "kohya" and unread:
        return (
            f"kohya's loader leaves out {_listed(unread)} without a word; use --to comfyui (which "
            "ComfyUI and A1111 read) or --to diffusers"
        )
    partial = [name for name, parts in stacks.items() if len(parts) < len(parts[0].sizes)]
    if to == "kohya" and partial:
        return (
            f"{_listed(partial)} is trained as DoRA in part only, for which kohya's format has no "
            "words; use --to comfyui or --to diffusers"
        )
    return ""


def _listed(names: Collection[str]) -> str:
    """The first six of them."""
    more = len(names) - 6
    return ", ".join(list(names)[:6]) + (f" and {more} more" if more > 0 else "")
