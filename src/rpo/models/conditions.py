"""What a denoiser is told of the prompts: rows of tensors that stay together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditions:
    """N encoded prompts. All tensors have N rows; row k of each belongs to prompt k.

    Attributes:
        tokens: (N, L, D), one vector a token.
        pooled: (N, P), one vector a prompt, for the families that read one (SDXL, SD 3, FLUX).
        lengths: (N,) integers on the CPU, how many of a row's tokens are the prompt's, for the
            families that read no others (Z-Image); the rest of the row is zero.
        images: (N, M, ...), features of M pictures that stand beside each prompt, for a denoiser
            with an IP-Adapter.
    """

    tokens: Tensor
    pooled: Tensor | None = None
    lengths: Tensor | None = None
    images: Tensor | None = None

    def _map(
        self,
        change: Callable[[Tensor], Tensor],
        change_lengths: Callable[[Tensor], Tensor] = lambda lengths: lengths,
    ) -> Conditions:
        return Conditions(
            change(self.tokens),
            None if self.pooled is None else change(self.pooled),
            None if self.lengths is None else change_lengths(self.lengths),
            None if self.images is None else change(self.images),
        )

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: slice | Sequence[int] | Tensor) -> Conditions:
        """The chosen rows; always a batch, so a single integer is a TypeError."""
        if isinstance(rows, int) or (isinstance(rows, Tensor) and rows.ndim == 0):
            raise TypeError("index Conditions by a slice, a list or a tensor of rows")
        at = rows.cpu() if isinstance(rows, Tensor) else rows
        return self._map(lambda tensor: tensor[rows], lambda lengths: lengths[at])

    def expand(self, rows: int) -> Conditions:
        """One prompt as `rows` equal ones, without copying it. ValueError if there are more."""
        if len(self) != 1:
            raise ValueError(f"only one prompt can be expanded, not {len(self)}")
        return self._map(
            lambda tensor: tensor.expand(rows, *tensor.shape[1:]),
            lambda lengths: lengths.expand(rows),
        )

    def to(self, target: torch.device | torch.dtype | str) -> Conditions:
        """The same on another device, or as other floats."""
        return self._map(lambda tensor: tensor.to(target))

    @staticmethod
    def cat(parts: Sequence[Conditions]) -> Conditions:
        """All rows of the parts in order. ValueError where only some have what others have."""
        pooled = [part.pooled for part in parts if part.pooled is not None]
        lengths = [part.lengths for part in parts if part.lengths is not None]
        images = [part.images for part in parts if part.images is not None]
        if not {len(pooled), len(lengths), len(images)} <= {0, len(parts)}:
            raise ValueError("conditions of different model families cannot be joined")
        return Conditions(
            torch.cat([part.tokens for part in parts]),
            torch.cat(pooled) if pooled else None,
            torch.cat(lengths) if lengths else None,
            torch.cat(images) if images else None,
        )

    def is_finite(self) -> bool:
        """Whether all of it is; it waits for the device."""
        return all(bool(tensor.isfinite().all()) for tensor in self.tensors().values())

    def tensors(self) -> dict[str, Tensor]:
        """By name, for saving."""
        named = {
            "tokens": self.tokens,
            "pooled": self.pooled,
            "lengths": self.lengths,
            "images": self.images,
        }
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor]) -> Conditions:
        """The inverse of `tensors`. Raises TypeError for other names."""
        return Conditions(**tensors)
