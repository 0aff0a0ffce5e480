"""Five subjects drawn by code alone, as ordinary photos: a second world of evidence.

    python -m benchmarks.second_world FOLDER
    rpo train FOLDER/robot --noun toy

No artwork of Emojiland's is in them, neither what it was trained on nor its held-out sets, and none
of its backgrounds. Five photos each of 96 to 512 pixels, with another place, view and pose; the
same bytes every time with the same Pillow. Nouns are of Emojiland's own classes: `SUBJECTS`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from benchmarks.command import finish
from benchmarks.drawn_subjects import SIDE, Colour, Pen, Pose, cat, clock, dog, robot, teapot
from rpo.errors import UserError

SIZES = ((512, 512), (400, 300), (256, 256), (320, 400), (96, 96))  # of the photos, in pixels


# --- the places: each has its ground from y = 62 down -----------------------------------------


def _sky(top: Colour, bottom: Colour) -> Pen:
    pen = Pen((*bottom, 255))
    for y in range(70):
        mix = [round(a + (b - a) * y / 70) for a, b in zip(top, bottom, strict=True)]
        pen.box(0, y, 100, 1.2, (mix[0], mix[1], mix[2]))
    return pen


def table(rng: np.random.Generator) -> Image.Image:
    pen = _sky((238, 226, 206), (226, 208, 182))
    for x in range(4, 100, 16):
        for y in range(6, 60, 14):
            pen.oval(x + 8 * (y // 14 % 2), y, 1.6, 1.6, (206, 160, 130))
    for k, y in enumerate(range(62, 100, 8)):
        shade = int(rng.integers(-8, 8))
        pen.box(0, y, 100, 7.6, (176 + shade, 118 + shade, 74 + shade))
        pen.line([(20 + 23 * k % 90, y), (20 + 23 * k % 90, y + 7)], (140, 90, 54), 0.5)
    return pen.image


def garden(rng: np.random.Generator) -> Image.Image:
    pen = _sky((150, 204, 240), (222, 240, 244))
    for x in rng.uniform(5, 95, 5):
        pen.oval(x, 58, 15, 14, (98, 158, 88))
    pen.box(0, 62, 100, 40, (124, 182, 86))
    for x, y in rng.uniform((2, 65), (98, 98), (38, 2)):
        pen.line([(x, y), (x + 1, y - 3)], (92, 148, 66), 0.7)
    for x, y in rng.uniform((2, 66), (98, 98), (9, 2)):
        pen.oval(x, y, 1.3, 1.3, (252, 240, 150))
    return pen.image


def shore(rng: np.random.Generator) -> Image.Image:
    pen = _sky((120, 190, 236), (214, 236, 246))
    pen.oval(80, 15, 8, 8, (255, 236, 150))
    pen.box(0, 44, 100, 20, (64, 150, 190))
    for x, y in rng.uniform((0, 46), (95, 60), (16, 2)):
        pen.line([(x, y), (x + 5, y)], (130, 196, 220), 0.7)
    pen.box(0, 62, 100, 40, (236, 214, 164))
    for x, y in rng.uniform((0, 64), (100, 99), (70, 2)):
        pen.oval(x, y, 0.5, 0.4, (208, 182, 130))
    return pen.image


def bedroom(rng: np.random.Generator) -> Image.Image:
    pen = Pen((212, 190, 214, 255))
    for x in range(0, 100, 10):
        pen.box(x, 0, 4.4, 64, (222, 204, 224))
    x = float(rng.uniform(8, 20))
    pen.box(x, 8, 26, 32, (250, 250, 250))
    pen.box(x + 2, 10, 22, 28, (44, 56, 108))
    pen.oval(x + 16, 18, 4, 4, (250, 240, 180))
    for i in range(-1, 11):
        for j in range(4):
            colour = (226, 120, 120) if (i + j) % 2 else (250, 232, 224)
            pen.box(i * 10, 62 + 10 * j, 10, 10, colour)
    return pen.image


def street(rng: np.random.Generator) -> Image.Image:
    pen, x = _sky((176, 196, 224), (240, 226, 216)), -6.0
    while x < 100:
        width, height = rng.uniform(14, 22), rng.uniform(26, 52)
        tone = rng.integers(110, 190, 3)
        pen.box(x, 62 - height, width, height + 2, (int(tone[0]), int(tone[1]), int(tone[2])))
        for wx in np.arange(x + 2.5, x + width - 3, 5):
            for wy in np.arange(65 - height, 56, 8):
                pen.box(float(wx), float(wy), 2.6, 4, (252, 236, 176))
        x += width + 1
    pen.box(0, 62, 100, 40, (150, 150, 156))
    for y in range(62, 100, 9):
        pen.line([(0, y), (100, y)], (126, 126, 132), 0.6)
    return pen.image


PLACES: tuple[Callable[[np.random.Generator], Image.Image], ...] = (
    table,
    garden,
    shore,
    bedroom,
    street,
)
SUBJECTS: dict[str, tuple[str, Callable[[Pose], Image.Image]]] = {
    "robot": ("toy", robot),
    "spotted_dog": ("dog", dog),
    "ginger_cat": ("cat", cat),
    "striped_teapot": ("teapot", teapot),
    "alarm_clock": ("clock", clock),
}


def photograph(name: str, number: int) -> Image.Image:
    """Photo `number` of a subject, in [0, 5), RGB: drawn, lit, set in a place and shrunk."""
    index = list(SUBJECTS).index(name)
    rng = np.random.default_rng((12, index, number))
    pose = Pose(float(rng.uniform(-1, 1)), float(rng.random()))
    figure = _lit(SUBJECTS[name][1](pose))
    if rng.random() < 0.3:
        figure = figure.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    figure = figure.rotate(
        rng.uniform(-7, 7), Image.Resampling.BICUBIC, center=(SIDE / 2, 0.92 * SIDE)
    )
    size = SIZES[(2 * index + number) % len(SIZES)]
    wide, high = (round(SIDE * side / max(size)) for side in size)  # of the canvas, what is in it
    height = round(min(wide, high) * rng.uniform(0.7, 0.88))
    width = round(height * rng.uniform(0.93, 1.0))  # seen a little from a side
    figure = figure.resize((width, height), Image.Resampling.LANCZOS)
    picture = PLACES[(index + number) % len(PLACES)](rng).convert("RGB")
    picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, 5)))  # out of focus
    picture = picture.crop(((SIDE - wide) // 2, SIDE - high, (SIDE + wide) // 2, SIDE))
    left = round((wide - width) / 2 + rng.uniform(-0.05, 0.05) * wide)
    top = round(rng.uniform(0.94, 0.98) * high - 0.92 * height)
    shadow = Image.new("L", picture.size)
    feet = (left + 0.2 * width, top + 0.86 * height, left + 0.86 * width, top + 0.98 * height)
    ImageDraw.Draw(shadow).ellipse(feet, fill=110)
    picture.paste((40, 32, 40), (0, 0), shadow.filter(ImageFilter.GaussianBlur(16)))
    picture.paste(figure, (left, top), figure)
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    warmth = rng.uniform(0.94, 1.04, 3) * rng.uniform(0.92, 1.06)
    pixels = np.asarray(picture, np.float32) * warmth + rng.normal(0, 1.2, (*size[::-1], 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _lit(figure: Image.Image) -> Image.Image:
    """Light from the upper left, and darker towards the rim: what is flat looks round."""
    rgba = np.asarray(figure, np.float32)
    alpha = figure.getchannel("A")
    inner = np.asarray(alpha.filter(ImageFilter.GaussianBlur(26)), np.float32) / 255
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    light = 1.06 - 0.16 * (0.5 * x + 0.5 * y) - 0.3 * (1 - inner).clip(0, 0.6)
    rgb = np.clip(rgba[..., :3] * light[..., None], 0, 255)
    return Image.fromarray(np.dstack([rgb, rgba[..., 3]]).astype(np.uint8))


def write(folder: Path, photos: int = len(SIZES)) -> list[Path]:
    """Makes a folder a subject, with `photos` files each, JPEG and PNG in turn; returns them.

    Raises UserError, and writes nothing, where one of them is there already.
    """
    made = [folder / name for name in SUBJECTS]
    if there := next((place for place in made if place.exists()), None):
        raise UserError(f"{there}: exists already; name another folder, or delete it")
    for place in made:
        place.mkdir(parents=True)
        for number in range(photos):
            suffix, how = ("png", {}) if number % 2 else ("jpg", {"quality": 92})
            photograph(place.name, number).save(place / f"{number}.{suffix}", **how)
    return made


def run(arguments: argparse.Namespace) -> str:
    """Writes the folders; returns a command line for each."""
    made = write(arguments.folder)
    return "\n".join(f"rpo train {place} --noun {SUBJECTS[place.name][0]}" for place in made)


def main(words: Sequence[str] | None = None) -> int:
    """The command; 2 for a folder that cannot be written, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.second_world",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="where the subjects' folders are made")
    return finish(run, parser.parse_args(words))


if __name__ == "__main__":
    sys.exit(main())
