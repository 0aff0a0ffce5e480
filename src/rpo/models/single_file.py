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
from rpo.models.families import FAMILIES
from rpo.models.families.facts import Header

# What tools leave beside weights that are to be multiplied, or unpacked, before they are used.
_QUANTISED = ("scaled_fp8", ".scale_weight", ".weight_scale", ".comfy_quant", ".absmax")


@dataclass(frozen=True)
class Checkpoint:
    """What the header of a file tells.

    Attributes:
        path: the file.
        pipeline: diffusers' class for such a model.
        reference: the hub repository whose configurations fit, None where the file does not tell.
        preset: the name of the one that suits it.
        lacking: the parts that it does not hold and that must come from elsewhere, by diffusers'
            names.
        left_out: those that it does not hold and that the model can do without.
        prediction: "epsilon" or "v_prediction" if the file says so.
        zero_snr: it says that its last timestep is pure noise (arXiv 2305.08891).
    """

    path: Path
    pipeline: str
    reference: str | None
    preset: str
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
    header = _header(file)
    shapes, inner = header.shapes, header.inner
    if any(key.endswith(_QUANTISED) or "bitsandbytes" in key for key in shapes):
        raise UserError(
            f"{file}: its weights are quantised (scaled fp8, NF4 or the like); "
            "use the file of the same model in fp16, bf16 or fp32"
        )
    known = FAMILIES.items()
    pipeline, family = next(((k, f) for k, f in known if f.claims(header)), ("", None))
    if family is None:
        raise UserError(f"{file}: {_something_else(file, shapes)}")
    reads, writes = (inner.get(name) for name in family.file_ends)
    if reads and writes and reads[1] != writes[0]:  # (out, in, ...)
        raise UserError(
            f"{file}: its denoiser reads {reads[1]} channels and answers {writes[0]}; use a plain "
            "text-to-image model, no inpainting, fill or depth one"
        )
    absent = [
        part
        for part, prefixes in family.file_parts.items()
        if not any(key.startswith(prefixes) for key in shapes)
    ]
    left_out = family.optional if set(absent) & set(family.optional) else ()
    return Checkpoint(
        path=file,
        pipeline=pipeline,
        reference=family.reference(header),
        preset=family.preset(lambda part: family.file_config(header)),
        lacking=tuple(part for part in absent if part not in left_out),
        left_out=left_out,
        prediction=header.prediction,
        zero_snr="ztsnr" in shapes,
    )


def _header(file: Path) -> Header:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            names = list(opened.keys())
            slices = {name: opened.get_slice(name) for name in names}
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            return Header(file, shapes, opened.metadata() or {})
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
    titles = ", ".join(family.title for family in FAMILIES.values() if family.file_parts)
    return (
        "no base model of a known family; name the checkpoint of a whole model "
        f"({titles}), or a diffusers folder"
    )
