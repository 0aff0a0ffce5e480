"""What to say about photos that can be read but teach little: exposure, blur, sameness.

Every measure is taken on a reduced picture, so that it judges what a model will see. The bounds
were set on DreamBench's 158 photos and the bundled subjects: nothing is said of any photo, and of
one subject in sixty, a cartoon's stills, that its photos are alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from statistics import median

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SIDE = 512  # pixels of the long side at which blur is judged
_FLAT = 2.0  # of 255: a standard deviation below is one colour
_DARK, _BRIGHT = 40, 235  # of 255: 99 % of the pixels are below, or above
_BLURRED = 0.6  # sharp photos have 0.1 to 0.45; a Gaussian blur of 3 pixels makes it 0.65 to 0.8
_CELLS = 16  # a side of the grid on which pictures are compared
_SAME, _ALIKE = 4.0, 12.0  # of 255: other photos of one subject differ by 20 and more


def remark_on(image: Image.Image) -> str:
    """On the exposure or the sharpness of an RGB picture; empty where nothing is to be said."""
    reduced = image.copy()
    reduced.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    grey = np.asarray(reduced.convert("L"), dtype=np.float64)  # (H, W) in [0, 255]
    if np.asarray(reduced).std(axis=(0, 1)).max() < _FLAT:
        return "one flat colour, nothing to learn from; remove it"
    if np.percentile(grey, 99) < _DARK:
        return "very dark; brighten it or take another"
    if np.percentile(grey, 1) > _BRIGHT:
        return "very bright; darken it or take another"
    if blur(grey) > _BLURRED:
        return "blurred; take a sharp one, for the blur is learned too"
    return ""


def blur(grey: NDArray[np.float64], size: int = 11) -> float:
    """The blur of a (H, W) picture, 0 (sharp) to 1; 0 where it has no edges.

    Crete et al. 2007, "The blur effect": blurring a sharp picture takes away most of the
    differences between neighbours, blurring a blurred one leaves them. The share that is left, in
    the worse of the two directions; `size`: of the box in pixels.
    """
    shares = [0.0]
    for axis in (0, 1):
        before = np.abs(np.diff(grey, axis=axis))
        after = np.abs(np.diff(_box(grey, size, axis), axis=axis))
        if total := before.sum():
            shares.append(float(1 - np.maximum(before - after, 0).sum() / total))
    return max(shares)


def _box(grey: NDArray[np.float64], size: int, axis: int) -> NDArray[np.float64]:
    """The mean of `size` neighbours along one axis; the border's pixels go on beyond it."""
    padding = [(0, 0), (0, 0)]
    padding[axis] = (size // 2 + 1, size // 2)
    sums = np.cumsum(np.pad(grey, padding, mode="edge"), axis=axis)
    length = grey.shape[axis]
    upper = np.take(sums, range(size, size + length), axis)
    return (upper - np.take(sums, range(length), axis)) / size


def signature(image: Image.Image) -> NDArray[np.float64]:
    """(16, 16, 3) in [0, 255]: an RGB picture's colours in coarse, for `difference`."""
    small = image.resize((_CELLS, _CELLS), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float64)


def nearly_same(first: NDArray[np.float64], second: NDArray[np.float64]) -> bool:
    """Whether two signatures are those of one picture, saved, reduced or touched up anew."""
    return _difference(first, second) < _SAME


def remark_on_all(signatures: Sequence[NDArray[np.float64]]) -> str:
    """On too little variety among at least three photos; empty where nothing is to be said."""
    if len(signatures) < 3:
        return ""
    if median(_difference(a, b) for a, b in combinations(signatures, 2)) >= _ALIKE:
        return ""
    return (
        "the photos are much alike, so that their background is learned with the subject; "
        "vary place, light and angle"
    )


def _difference(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """The mean difference, in levels of 255."""
    return float(np.abs(first - second).mean())
