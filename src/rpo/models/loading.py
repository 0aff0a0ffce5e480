"""From a folder or a single file to a complete diffusers pipeline, or one line saying why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DDIMScheduler
from diffusers.loaders.single_file_utils import SingleFileComponentError
from safetensors import SafetensorError
from torch import nn

from rpo.errors import UserError
from rpo.models.families import FAMILIES, Family
from rpo.models.resolve import configurations, read_index
from rpo.models.single_file import Checkpoint, recognise
from rpo.quiet import quiet

# RuntimeError: weights of another shape; SafetensorError: cut off; AttributeError: a class that
# the libraries do not have; KeyError, IndexError: names that a conversion looks for in vain; the
# rest: numbers in a configuration of which no model can be made.
FAILURES = (
    OSError,
    ValueError,
    RuntimeError,
    AttributeError,
    LookupError,
    TypeError,
    ArithmeticError,
    AssertionError,
    SafetensorError,
    SingleFileComponentError,
)


def pipeline_class(name: str) -> Any:
    """One of diffusers' pipelines, or a family's own; imported late, because it takes its time."""
    family = FAMILIES.get(name)
    if family and family.pipeline_type:
        return family.pipeline_type
    with quiet():  # it would advise to install torchvision
        return getattr(diffusers, name)


def load_pipeline(path: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The diffusers pipeline in a folder or a single file, whatever precision the files have.

    dtype: of a folder's models, but for the autoencoder's; a single file's are float32.

    Only safetensors are read, nothing is downloaded. Raises UserError for an unknown family and
    for files that are missing, damaged or of another model.
    """
    try:
        with quiet():
            pipeline = _from_file(recognise(path)) if path.is_file() else _from_folder(path, dtype)
            _refuse_incomplete(pipeline)
        _refuse_foreign_vae(path, pipeline)
        return pipeline
    except FAILURES as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise UserError(
            f"model '{path}' cannot be loaded ({reason}); name a complete diffusers folder or "
            "checkpoint with safetensors weights, or fetch it again"
        ) from error


def unsupported(model: str, kind: str) -> str:
    """The message for a pipeline of no known family."""
    return (
        f"{model} is a {kind}; use a plain text-to-image model, no inpainting, image-to-image or "
        f"video one: {', '.join(FAMILIES)}"
    )


def _index(folder: Path) -> tuple[dict[str, Any], type[Family]]:
    """What model_index.json says, and the family of its pipeline."""
    index = read_index(folder)
    kind = index.get("_class_name", "model without a class")
    if kind not in FAMILIES:
        raise UserError(unsupported(f"model '{folder}'", kind))
    family = FAMILIES[kind]
    for part, known in (("scheduler", family.schedulers), ("vae", ("AutoencoderKL",))):
        name = (index.get(part) or [None])[-1]
        if name not in known:
            raise UserError(
                f"model '{folder}': its {part} is a {name}, and this family is trained with a "
                f"{known[0]}{' or its like' if known[1:] else ''}; put the {part} folder and the "
                "model_index.json of the original model back (a distilled few-step model is no "
                "base model: use the one that it was distilled from)"
            )
    return index, family


def _from_folder(folder: Path, dtype: torch.dtype) -> Any:
    index, family = _index(folder)
    absent = [part for part in family.optional if index.get(part) in (None, [None, None])]
    texts = [part for part in family.text_encoders if part not in absent]
    return pipeline_class(index["_class_name"]).from_pretrained(
        str(folder),
        torch_dtype={"default": dtype, "vae": torch.float32},
        use_safetensors=True,
        local_files_only=True,
        variant=_variant(folder / family.denoiser_name),
        **dict.fromkeys([*family.unused, *absent]),
        **{part: load_component(folder, part, index, dtype) for part in texts},
    )


