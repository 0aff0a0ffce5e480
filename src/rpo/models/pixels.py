"""What an image processor of transformers does to a picture, on tensors and with gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from rpo.errors import UserError

# Pillow's resampling filters that PyTorch has too, with the same kernel where it shrinks.
_MODES = {Image.Resampling.BILINEAR: "bilinear", Image.Resampling.BICUBIC: "bicubic"}


@dataclass(frozen=True)
class PixelProcessor:
    """Resize, crop, and a scale and shift of each channel: all that these processors do.

    Attributes:
        shortest, size: the short side, or the (height, width), to resize to; None leaves it.
        mode: the filter's name in PyTorch.
        crop: the (height, width) cut from the middle; None leaves it.
        scale, shift: (3,), from [0, 1] to what the network reads.
    """

    shortest: int | None
    size: tuple[int, int] | None
    mode: str
    crop: tuple[int, int] | None
    scale: Tensor
    shift: Tensor

    @classmethod
    def of(cls, processor: Any) -> PixelProcessor:
        """Raises UserError for a processor that does anything else."""
        shortest = size = crop = None
        if getattr(processor, "do_resize", False):
            wanted = processor.size
            shortest = wanted.get("shortest_edge")
            size = None if shortest else (wanted["height"], wanted["width"])
        if getattr(processor, "do_center_crop", False):
            crop = (processor.crop_size["height"], processor.crop_size["width"])
        resample = Image.Resampling(getattr(processor, "resample", Image.Resampling.BICUBIC))
        if (shortest or size) and resample not in _MODES:
            raise UserError(
                f"reward.model: its pictures are resized by {resample.name.lower()}, which has no "
                "gradient here; use a reward model with bilinear or bicubic resizing"
            )
        # Rescaling and normalising come in several orders: asked, not assumed.
        side = 8
        black, white = (
            processor(
                images=Image.fromarray(np.full((side, side, 3), value, np.uint8)),
                return_tensors="pt",
                do_resize=False,
                do_center_crop=False,
            )["pixel_values"][0, :, 0, 0]
            for value in (0, 255)
        )
        mode = _MODES.get(resample, "bicubic")
        return cls(shortest, size, mode, crop, white - black, black)

    def __call__(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] -> (N, 3, h, w) as the network reads them."""
        height, width = images.shape[-2:]
        target = self.size
        if self.shortest:
            short, long = min(height, width), max(height, width)
            other = int(self.shortest * long / short)
            target = (self.shortest, other) if height <= width else (other, self.shortest)
        if target and target != (height, width):
            images = F.interpolate(
                images.float(), target, mode=self.mode, align_corners=False, antialias=True
            )
            images = images.clamp(0, 1)  # as 8 bits would
        if self.crop:
            images = _centre(images, self.crop)
        scale, shift = (t.to(images).view(1, 3, 1, 1) for t in (self.scale, self.shift))
        return images * scale + shift


def _centre(images: Tensor, crop: tuple[int, int]) -> Tensor:
    """The middle (h, w) of the pictures, on black where they are smaller."""
    for axis, wanted in ((-2, crop[0]), (-1, crop[1])):
        have = images.shape[axis]
        if have >= wanted:
            images = images.narrow(axis, (have - wanted) // 2, wanted)
        else:
            before = (wanted - have + 1) // 2
            pad = [0, 0, 0, 0]
            at = 0 if axis == -1 else 2
            pad[at], pad[at + 1] = before, wanted - have - before
            images = F.pad(images, pad)
    return images
