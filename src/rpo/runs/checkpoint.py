"""Nested training state to and from one safetensors file: tensors and plain numbers, no pickle.

The tensors go into the file under numbered names; the nesting around them, a small JSON text,
goes into the same file's metadata. One file means that one rename replaces a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from rpo.errors import UserError
from rpo.reading import read_tensors, refuse_links

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
    remedy = "delete it, and --resume trains again from step 0, or start a new run"
    tensors, metadata = read_tensors(path, remedy)
    try:
        return unflatten(tensors, json.loads(metadata[_STATE]))
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a checkpoint that can be read; {remedy}") from error


def count_weights(path: Path) -> int:
    """How many numbers learn, by a trainer's saved state. Only its head is read. Raises UserError.

    The state's "weights" are by name, as `Trainer.state_dict` gives them.
    """
    refuse_links(path)
    try:
        with safe_open(str(path), framework="pt", device="cpu") as opened:
            state = dict(json.loads((opened.metadata() or {})[_STATE])["d"])
            names = [skeleton["t"] for _, skeleton in state["weights"]["d"]]
            return sum(math.prod(opened.get_slice(name).get_shape()) for name in names)
    except (OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); resume the run") from None


_DIGEST = "sha256"


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Writes tensors with a digest of them all."""
    own = {name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}
    save_file(own, str(path), metadata={_DIGEST: _digest(own)})


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Reads what `save_tensors` wrote. Raises UserError for a file that is not as it was."""
    remedy = "delete it, and --resume makes it again"
    tensors, metadata = read_tensors(path, remedy)
    if metadata.get(_DIGEST) != _digest(tensors):
        raise UserError(f"{path}: damaged, as its digest is another; {remedy}")
    return tensors


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, types, shapes and numbers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
