"""crops.py: squares and weights worked out by hand, and the centre as Pillow's own fit has it."""

from __future__ import annotations

import random

import numpy as np
import pytest
from PIL import Image, ImageOps

from rpo.data.crops import Square, choose_square, cut, weigh


@pytest.mark.parametrize(
    ("crop", "size", "box", "square"),
    [
        ("centre", (400, 300), None, (50, 0, 300)),
        ("centre", (301, 400), None, (0, 49.5, 301)),
        ("none", (400, 300), None, (0, -50, 400)),
        ("none", (300, 400), None, (-50, 0, 400)),
        ("subject", (400, 300), (150, 10, 170, 40), (10, 0, 300)),  # around 160: 10 to 310
        ("subject", (400, 300), (0, 0, 20, 20), (0, 0, 300)),  # no further left than the photo
        ("subject", (400, 300), (300, 50, 380, 200), (100, 0, 300)),  # nor further right
        ("subject", (300, 400), (10, 380, 20, 400), (0, 100, 300)),
        ("subject", (400, 300), (20, 0, 380, 100), (20, -30, 360)),  # wider than the photo is high
        ("subject", (400, 300), (0, 0, 400, 300), (0, -50, 400)),
    ],
)
def test_squares(crop, size, box, square) -> None:  # type: ignore[no-untyped-def]
    assert choose_square(crop, *size, box) == Square(*square)


def test_the_square_of_a_subject_holds_all_of_it_and_no_more_ground_than_it_must() -> None:
    draw = random.Random(0)
    for _ in range(500):
        width, height = draw.randint(32, 500), draw.randint(32, 500)
        left, right = sorted(draw.sample(range(width + 1), 2))
        top, bottom = sorted(draw.sample(range(height + 1), 2))
        square = choose_square("subject", width, height, (left, top, right, bottom))
        assert square.left <= left < right <= square.left + square.side
        assert square.top <= top < bottom <= square.top + square.side
        assert square.side == max(min(width, height), right - left, bottom - top)
        if square.side == min(width, height):
            assert square.within(width, height) == (
                *(square.left, square.top),
                *(square.left + square.side, square.top + square.side),
            )
    with pytest.raises(ValueError, match="box"):
        choose_square("subject", 40, 40)


def test_the_centre_is_what_it_was_byte_for_byte() -> None:
    draw = random.Random(1)
    for _ in range(60):
        width, height, size = (draw.randint(32, 300) for _ in range(3))
        photo = Image.frombytes("RGB", (width, height), draw.randbytes(width * height * 3))
        found = cut(photo, choose_square("centre", width, height), size)
        expected = ImageOps.fit(photo, (size, size), Image.Resampling.LANCZOS)
        assert found.tobytes() == expected.tobytes()


def test_beyond_the_photo_is_the_mean_colour_of_its_edge() -> None:
    photo = Image.new("RGB", (4, 2))
    rows = [[(0, 0, 0), (100, 0, 0), (200, 0, 4), (20, 40, 0)], [(10, 20, 30)] * 4]
    photo.putdata([pixel for row in rows for pixel in row])
    found = np.asarray(cut(photo, choose_square("none", 4, 2), 4))
    assert found[1:3].tolist() == [list(map(list, row)) for row in rows]  # nothing was resized
    assert found[0].tolist() == [[80, 10, 1]] * 4  # 320 / 4, 40 / 4, 4 / 4
    assert found[3].tolist() == [[10, 20, 30]] * 4
    turned = np.asarray(cut(photo.rotate(90, expand=True), choose_square("none", 2, 4), 4))
    assert (turned == np.rot90(found)).all()


def test_none_keeps_the_whole_photo() -> None:
    photo = Image.new("RGB", (300, 100), "white")
    photo.paste((200, 30, 30), (0, 0, 10, 100))
    photo.paste((30, 30, 200), (290, 0, 300, 100))
    pixels = np.asarray(cut(photo, choose_square("none", 300, 100), 60)).astype(int)
    assert np.abs(pixels[30, 0] - (200, 30, 30)).max() < 8
    assert np.abs(pixels[30, 59] - (30, 30, 200)).max() < 8


def test_weights() -> None:
    mask = Image.new("L", (4, 2), 0)
    mask.paste(255, (0, 0, 2, 2))
    mask.putpixel((3, 1), 51)  # a fifth
    whole, centre = choose_square("none", 4, 2), choose_square("centre", 4, 2)
    ground = [0.0] * 4
    assert weigh(4, 2, whole, 4).tolist() == [ground, [1.0] * 4, [1.0] * 4, ground]
    assert weigh(4, 2, centre, 2).tolist() == [[1, 1], [1, 1]]
    # u + (1 - u) m with u = 1/4: 1 where the mask is white, 1/4 where black, 0.25 + 0.75 / 5 = 0.4
    assert weigh(4, 2, whole, 4, mask, 0.25) == pytest.approx(
        np.array([ground, [1, 1, 0.25, 0.25], [1, 1, 0.25, 0.4], ground])
    )
    assert weigh(4, 2, centre, 2, mask, 0).tolist() == [[1, 0], [1, 0]]  # the middle two columns
    assert weigh(4, 2, centre, 1, mask, 0).tolist() == [[0.5]]  # their mean
    assert weigh(4, 2, whole, 4, mask, 1).tolist() == weigh(4, 2, whole, 4).tolist()


def test_a_photo_of_any_shape_has_a_pixel() -> None:
    for width, height in ((32, 5000), (5000, 32)):
        square = choose_square("none", width, height)
        assert weigh(width, height, square, 16).sum() == 16
        assert cut(Image.new("RGB", (width, height), "red"), square, 16).getcolors() == [
            (256, (255, 0, 0))
        ]
