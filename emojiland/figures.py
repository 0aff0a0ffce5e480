"""The subjects of Emojiland: a sprite with its own colours and pattern, dressed or painted.

An `Instance` is one individual ("this dog"): sprite, hue, saturation and pattern. It looks the
same in every scene. Colours ("a red ...") and outfits are put on it by the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from emojiland.art import Sprite, rasterise

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


# --- outfits: each paints on a 4x canvas around a head box (x0, y0, x1, y1) ---------------

_Z = 4


def _hat_brim(d, b, colour, width=1.0):
    x0, y0, x1, _ = b
    w = x1 - x0
    m = (x0 + x1) / 2
    d.rounded_rectangle(
        (m - w * width / 2, y0 - 1, m + w * width / 2, y0 + w * 0.09), w * 0.04, fill=colour
    )


def _cap(d, b, colour, brim):
    x0, y0, x1, _ = b
    w, m = x1 - x0, (x0 + x1) / 2
    d.pieslice((m - w * 0.42, y0 - w * 0.34, m + w * 0.42, y0 + w * 0.44), 180, 360, fill=colour)
    _hat_brim(d, b, brim, 1.04)


def red_hat(d, b):
    _cap(d, b, (215, 25, 35), (160, 10, 20))


def santa_hat(d, b):
    x0, y0, x1, _ = b
    w, m = x1 - x0, (x0 + x1) / 2
    d.polygon(
        (m - w * 0.42, y0 + 4, m + w * 0.42, y0 + 4, m + w * 0.36, y0 - w * 0.48),
        fill=(215, 30, 40),
    )
    _hat_brim(d, b, (255, 255, 255), 1.02)
    r = w * 0.11
    d.ellipse(
        (m + w * 0.36 - r, y0 - w * 0.48 - r, m + w * 0.36 + r, y0 - w * 0.48 + r),
        fill=(255, 255, 255),
    )


def rainbow_scarf(d, b):
    x0, _, x1, y1 = b
    w = x1 - x0
    colours = (
        (225, 45, 45),
        (245, 150, 40),
        (250, 225, 60),
        (70, 180, 80),
        (50, 110, 220),
        (140, 70, 180),
    )
    for k, c in enumerate(colours):
        left = x0 + w * (0.08 + 0.14 * k)
        d.rectangle((left, y1 - w * 0.10, left + w * 0.141, y1 + w * 0.10), fill=c)
        d.rectangle(
            (x0 + w * 0.62, y1 + w * (0.10 + 0.06 * k), x0 + w * 0.80, y1 + w * (0.161 + 0.06 * k)),
            fill=c,
        )


def top_hat(d, b):
    x0, y0, x1, y1 = b
    w, m = x1 - x0, (x0 + x1) / 2
    d.rectangle((m - w * 0.30, y0 - w * 0.46, m + w * 0.30, y0 + 4), fill=(25, 25, 30))
    d.rectangle((m - w * 0.30, y0 - w * 0.12, m + w * 0.30, y0 - w * 0.02), fill=(190, 30, 45))
    _hat_brim(d, b, (25, 25, 30), 1.0)
    cx, cy, r = x0 + w * 0.68, y0 + (y1 - y0) * 0.45, w * 0.15
    d.ellipse(
        (cx - r, cy - r, cx + r, cy + r), outline=(230, 190, 60), width=max(3, int(w * 0.045))
    )
    d.line((cx + r, cy, cx + r, y1), fill=(230, 190, 60), width=3)


def pink_glasses(d, b):
    x0, y0, x1, y1 = b
    w, cy = x1 - x0, y0 + (y1 - y0) * 0.46
    for cx in (x0 + w * 0.29, x0 + w * 0.71):
        r = w * 0.185
        d.ellipse(
            (cx - r, cy - r, cx + r, cy + r),
            outline=(255, 60, 160),
            fill=(255, 170, 215, 110),
            width=max(4, int(w * 0.07)),
        )
    d.line((x0 + w * 0.45, cy, x0 + w * 0.55, cy), fill=(255, 60, 160), width=int(w * 0.06))


def crown(d, b):
    x0, y0, x1, _ = b
    w, m = x1 - x0, (x0 + x1) / 2
    left, right, base, top = m - w * 0.38, m + w * 0.38, y0 + w * 0.06, y0 - w * 0.34
    step = (right - left) / 4
    d.polygon(
        (
            left,
            base,
            left,
            top,
            left + step,
            base - w * 0.2,
            m,
            top,
            right - step,
            base - w * 0.2,
            right,
            top,
            right,
            base,
        ),
        fill=(250, 200, 40),
    )
    for x in (left + step, m, right - step):
        d.ellipse(
            (x - w * 0.04, base - w * 0.13, x + w * 0.04, base - w * 0.05), fill=(220, 40, 60)
        )


def bow_tie(d, b):
    x0, _, x1, y1 = b
    w, m, y = x1 - x0, (x0 + x1) / 2, y1 - (x1 - x0) * 0.01
    for s in (-1, 1):
        d.polygon(
            (m, y, m + s * w * 0.30, y - w * 0.15, m + s * w * 0.30, y + w * 0.15),
            fill=(40, 90, 225),
        )
    d.ellipse((m - w * 0.07, y - w * 0.07, m + w * 0.07, y + w * 0.07), fill=(20, 55, 160))


def _torso(d, b, colour):
    x0, _, x1, y1 = b
    w, m = x1 - x0, (x0 + x1) / 2
    d.rounded_rectangle(
        (m - w * 0.56, y1 - w * 0.10, m + w * 0.56, y1 + w * 0.9), w * 0.22, fill=colour
    )


def yellow_shirt(d, b):
    _torso(d, b, (250, 215, 35))


def green_outfit(d, b):
    _torso(d, b, (40, 160, 65))
    x0, _, x1, y1 = b
    w, m = x1 - x0, (x0 + x1) / 2
    d.rectangle((m - w * 0.04, y1, m + w * 0.04, y1 + w * 0.9), fill=(20, 110, 45))


def chef_torso(d, b):
    _torso(d, b, (250, 250, 250))
    x0, _, x1, y1 = b
    w, m = x1 - x0, (x0 + x1) / 2
    for k in range(3):
        for s in (-0.12, 0.12):
            y = y1 + w * (0.14 + 0.14 * k)
            d.ellipse((m + s * w - 7, y - 7, m + s * w + 7, y + 7), fill=(70, 70, 75))


def chef_hat(d, b):
    x0, y0, x1, _ = b
    w, m = x1 - x0, (x0 + x1) / 2
    d.rectangle((m - w * 0.3, y0 - w * 0.2, m + w * 0.3, y0 + w * 0.08), fill=(250, 250, 250))
    for s in (-0.24, 0, 0.24):
        d.ellipse(
            (m + s * w - w * 0.2, y0 - w * 0.50, m + s * w + w * 0.2, y0 - w * 0.12),
            fill=(250, 250, 250),
        )
    _hat_brim(d, b, (205, 210, 215), 0.64)


def fire_torso(d, b):
    _torso(d, b, (55, 50, 50))
    x0, _, x1, y1 = b
    w, m = x1 - x0, (x0 + x1) / 2
    for k in (0.16, 0.40):
        d.rectangle(
            (m - w * 0.56, y1 + w * k, m + w * 0.56, y1 + w * (k + 0.10)), fill=(235, 235, 40)
        )


def fire_hat(d, b):
    _cap(d, b, (205, 30, 25), (205, 30, 25))
    x0, y0, x1, _ = b
    w, m = x1 - x0, (x0 + x1) / 2
    d.polygon(
        (m - w * 0.12, y0 - w * 0.02, m + w * 0.12, y0 - w * 0.02, m, y0 - w * 0.30),
        fill=(250, 210, 50),
    )


def police_torso(d, b):
    _torso(d, b, (30, 50, 120))
    x0, _, x1, y1 = b
    w, m = x1 - x0, (x0 + x1) / 2
    d.ellipse((m + w * 0.15, y1 + w * 0.08, m + w * 0.33, y1 + w * 0.26), fill=(250, 210, 60))


def police_hat(d, b):
    _cap(d, b, (30, 50, 120), (15, 15, 25))
    x0, y0, x1, _ = b
    w, m = x1 - x0, (x0 + x1) / 2
    d.ellipse((m - w * 0.09, y0 - w * 0.24, m + w * 0.09, y0 - w * 0.06), fill=(250, 210, 60))


def wizard_torso(d, b):
    _torso(d, b, (120, 50, 175))
    x0, _, x1, y1 = b
    w = x1 - x0
    for x, y in ((0.2, 0.3), (0.7, 0.2), (0.5, 0.5)):
        d.ellipse(
            (x0 + w * x, y1 + w * y - w * 0.1, x0 + w * (x + 0.11), y1 + w * y), fill=(250, 225, 80)
        )


def wizard_hat(d, b):
    x0, y0, x1, _ = b
    w, m = x1 - x0, (x0 + x1) / 2
    d.polygon(
        (m - w * 0.36, y0 + 4, m + w * 0.36, y0 + 4, m + w * 0.06, y0 - w * 0.56),
        fill=(120, 50, 175),
    )
    d.ellipse((m - w * 0.06, y0 - w * 0.22, m + w * 0.06, y0 - w * 0.10), fill=(250, 225, 80))
    _hat_brim(d, b, (95, 35, 145), 1.1)


# key -> (phrase, painted behind the head, painted on top of it)
OUTFITS = {
    "red hat": ("wearing a red hat", None, red_hat),
    "santa hat": ("wearing a santa hat", None, santa_hat),
    "rainbow scarf": ("wearing a rainbow scarf", None, rainbow_scarf),
    "top hat": ("wearing a black top hat and a monocle", None, top_hat),
    "chef": ("in a chef outfit", chef_torso, chef_hat),
    "firefighter": ("in a firefighter outfit", fire_torso, fire_hat),
    "police": ("in a police outfit", police_torso, police_hat),
    "pink glasses": ("wearing pink glasses", None, pink_glasses),
    "yellow shirt": ("wearing a yellow shirt", yellow_shirt, None),
    "wizard": ("in a purple wizard outfit", wizard_torso, wizard_hat),
    "green outfit": ("wearing a green outfit", green_outfit, None),
    "crown": ("wearing a golden crown", None, crown),
    "bow tie": ("wearing a blue bow tie", None, bow_tie),
}


@cache
def _overlay(key: str, front: bool, box: tuple[float, float, float, float]) -> Image.Image | None:
    painter = OUTFITS[key][2 if front else 1]
    if painter is None:
        return None
    image = Image.new("RGBA", (CANVAS * _Z, CANVAS * _Z))
    painter(ImageDraw.Draw(image), tuple(v * _Z for v in box))
    return image.resize((CANVAS, CANVAS), Image.Resampling.BOX)


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
    behind = _overlay(outfit, False, box)
    if behind is not None:
        canvas.alpha_composite(behind)
    if size != BODY:
        pixels = pixels.resize((size, size), Image.Resampling.BOX)
    canvas.alpha_composite(pixels, (left, top))
    front = _overlay(outfit, True, box)
    if front is not None:
        canvas.alpha_composite(front)
    return canvas
