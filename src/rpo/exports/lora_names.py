"""What a denoiser's layers are called in other tools.

diffusers renamed the layers of the models that it took over, and split fused projections. Kohya's
sd-scripts, A1111, Forge and ComfyUI kept the names of the first publications for all models but
Stable Diffusion 1 and 2, for which kohya chose diffusers'. The rules were read from the loaders of
sd-scripts (networks/lora*.py), ComfyUI (comfy/lora.py, comfy/utils.py) and A1111
(extensions-builtin/Lora); each family's are with the family.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from rpo.errors import UserError
from rpo.models.families import FAMILIES
from rpo.models.families.facts import Place

ADAPTER_FILE = "pytorch_lora_weights.safetensors"  # diffusers' own name for it
# Kohya's loader of U-Nets looks for layers within Transformer2DModel, ResnetBlock2D, Downsample2D
# and Upsample2D. Those outside it leaves out without a word; ComfyUI and A1111 read them.
_IN_KOHYAS_BLOCKS = re.compile(r"\.(attentions|resnets|downsamplers|upsamplers)\.")


def place_of(pipeline: str, layer: str, layers_per_block: int = 2) -> Place:
    """Where a layer of the denoiser lies in the model as kohya's tools know it.

    pipeline: the class in model_index.json; layer: its name in diffusers, such as
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"; layers_per_block: of the U-Net's
    configuration. Raises UserError for a layer that has no name there.
    """
    family = FAMILIES.get(pipeline)
    if place := family and family.place(layer, layers_per_block):
        return place
    raise UserError(
        f"--to: the trained layer {layer} has no name in this format; use --to diffusers"
    )


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
