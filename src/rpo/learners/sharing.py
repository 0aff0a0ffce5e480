"""Copies of networks that share the tensors which do not learn."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def sharing_copy(module: nn.Module, others: Mapping[int, Tensor] | None = None) -> nn.Module:
    """A copy of the modules that holds the very same parameters and buffers.

    others: by the id of a tensor, the one that the copy holds in its place.
    """
    tensors: dict[int, Any] = {id(t): t for t in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, {**tensors, **(others or {})})


def snapshot_of(module: nn.Module) -> nn.Module:
    """A copy that holds what learns as it is now, on the CPU; what does not learn is shared."""
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    kept = {id(p): nn.Parameter(p.detach().to("cpu", copy=True)) for p in learning}
    return sharing_copy(module, kept)
