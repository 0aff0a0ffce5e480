"""What a denoiser's layers are called in other tools.

diffusers renamed the layers of the models that it took over, and split fused projections. Kohya's
sd-scripts, A1111, Forge and ComfyUI kept the names of the first publications for all models but
Stable Diffusion 1 and 2, for which kohya chose diffusers'. The rules were read from the loaders of
sd-scripts (networks/lora*.py), ComfyUI (comfy/lora.py, comfy/utils.py) and A1111
(extensions-builtin/Lora); each family's are with the family.
"""

from __future__ import annotations

from rpo.errors import UserError
from rpo.models.families import FAMILIES
from rpo.models.families.facts import Place

ADAPTER_FILE = "pytorch_lora_weights.safetensors"  # diffusers' own name for it


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