def _from_file(checkpoint: Checkpoint) -> Any:
    """By diffusers' conversion of the original names.

    The configurations are always named: without, diffusers would look them up online, even where
    it is told to use local files only. No precision is named, as the models are built in float32.
    """
    folder = configurations(checkpoint)
    index, family = _index(folder)
    loader = pipeline_class(checkpoint.pipeline)
    try:
        pipeline = loader.from_single_file(
            str(checkpoint.path),
            config=str(folder),
            local_files_only=True,
            **dict.fromkeys([*family.unused, *checkpoint.left_out]),
            **{part: load_component(folder, part, index) for part in checkpoint.lacking},
        )
    except NotImplementedError:  # it moves weights that have a shape and no numbers
        raise OSError(f"weights of its {family.denoiser_name} or vae are missing") from None
    for part in family.text_encoders:
        if (module := getattr(pipeline, part)) is not None:
            module.tie_weights()  # a file holds a weight that is used twice once
    pipeline.scheduler = _as_the_file_says(checkpoint, pipeline.scheduler)
    return pipeline


def _as_the_file_says(checkpoint: Checkpoint, scheduler: Any) -> Any:
    """The scheduler with the prediction type and the last timestep that the file asks for.

    Checkpoints of one architecture differ in them, and the configurations are the original's.
    """
    changes: dict[str, Any] = {}
    if checkpoint.prediction:
        changes["prediction_type"] = checkpoint.prediction
    if not checkpoint.zero_snr:
        return type(scheduler).from_config(scheduler.config, **changes)
    # DDIM knows this schedule, which not every solver does. It has to begin at the last timestep.
    changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return DDIMScheduler.from_config(scheduler.config, clip_sample=False, **changes)


def _variant(part: Path) -> str | None:
    """ "fp16" for a part that has its weights in that variant only."""
    weights = [file.name for file in part.glob("*.safetensors")]
    return "fp16" if weights and all(".fp16" in name for name in weights) else None


def load_component(
    folder: Path, part: str, index: dict[str, Any], dtype: torch.dtype = torch.float32
) -> Any:
    """A text encoder or VAE from its own folder. Raises OSError unless it has all its weights."""
    library, name = index[part]
    options: dict[str, Any] = {"use_safetensors": True, "local_files_only": True}
    options["variant"] = _variant(folder / part)
    if library == "diffusers":
        return getattr(diffusers, name).from_pretrained(
            str(folder / part), torch_dtype=dtype, **options
        )
    # Without the report transformers fills what is missing with random numbers.
    module, report = getattr(transformers, name).from_pretrained(
        folder / part, dtype=dtype, output_loading_info=True, **options
    )
    if missing := sorted([*report["missing_keys"], *map(str, report["mismatched_keys"])]):
        raise OSError(f"weights of its {part} are missing, such as {missing[0]}")
    return module


def _refuse_incomplete(pipeline: Any) -> None:
    """Raises OSError where a loader left something out without a word."""
    for name, part in pipeline.components.items():
        # With its files gone transformers builds a tokenizer that knows no word.
        if name.startswith("tokenizer") and part and len(part) <= len(part.all_special_tokens):
            raise OSError(f"the files of its {name} are missing")
        # A weight that no file holds has a shape and no numbers.
        if not isinstance(part, nn.Module):
            continue
        for weight, value in part.named_parameters():
            if value.is_meta:
                raise OSError(f"weights of its {name} are missing, such as {weight}")


def _refuse_foreign_vae(path: Path, pipeline: Any) -> None:
    """Raises UserError for a VAE whose latents have the scale of another family's.

    diffusers takes Stable Diffusion's where a configuration names none.
    """
    own = FAMILIES[type(pipeline).__name__].latent_scale
    scale = pipeline.vae.config.get("scaling_factor")
    others = {family.latent_scale: name for name, family in reversed(FAMILIES.items())}
    if not scale or (scale != own and scale in others):
        whose = f" (that of a {others[scale]})" if scale in others else ""
        raise UserError(
            f"model '{path}': the scaling_factor of its VAE is {scale}{whose}, its family's "
            f"is {own}; put the model's own vae folder back, or add the factor to vae/config.json"
        )
