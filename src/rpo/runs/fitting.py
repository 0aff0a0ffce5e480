"""Whether a run's own last/data.safetensors is what its method would have made of its model."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor

from rpo.errors import UserError
from rpo.methods.method import Method
from rpo.models.conditions import Conditions


def refuse_unfit(data: Any, method: Method, source: Path) -> None:
    """Raises UserError, naming `source`, unless the method can go on from this data of its class.

    What is called latents has the model's shape, one of each photo where they are the photos';
    what is called conditions is as the model encodes a prompt, one row or as many as there are
    latents of that name; all of it is finite. How other fields fit, their class has seen to.
    """
    try:
        _check(data, method)
    except ValueError as error:
        raise UserError(
            f"{source}: not of this model and these photos ({error}); delete it, and --resume "
            "makes it again"
        ) from None


def _check(data: Any, method: Method) -> None:
    backbone = method.backbone
    photos = len(method.task.subject.images) * (1 + method.config.training.flip)
    sample: Conditions | None = None
    for field in fields(data):
        value, name = getattr(data, field.name), field.name.rpartition("_")[0]
        if field.name.endswith("latents"):
            if not isinstance(value, Tensor) or tuple(value.shape[1:]) != backbone.latent_shape:
                raise ValueError(f"{field.name}: not latents of the model")
            if not len(value) or (name == "reference" and len(value) != photos):
                raise ValueError(f"{field.name}: {len(value)} of them")
        elif field.name.endswith("conditions"):
            if sample is None:
                sample = backbone.encode_prompts([method.task.reference.conditioning])
            beside = getattr(data, f"{name}_latents", None)
            rows = {1} if beside is None else {1, len(beside)}
            if not isinstance(value, Conditions) or not _alike(value, sample, rows):
                raise ValueError(f"{field.name}: not prompts that the model encoded")
    for name, tensor in data.tensors().items():
        if tensor.is_complex() or (tensor.is_floating_point() and not tensor.isfinite().all()):
            raise ValueError(f"{name}: not finite numbers")


def _alike(found: Conditions, sample: Conditions, rows: set[int]) -> bool:
    own, theirs = found.tensors(), sample.tensors()
    return (
        own.keys() == theirs.keys()
        and found.tokens.ndim == 3
        and all(
            len(own[key]) in rows
            and own[key].ndim == theirs[key].ndim
            and own[key].is_floating_point() == theirs[key].is_floating_point()
            and (key == "lengths" or own[key].shape[-1] == theirs[key].shape[-1])
            for key in own
        )
        and len({len(tensor) for tensor in own.values()}) == 1
        and (found.lengths is None or 0 < int(found.lengths.min()) <= int(found.lengths.max()))
        and (found.lengths is None or int(found.lengths.max()) <= found.tokens.shape[1])
    )
