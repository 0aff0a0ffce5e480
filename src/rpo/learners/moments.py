"""What an optimizer keeps of a parameter, and whether a saved one may be put in its place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_BLOCK = 256  # numbers that share a scale in bitsandbytes' 8-bit states, and levels of its maps


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
