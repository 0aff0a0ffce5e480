"""One kind of photo or folder, and how it is drawn and saved."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 96, 72


# Clockwise from the upper left; no two are alike in any channel's order, and none is pure.
COLOURS = ((200, 60, 40), (60, 160, 70), (230, 220, 200), (50, 80, 190))


Colours = Sequence[Sequence[float]]


Make = Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """One kind of photo or folder.

    make: fills an empty folder. status: of the check of `file`, or "passed over", or "folder
    refused" (`make` may put another folder's name into `given`). says: stands in the message, in
    pieces where it has " … "; an "ok" has none. colours: of the four quarters where it is used;
    None: they are not looked at. "unseen": damaged, and nobody can know.
    """

    group: str
    name: str
    make: Make
    status: str = "ok"
    says: str = ""
    colours: Colours | None = COLOURS
    size: tuple[int, int] | None = (WIDTH, HEIGHT)
    file: str = "a"
    given: str | None = None
    variant: str = ""

    @property
    def id(self) -> str:
        return " ".join(part for part in (self.group, self.name, self.variant) if part)


def scene(colours: Colours = COLOURS, width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """Four quarters: shows every turn and mirroring."""
    image = Image.new("RGB", (width, height))
    x, y = width // 2, height // 2
    for colour, box in zip(
        colours,
        ((0, 0, x, y), (x, 0, width, y), (x, y, width, height), (0, y, x, height)),
        strict=True,
    ):
        image.paste(tuple(round(level) for level in colour), box)
    return image


def quarters(image: Image.Image) -> np.ndarray:
    """(4, 3): the mean colour in the middle of each quarter, in `scene`'s order."""
    pixels = np.asarray(image, dtype=np.float64)
    height, width = pixels.shape[:2]
    found = []
    for x, y in ((1, 1), (3, 1), (3, 3), (1, 3)):
        row, column = y * height // 4, x * width // 4
        found.append(pixels[row - 4 : row + 4, column - 4 : column + 4].mean(axis=(0, 1)))
    return np.stack(found)


def saved(name: str, image: Image.Image | None = None, **options: Any) -> Make:
    """Saves a picture, the scene by default, as `name`."""

    def make(folder: Path) -> None:
        if Path(name).suffix.lower() in (".heic", ".heif", ".hif"):
            import pillow_heif

            pillow_heif.register_heif_opener()
        (image or scene()).save(folder / name, **options)

    return make


def saved_as_png(name: str) -> Make:
    return written(name, encoded("PNG"))


def written(name: str, data: bytes) -> Make:
    return lambda folder: (folder / name).write_bytes(data) and None


def encoded(form: str, image: Image.Image | None = None, **options: Any) -> bytes:
    if form == "HEIF":
        import pillow_heif

        pillow_heif.register_heif_opener()
    buffer = BytesIO()
    (image or scene()).save(buffer, form, **options)
    return buffer.getvalue()


def both(*makes: Make) -> Make:
    def make(folder: Path) -> None:
        for one in makes:
            one(folder)

    return make


def noise(seed: int = 0, side: int = 96) -> Image.Image:
    """Something that does not compress, so that a cut goes through the picture."""
    levels = random.Random(seed).randbytes(side * side * 3)
    return Image.frombytes("RGB", (side, side), levels)


GREYS = (0, 80, 255, 160)


GREY_COLOURS = tuple((level,) * 3 for level in GREYS)


def grey() -> Image.Image:
    return scene(GREY_COLOURS).convert("L")
