"""A model that begins from an earlier one's weights, though some of its layers are wider."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def grow(wide: nn.Module, narrow: nn.Module) -> None:
    """Gives `wide` the weights of `narrow`, which has the same layers, some of fewer channels.

    What a wider weight has more keeps its random start where it makes new outputs, and is zero
    where it reads new inputs: at first nothing reads what the new channels say, so the grown model
    answers in the old channels as the narrow one did. ValueError for other layers.
    """
    theirs = narrow.state_dict()
    ours = wide.state_dict()
    if theirs.keys() != ours.keys():
        raise ValueError(f"other layers: {sorted(theirs.keys() ^ ours.keys())[:3]}")
    for name, weight in ours.items():
        weight.copy_(_widened(weight, theirs[name]))


def _widened(wide: Tensor, narrow: Tensor) -> Tensor:
    """`narrow` in the first rows and columns of `wide`; the other columns of its rows are 0."""
    if wide.shape == narrow.shape:
        return narrow
    out = wide.clone()
    rows = narrow.shape[0]
    if wide.ndim > 1:
        out[:, narrow.shape[1] :] = 0
        out[:rows, : narrow.shape[1]] = narrow
    else:
        out[:rows] = narrow
    return out
