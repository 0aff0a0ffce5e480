"""Brushes shared by the painters of places: colours, gradients, noise, trees, waves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

SIZE = 64
BIG = 4 * SIZE  # places are painted at 4x size and reduced
Painter = Callable[[np.random.Generator], Image.Image]
Colour = tuple[int, int, int]
BLUE_SKY = ((90, 165, 235), (200, 228, 250))


def jitter(rng: np.random.Generator, colour: Colour, amount: int = 14) -> Colour:
    return tuple(int(np.clip(c + rng.integers(-amount, amount + 1), 0, 255)) for c in colour)  # type: ignore[return-value]


def gradient(top: Colour, bottom: Colour) -> Image.Image:
    ramp = np.linspace(0, 1, BIG)[:, None, None]
    pixels = np.array(top) * (1 - ramp) + np.array(bottom) * ramp
    return Image.fromarray(np.repeat(pixels, BIG, 1).astype(np.uint8))


def speckle(image: Image.Image, rng: np.random.Generator, box, amount: float, grain: int = 6):
    """Adds soft brightness noise inside a box: grass, sand, cloth."""
    x0, y0, x1, y1 = (int(v) for v in box)
    width, height = x1 - x0, y1 - y0
    noise = rng.normal(0, amount, (max(1, height // grain), max(1, width // grain)))
    soft = Image.fromarray(noise.astype(np.float32)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    patch = np.asarray(image.crop((x0, y0, x1, y1)), np.float32) + np.asarray(soft)[..., None]
    image.paste(Image.fromarray(np.clip(patch, 0, 255).astype(np.uint8)), (x0, y0))


def sky_and_ground(rng, sky: tuple[Colour, Colour], ground: Colour, horizon=0.62, noise=8.0):
    image = gradient(jitter(rng, sky[0]), jitter(rng, sky[1]))
    y = int(BIG * (horizon + rng.uniform(-0.05, 0.05)))
    ImageDraw.Draw(image).rectangle((0, y, BIG, BIG), fill=jitter(rng, ground))
    speckle(image, rng, (0, y, BIG, BIG), noise)
    return image, ImageDraw.Draw(image), y


def tree(d, x, y, h, trunk, leaves, rng, blobs=7):
    d.rectangle((x - h * 0.07, y - h * 0.5, x + h * 0.07, y), fill=trunk)
    for _ in range(blobs):
        cx, cy = x + rng.uniform(-0.28, 0.28) * h, y - h * (0.7 + rng.uniform(-0.2, 0.2))
        r = h * rng.uniform(0.14, 0.24)
        d.ellipse((cx - r, cy - r, cx + r, cy + r), fill=jitter(rng, leaves, 22))


def pine(d, x, y, h, colour):
    for k in range(3):
        w = h * (0.34 - 0.08 * k)
        top = y - h * (0.45 + 0.27 * k)
        d.polygon((x - w, top + h * 0.35, x + w, top + h * 0.35, x, top), fill=colour)


def cloth(rng, colour):
    image = gradient(jitter(rng, colour), jitter(rng, tuple(int(c * 0.86) for c in colour)))
    yy, xx = np.mgrid[0:BIG, 0:BIG] / BIG
    a, f, p = rng.uniform(0, np.pi), rng.uniform(3, 6), rng.uniform(0, 6)
    fold = np.sin((xx * np.cos(a) + yy * np.sin(a)) * f * 2 * np.pi + p + 1.5 * np.sin(yy * 6)) * 13
    return Image.fromarray(
        np.clip(np.asarray(image, np.float32) + fold[..., None], 0, 255).astype(np.uint8)
    )


def forest(rng):
    image = gradient(jitter(rng, (90, 140, 90)), jitter(rng, (50, 90, 50)))
    d = ImageDraw.Draw(image)
    for _ in range(9):
        x = rng.uniform(0, BIG)
        d.rectangle((x, 0, x + rng.uniform(8, 18), BIG * 0.72), fill=jitter(rng, (85, 62, 42)))
    d.rectangle((0, BIG * 0.68, BIG, BIG), fill=jitter(rng, (75, 100, 45)))
    for _ in range(20):
        x, y, r = rng.uniform(0, BIG), rng.uniform(-10, 60), rng.uniform(14, 30)
        d.ellipse((x - r, y - r, x + r, y + r), fill=jitter(rng, (50, 125, 60), 20))
    return image, d


def waves(rng, top, bottom, crest):
    image = gradient(jitter(rng, top), jitter(rng, bottom))
    d = ImageDraw.Draw(image)
    for y in range(int(rng.integers(0, 14)), BIG, 24):
        p = rng.uniform(0, 6)
        pts = [(x, y + 5 * np.sin(x / 14 + p)) for x in range(0, BIG + 4, 4)]
        d.line(pts, fill=crest, width=4)
    return image
