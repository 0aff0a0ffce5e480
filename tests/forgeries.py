"""Training state and data of a run that are well written, and still not what a run would hold."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rpo.runs.checkpoint import load_state, load_tensors, save_state, save_tensors

State = dict[str, Any]
SCRIPT = "<script>alert(1)</script>"


def first_of(tensors: dict, change: Callable[[torch.Tensor], torch.Tensor]) -> dict:
    """With another tensor of the first name."""
    name = min(tensors)
    return {**tensors, name: change(tensors[name]).contiguous().clone()}


def forge_state(change: Callable[[State], State], folder: Path, outside: Path) -> None:
    """Another training state, well written: a stranger has this code too."""
    file = folder / "last" / "trainer.safetensors"
    save_state(change(load_state(file)), file)


def _moments(change: Callable[[torch.Tensor], Any], key: str, state: State) -> State:
    """Another moment of that key for every parameter."""
    moments = {
        name: {**moment, key: change(moment[key])} for name, moment in state["moments"].items()
    }
    return {**state, "moments": moments}


def _within(section: str, change: Callable[[Any], Any], state: State) -> State:
    return {**state, section: change(state[section])}


STATES: dict[str, Callable[[State], State]] = {
    **{
        f"{key} {name}": partial(_moments, change, key)
        for key in ("exp_avg", "exp_avg_sq", "step")
        for name, change in {
            "of another shape": lambda v: torch.zeros(3, 2),
            "a scalar more": lambda v: v.new_zeros(()) if v.dim() else v.new_zeros(2),
            "of no elements": lambda v: v.new_zeros(0),
            "of whole numbers": lambda v: v.long(),
            "in half": lambda v: v.half(),
            "complex": lambda v: v.to(torch.complex64),
            "not finite": lambda v: v.new_full(v.shape, torch.nan),
            "negative": lambda v: -v - 1,
            "text": lambda v: SCRIPT,
            "null": lambda v: None,
        }.items()
    },
    "moments of one missing": partial(_within, "moments", lambda m: dict(sorted(m.items())[1:])),
    "moments empty": partial(_within, "moments", lambda m: {name: {} for name in m}),
    "moments of foreign names": partial(
        _within, "moments", lambda m: {name: {"x": torch.zeros(2)} for name in m}
    ),
    "moments with one more": partial(
        _within, "moments", lambda m: {name: {**v, "x": torch.zeros(2)} for name, v in m.items()}
    ),
    "moments without a step": partial(
        _within, "moments", lambda m: {n: {"exp_avg": v["exp_avg"]} for n, v in m.items()}
    ),
    "moments a list": partial(_within, "moments", lambda m: list(m.values())),
    **{
        f"{key} {value!r:.20}": partial(_within, key, lambda _, value=value: value)
        for key in ("step", "validated", "weights", "average", "moments", "scaler", "stopping")
        for value in (-5, 10**300, float("nan"), 1.5, True, None, SCRIPT, [], {}, [[1]], {"x": 1})
    },
    "weights not finite": partial(
        _within, "weights", lambda w: {name: v * torch.nan for name, v in w.items()}
    ),
    "weights of whole numbers": partial(
        _within, "weights", lambda w: {name: v.long() for name, v in w.items()}
    ),
    "weights text": partial(_within, "weights", lambda w: dict.fromkeys(w, SCRIPT)),
    **{
        f"stopping values {value!r:.20}": partial(
            _within, "stopping", lambda s, value=value: dict.fromkeys(s, value)
        )
        for value in (-5, 10**400, float("nan"), None, SCRIPT, [], {"x": 1})
    },
}


def forge_data(change: Callable[[dict], dict], folder: Path, outside: Path) -> None:
    """Other data with a digest that fits them."""
    file = folder / "last" / "data.safetensors"
    save_tensors(change(load_tensors(file)), file)


DATA: dict[str, Callable[[dict], dict]] = {
    "one row less": lambda t: first_of(t, lambda v: v[:-1]),
    "no rows": lambda t: {name: v[:0] for name, v in t.items()},
    "one wider": lambda t: first_of(t, lambda v: torch.cat([v, v], dim=-1)),
    "not finite": lambda t: {
        name: v * torch.nan if v.is_floating_point() else v for name, v in t.items()
    },
    "complex": lambda t: {name: v.to(torch.complex64) for name, v in t.items()},
    "huge numbers": lambda t: {
        name: v if v.is_floating_point() or v.dtype == torch.bool else torch.full_like(v, 2**62)
        for name, v in t.items()
        if v.dtype != torch.uint8
    },
}
