"""The subjects of Emojiland: a sprite with its own colours and pattern, dressed or painted.

An `Instance` is one individual ("this dog"): sprite, hue, saturation and pattern. It looks the
same in every scene. Colours ("a red ...") and outfits are put on it by the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from emojiland.art import Sprite, rasterise
from emojiland.outfits import OUTFITS, overlay

CANVAS = 128  # the figure's canvas; the undressed sprite takes BODY of it
BODY = 80
TINTS = {
    "red": (225, 30, 35),
    "green": (45, 175, 60),
    "purple": (140, 55, 190),
    "blue": (45, 100, 230),
    "yellow": (250, 215, 40),
}
PATTERNS = ("none", "stripes", "dots", "patches", "two-tone")
PATTERN_COLOURS = (
    (250, 248, 240),
    (60, 50, 48),
    (120, 75, 45),
    (240, 150, 60),
    (245, 205, 90),
    (90, 160, 215),
    (70, 175, 160),
    (235, 120, 150),
    (150, 150, 158),
    (150, 105, 190),
)


@dataclass(frozen=True)
class Instance:
    """An individual: everything that stays the same from scene to scene."""

    sprite: Sprite
    hue: float  # turn of the colour wheel, in [-0.5, 0.5]
    saturation: float
    value: float
    pattern: str
    pattern_colour: tuple[int, int, int]
    pattern_angle: float
    pattern_scale: float
    pattern_seed: int


def random_instance(rng: np.random.Generator, sprites: tuple[Sprite, ...]) -> Instance:
    """Draws a class first, then a sprite of it, so that every class is equally frequent."""
    nouns = sorted({s.noun for s in sprites})
    noun = nouns[rng.integers(len(nouns))]
    mine = [s for s in sprites if s.noun == noun]
    sprite = mine[rng.integers(len(mine))]
    alive = sprite.head is not None
    any_hue = not alive and rng.random() < 0.5
    return Instance(
        sprite=sprite,
        hue=float(rng.uniform(-0.5, 0.5) if any_hue else rng.uniform(-0.05, 0.05)),
        saturation=float(rng.uniform(0.35, 1.25)),
        value=float(rng.uniform(0.75, 1.12)),
        pattern=PATTERNS[rng.choice(len(PATTERNS), p=(0.4, 0.15, 0.15, 0.15, 0.15))],
        pattern_colour=PATTERN_COLOURS[rng.integers(len(PATTERN_COLOURS))],
        pattern_angle=float(rng.uniform(0, np.pi)),
        pattern_scale=float(rng.uniform(0.8, 1.5)),
        pattern_seed=int(rng.integers(2**31)),
    )


def _turn_hue(rgb: np.ndarray, turn: float, saturation: float, value: float) -> np.ndarray:
    """Rotates chroma in YIQ: cheap, keeps the shading."""
    y = rgb @ np.array([0.299, 0.587, 0.114], np.float32)
    i = rgb @ np.array([0.596, -0.274, -0.322], np.float32)
    q = rgb @ np.array([0.211, -0.523, 0.312], np.float32)
    c, s = np.cos(2 * np.pi * turn) * saturation, np.sin(2 * np.pi * turn) * saturation
    i, q = c * i - s * q, s * i + c * q
    out = np.stack(
        [y + 0.956 * i + 0.621 * q, y - 0.272 * i - 0.647 * q, y - 1.106 * i + 1.703 * q], -1
    )
    return np.clip(out * value, 0, 1)


def _pattern_mask(instance: Instance, size: int) -> np.ndarray:
    yy, xx = np.mgrid[0:size, 0:size].astype(np.float32) / size - 0.5
    a, k = instance.pattern_angle, instance.pattern_scale
    u = (xx * np.cos(a) + yy * np.sin(a)) * k
    v = (-xx * np.sin(a) + yy * np.cos(a)) * k
    if instance.pattern == "stripes":
        return np.clip((np.sin(u * 2 * np.pi * 4.5) - 0.05) * 4, 0, 1)
    if instance.pattern == "dots":
        row = np.floor(v * 4.2)
        du = (u * 4.2 + 0.5 * (row % 2)) % 1 - 0.5
        dv = (v * 4.2) % 1 - 0.5
        return np.clip((0.33 - np.hypot(du, dv)) * 12, 0, 1)
    if instance.pattern == "two-tone":
        return np.clip((u + 0.02) * 20, 0, 1)
    rng = np.random.default_rng(instance.pattern_seed)  # patches
    mask = np.zeros((size, size), np.float32)
    for _ in range(4):
        x, y, r = rng.uniform(-0.4, 0.4), rng.uniform(-0.4, 0.4), rng.uniform(0.12, 0.22)
        mask = np.maximum(mask, np.clip((r - np.hypot(xx - x, (yy - y) * 1.2)) * 20, 0, 1))
    return mask


@lru_cache(maxsize=4096)
def body(folder: Path, instance: Instance, tint: str | None = None) -> np.ndarray:
    """(BODY, BODY, 4) float32: the sprite in its own colours, or wholly tinted."""
    rgba = rasterise(folder, instance.sprite, BODY)
    rgb = _turn_hue(rgba[..., :3], instance.hue, instance.saturation, instance.value)
    light = rgb.max(-1, keepdims=True) * 0.5 + rgb.mean(-1, keepdims=True) * 0.5
    # outlines, eyes and other dark parts keep their colour: they make the shape readable
    paintable = np.clip((light - 0.22) * 5, 0, 1)
    if instance.pattern != "none":
        mask = _pattern_mask(instance, BODY)[..., None] * paintable
        paint = np.array(instance.pattern_colour, np.float32) / 255 * (0.55 + 0.45 * light)
        rgb = rgb * (1 - 0.9 * mask) + paint * 0.9 * mask
    if tint is not None:
        light = rgb @ np.array([0.35, 0.45, 0.2], np.float32)
        colour = np.array(TINTS[tint], np.float32) / 255
        shade = light[..., None]
        tinted = np.where(
            shade < 0.5, colour * (0.25 + 1.5 * shade), colour + (1 - colour) * (shade - 0.5) * 0.9
        )
        strength = 0.25 + 0.75 * paintable
        rgb = rgb * (1 - strength) + tinted * strength
    return np.concatenate([np.clip(rgb, 0, 1), rgba[..., 3:]], -1)


def figure(folder: Path, instance: Instance, tint: str | None, outfit: str | None) -> Image.Image:
    """The dressed subject on its (CANVAS, CANVAS) RGBA canvas, standing on its bottom edge."""
    pixels = Image.fromarray((body(folder, instance, tint) * 255).astype(np.uint8), "RGBA")
    size, top = BODY, CANVAS - BODY - 8
    if outfit is not None and OUTFITS[outfit][1] is not None:
        size, top = 60, 32  # a head above a torso
    elif outfit == "rainbow scarf":
        size, top = 70, 28  # room for its end to hang down
    left = (CANVAS - size) // 2
    canvas = Image.new("RGBA", (CANVAS, CANVAS))
    if outfit is None:
        canvas.paste(pixels, (left, top))
        return canvas
    assert instance.sprite.head is not None, "only the living wear outfits"
    x0, y0, x1, y1 = instance.sprite.head
    if instance.sprite.is_face:  # hats sit a little inside the silhouette, ears stay out
        y0, x0, x1 = 0.08, 0.06, 0.94
    box = (left + x0 * size, top + y0 * size, left + x1 * size, top + y1 * size)
    behind = overlay(outfit, False, box, CANVAS)
    if behind is not None:
        canvas.alpha_composite(behind)
    if size != BODY:
        pixels = pixels.resize((size, size), Image.Resampling.BOX)
    canvas.alpha_composite(pixels, (left, top))
    front = overlay(outfit, True, box, CANVAS)
    if front is not None:
        canvas.alpha_composite(front)
    return canvas
