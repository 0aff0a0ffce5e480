"""Whether what lies in last/ is what this job would have put there: anybody may have written it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rpo.errors import UserError
from rpo.methods.method import Method
from rpo.methods.rpo import LabelledPairs
from rpo.models.conditions import Conditions

_BLOCK = 256  # numbers that share a scale in bitsandbytes' 8-bit states, and levels of its maps


def refuse_unfit(data: Any, method: Method, source: Path) -> None:
    """Raises UserError, naming `source`, unless the method can go on from this data of its class.

    What is called latents has the model's shape, one of each photo where they are the photos';
    what is called conditions is as the model encodes a prompt, one row or as many as there are
    latents of that name; probabilities are of all pairs; all of it is finite.
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
            if name == "reference":  # captions: the mirrored photos have no rows of their own
                rows |= {len(method.task.subject.images)}
            if not isinstance(value, Conditions) or not _alike(value, sample, rows):
                raise ValueError(f"{field.name}: not prompts that the model encoded")
    if isinstance(data, LabelledPairs):
        pairs = len(data.reference_latents), len(data.generated_latents)
        if tuple(data.probabilities.shape) != pairs:
            raise ValueError(f"probabilities: {tuple(data.probabilities.shape)}, not {pairs}")
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


def refuse_unfit_state(
    state: Any, parameters: Mapping[str, Tensor], optimizer: str, source: Path
) -> None:
    """Raises UserError, naming `source`, for steps or moments that no training state can hold."""
    try:
        step, validated, moments = (state[key] for key in ("step", "validated", "moments"))
        sound = -1 <= int(validated) <= int(step) and all(
            moments_fit(moments[name], parameter, optimizer)
            for name, parameter in parameters.items()
        )
    except (LookupError, TypeError, ValueError, OverflowError):
        sound = False
    if not sound:
        raise UserError(
            f"{source}: not a training state of this model, method and optimizer; delete it, and "
            "--resume trains again from step 0"
        )


def moments_fit(moments: Any, parameter: Tensor, optimizer: str) -> bool:
    """Whether `training.optimizer` can go on from these moments of a parameter, {} at its start.

    Its kernels read and write as many numbers as the parameter has: of a shorter tensor, beyond its
    end. So names, shapes and types must be those that it makes itself.
    """
    if not isinstance(moments, Mapping):
        return False
    if not moments:
        return True
    own = tuple(parameter.shape)
    floats = (torch.float32,)
    form: dict[str, tuple[tuple[int, ...], tuple[torch.dtype, ...]]]
    if optimizer == "adamw":
        form = {"step": ((), floats), "exp_avg": (own, floats), "exp_avg_sq": (own, floats)}
    else:
        first = moments.get("state1")
        eight_bit = isinstance(first, Tensor) and first.dtype == torch.uint8
        states = (torch.uint8,) if eight_bit else floats
        form = {"state1": (own, states), "state2": (own, states)}
        if eight_bit:
            blocks = (math.ceil(parameter.numel() / _BLOCK),)
            form |= {f"qmap{i}": ((_BLOCK,), floats) for i in (1, 2)}
            form |= {f"absmax{i}": (blocks, floats) for i in (1, 2)}
        step = moments.get("step")
        if not isinstance(step, int) or step < 0:
            return False
        moments = {key: value for key, value in moments.items() if key != "step"}
    return moments.keys() == form.keys() and all(
        isinstance(value, Tensor) and tuple(value.shape) == shape and value.dtype in types
        for value, (shape, types) in ((moments[key], form[key]) for key in form)
    )
