"""The photos as a tensor: shape, order, centre square and Lanczos."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from photo_files import BLUE, RED, flat, quarters
from PIL import Image

from rpo.data.subject import Subject

pytestmark = pytest.mark.usefixtures("no_remarks_on_content")


def subject_of(*images: Image.Image) -> Subject:
    return Subject("dog", images, tuple(Path(f"{i}.png") for i in range(len(images))), "live", "x")


def test_tensor_values_shape_and_order() -> None:
    tensor = subject_of(flat((255, 0, 51)), flat(BLUE, (40, 64))).tensor(24)
    assert tensor.shape == (2, 3, 24, 24)
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous()
    expected = torch.tensor([[1.0, -1.0, -0.6], [-1.0, -1.0, 1.0]])  # 51 / 127.5 - 1 = -0.6
    torch.testing.assert_close(tensor, expected[:, :, None, None].expand(2, 3, 24, 24))


def test_tensor_is_the_centre_square_the_right_way_up() -> None:
    wide = Image.new("RGB", (12, 4), RED)
    wide.paste(quarters(4, 4), (4, 0))
    tall = wide.transpose(Image.Transpose.TRANSPOSE)
    first, second = subject_of(wide, tall).tensor(4)
    square = np.asarray(quarters(4, 4))  # 4 pixels to 4 pixels: nothing is resampled
    expected = torch.tensor(square, dtype=torch.float32).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(first, expected)
    torch.testing.assert_close(second, expected.transpose(1, 2))


def test_tensor_resizes_by_lanczos_with_antialiasing() -> None:
    """Halving 8 pixels: output j is a sum of all inputs within 6 of 2j + 1, weighted by sinc."""
    line = np.array([0, 0, 0, 255, 0, 0, 0, 0], np.uint8)
    image = Image.fromarray(np.repeat(line[None, :, None], 8, axis=0).repeat(3, axis=2))
    (found,) = subject_of(image).tensor(4)

    def lanczos(x: float) -> float:
        return float(np.sinc(x) * np.sinc(x / 3)) if abs(x) < 3 else 0.0

    expected = []
    for j in range(4):
        weights = [lanczos((i + 0.5 - (2 * j + 1)) / 2) for i in range(8)]
        level = min(max(255 * weights[3] / math.fsum(weights), 0), 255)
        expected.append(level / 127.5 - 1)
    target = torch.tensor(expected).expand(3, 4, 4)
    torch.testing.assert_close(found, target, atol=1.01 / 127.5, rtol=0)  # rounded twice
    assert expected[1] > -0.4 > expected[2]  # the stroke is seen where it is


def test_tensor_size_must_be_positive() -> None:
    with pytest.raises(ValueError, match="size must be >= 1"):
        subject_of(flat(RED)).tensor(0)
