"""How much each pixel of a photo counts in the error of its latents: masks, and padding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cell_weights(pixels: Tensor, side: int, mirrored: bool) -> Tensor:
    """Weights of pixels (M, 1, H, W) as those of cells of the latents (M, 1, side, side).

    A cell's is the mean over its pixels. mirrored: those of the mirrored photos follow, (2M, …).
    """
    if mirrored:
        pixels = torch.cat([pixels, pixels.flip(-1)])
    return F.avg_pool2d(pixels, pixels.shape[-1] // side)


def weights_of_rows(cells: Tensor, *rows: Tensor | int) -> Tensor:
    """(B, 1, h, w): those of these rows. rows: in order, (b,) indices of photos, or a count of
    rows that are no photos, all of which count fully."""
    full = cells.shape[1:]
    return torch.cat(
        [cells[r] if isinstance(r, Tensor) else cells.new_ones(r, *full) for r in rows]
    )
