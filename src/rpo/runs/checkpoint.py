"""Nested training state to and from one safetensors file: tensors and plain numbers, no pickle.

The tensors go into the file under numbered names; the nesting around them, a small JSON text,
goes into the same file's metadata. One file means that one rename replaces a checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from rpo.errors import UserError

_STATE = "state"


def flatten(state: Any) -> tuple[dict[str, torch.Tensor], Any]:
    """Separates a nest of dicts, lists, tuples, numbers, strings and tensors.

    Returns (tensors by name, JSON-able skeleton). Raises TypeError for anything else.
    Dictionaries keep the type of their keys (an optimizer's are integers); tuples become lists.
    """
    tensors: dict[str, torch.Tensor] = {}
    storages: set[int] = set()

    def visit(node: Any) -> Any:
        if isinstance(node, torch.Tensor):
            tensor = node.detach().to("cpu").contiguous()
            if tensor.numel() and tensor.untyped_storage().data_ptr() in storages:
                tensor = tensor.clone()  # safetensors refuses two names for one storage
            storages.add(tensor.untyped_storage().data_ptr())
            name = f"{len(tensors):06d}"
            tensors[name] = tensor
            return {"t": name}
        if isinstance(node, Mapping):
            for key in node:
                if not isinstance(key, (str, int)) or isinstance(key, bool):
                    raise TypeError(f"a checkpoint's keys are strings or integers, not {key!r}")
            return {"d": [[key, visit(value)] for key, value in node.items()]}
        if isinstance(node, (list, tuple)):
            return [visit(value) for value in node]
        if node is None or isinstance(node, (bool, int, float, str)):
            return node
        raise TypeError(f"a checkpoint holds tensors and plain values, not {type(node).__name__}")

    return tensors, visit(state)


def unflatten(tensors: Mapping[str, torch.Tensor], skeleton: Any) -> Any:
    """The inverse of `flatten`, except that tuples come back as lists."""
    if isinstance(skeleton, list):
        return [unflatten(tensors, value) for value in skeleton]
    if isinstance(skeleton, dict):
        if "t" in skeleton:
            return tensors[skeleton["t"]]
        return {key: unflatten(tensors, value) for key, value in skeleton["d"]}
    return skeleton


def save_state(state: Any, path: Path) -> None:
    """Writes a nest of tensors and plain values; the same state gives the same bytes."""
    tensors, skeleton = flatten(state)
    save_file(tensors, str(path), metadata={_STATE: json.dumps(skeleton)})


def load_state(path: Path) -> Any:
    """Reads what `save_state` wrote. Raises UserError for a missing or foreign file."""
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            skeleton = json.loads(file.metadata()[_STATE])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: not a checkpoint that can be read; start a new run without --resume"
        ) from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        raise UserError(
            f"{path}: the checkpoint is damaged; start a new run without --resume"
        ) from error
    return unflatten(tensors, skeleton)
