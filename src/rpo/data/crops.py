"""Which square of a photo is learned from, and how it is cut: pure functions of sizes and pixels.

A square may reach beyond its photo: what is there is plain ground, which nobody learns from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

Crop = Literal["centre", "subject", "none"]
Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels of the photo


@dataclass(frozen=True)
class Square:
    """Left and top edge and side of a square, in pixels of the photo."""

    left: float
    top: float
    side: float

    def scaled(self, factor: float) -> Square:
        """The same in the photo reduced by `factor`."""
        return Square(self.left * factor, self.top * factor, self.side * factor)

    def within(self, width: int, height: int) -> Box:
        """The part of it that the photo of this size fills."""
        return (
            max(self.left, 0),
            max(self.top, 0),
            min(self.left + self.side, width),
            min(self.top + self.side, height),
        )

    def filled(self, width: int, height: int, size: int) -> tuple[int, int, int, int]:
        """That part in pixels of the square drawn `size` wide; never empty."""
        left, top, right, bottom = self.within(width, height)
        scale = size / self.side
        x = min(round((left - self.left) * scale), size - 1)
        y = min(round((top - self.top) * scale), size - 1)
        return (
            *(x, y),
            max(round((right - self.left) * scale), x + 1),
            max(round((bottom - self.top) * scale), y + 1),
        )


def choose_square(crop: Crop, width: int, height: int, box: Box | None = None) -> Square:
    """The square of a photo of this size.

    centre: its middle, as wide as the short side. subject: as wide, and its middle that of `box`
    as far as the photo reaches; wider where the box is, so that all of it is kept. none: as wide as
    the long side, with the whole photo in its middle. Raises ValueError for subject without a box.
    """
    side: float = max(width, height) if crop == "none" else min(width, height)
    if crop != "subject":
        return Square((width - side) * 0.5, (height - side) * 0.5, side)
    if box is None:
        raise ValueError("the crop of a subject needs its box")
    left, top, right, bottom = box
    side = max(side, right - left, bottom - top)
    return Square(_start(left, right, side, width), _start(top, bottom, side, height), side)


def _start(low: float, high: float, side: float, length: int) -> float:
    """Where `side` begins, to have low to high in its middle and little beyond 0 to `length`."""
    if side >= length:
        return (length - side) / 2
    return min(max((low + high - side) / 2, 0), length - side)


def cut(photo: Image.Image, square: Square, size: int) -> Image.Image:
    """The square of an RGB photo, (size, size) pixels by Lanczos.

    What lies beyond the photo has the mean colour of the photo's edge that it continues.
    """
    part = _resized(photo, square, size, Image.Resampling.LANCZOS)
    if part.size == (size, size):
        return part
    x, y, right, bottom = square.filled(*photo.size, size)
    pixels = np.asarray(part, dtype=np.float64)  # (h, w, 3)
    ground = np.empty((size, size, 3))
    for edge, colours in (
        (np.s_[:, :x], pixels[:, 0]),
        (np.s_[:, right:], pixels[:, -1]),
        (np.s_[:y], pixels[0]),
        (np.s_[bottom:], pixels[-1]),
    ):
        ground[edge] = colours.mean(axis=0)
    ground[y:bottom, x:right] = pixels
    return Image.fromarray(np.rint(ground).astype(np.uint8))


def weigh(
    width: int,
    height: int,
    square: Square,
    size: int,
    mask: Image.Image | None = None,
    unmasked: float = 1.0,
) -> np.ndarray:
    """(size, size) float32 in [0, 1]: how much each pixel of the square counts.

    0 beyond the photo of this size; in it u + (1 - u) m, with u = `unmasked` and m the `mask`, an
    "L" picture of the photo's size, white being 1; without one 1.
    """
    x, y, right, bottom = square.filled(width, height, size)
    inner: Any = 1.0
    if mask is not None and unmasked < 1:
        m = _resized(mask.convert("F"), square, size, Image.Resampling.BOX)
        inner = unmasked + (1 - unmasked) * np.asarray(m, dtype=np.float32) / 255
    weights = np.zeros((size, size), dtype=np.float32)
    weights[y:bottom, x:right] = inner
    return weights


def _resized(picture: Image.Image, square: Square, size: int, by: Image.Resampling) -> Image.Image:
    """What of the square lies in the picture, at the scale that makes the square `size` wide."""
    x, y, right, bottom = square.filled(*picture.size, size)
    return picture.resize((right - x, bottom - y), by, box=square.within(*picture.size))
