"""Photos to be read, and what the only one in a folder comes to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from rpo.data.subject import PhotoCheck, Subject, check_folder

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def quarters(width: int = 300, height: int = 300) -> Image.Image:
    """Red and green above blue and white: shows every rotation and mirroring."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(GREEN, (width // 2, 0, width, height // 2))
    image.paste(BLUE, (0, height // 2, width // 2, height))
    image.paste(WHITE, (width // 2, height // 2, width, height))
    return image


def assert_quarters(image: Image.Image, tolerance: int = 0) -> None:
    """`image` shows quarters() upright (in the middle of each quarter, clear of the edges)."""
    width, height = image.size
    for (x, y), expected in {(1, 1): RED, (3, 1): GREEN, (1, 3): BLUE, (3, 3): WHITE}.items():
        found = image.getpixel((x * width // 4, y * height // 4))
        assert np.abs(np.subtract(found, expected)).max() <= tolerance, (found, expected)


def flat(colour: tuple[int, int, int], size: tuple[int, int] = (300, 300)) -> Image.Image:
    return Image.new("RGB", size, colour)


def only(folder: Path) -> PhotoCheck:
    (check,) = check_folder(folder)
    return check


def read(folder: Path) -> Image.Image:
    """The picture that a Subject gets from the only photo in `folder`."""
    flat((1, 2, 3)).save(folder / "~last.png")
    return Subject.from_folder(folder, "dog").images[0]
