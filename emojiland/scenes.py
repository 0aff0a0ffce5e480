"""Scenes: a figure in a place, with its caption. A scene is a pure function of its number."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from emojiland.art import Sprite, load_sprites
from emojiland.backgrounds import CONTEXTS, FLOATING, HOME, SIZE, variants
from emojiland.figures import CANVAS, TINTS, Instance, figure, random_instance
from emojiland.outfits import OUTFITS

STYLE = "in Vincent Van Gogh rendition"
# Rare words that mean nothing, so that a model learns to read past an unknown identifier.
# "[V]" itself is in no caption: it stays untrained.
FILLERS = ("[W]", "[X]", "[Y]", "[Z]")
INSTANCES = 40_000  # individuals in the training world


@dataclass(frozen=True)
class Look:
    """What the prompt asks for; None where it asks for nothing."""

    context: str | None = None
    tint: str | None = None
    outfit: str | None = None
    style: bool = False

    def caption(self, noun: str) -> str:
        words = f"a {self.tint} {noun}" if self.tint else f"a {noun}"
        for phrase in (
            OUTFITS[self.outfit][0] if self.outfit else "",
            CONTEXTS[self.context][1] if self.context else "",
            STYLE if self.style else "",
        ):
            words += f" {phrase}" if phrase else ""
        return words


@dataclass(frozen=True)
class Scene:
    image: np.ndarray  # (64, 64, 3) uint8
    caption: str
    noun: str
    look: Look
    instance: int


@cache
def sprites(folder: Path, held_out: bool) -> tuple[Sprite, ...]:
    return tuple(s for s in load_sprites(folder) if s.held_out == held_out)


@lru_cache(maxsize=65_536)
def instance(folder: Path, number: int) -> Instance:
    """Individual `number` of the training world (never a held-out sprite)."""
    return random_instance(np.random.default_rng((7, number)), sprites(folder, False))


def random_look(rng: np.random.Generator, who: Instance) -> Look:
    """One modification mostly, as in the paper's prompts; sometimes none, sometimes two."""
    face = who.sprite.head is not None
    kinds = rng.random()
    look = {"context": None, "tint": None, "outfit": None, "style": False}

    def add(kind: str) -> None:
        if kind == "context":
            keys = [k for k in CONTEXTS if k != "pool" or face]
            look["context"] = keys[rng.integers(len(keys))]
        elif kind == "tint":
            look["tint"] = list(TINTS)[rng.integers(len(TINTS))]
        elif kind == "outfit":
            keys = [k for k in OUTFITS if who.sprite.is_face or OUTFITS[k][1] is None]
            look["outfit"] = keys[rng.integers(len(keys))]
        else:
            look["style"] = True

    if kinds < 0.08:
        return Look()
    chances = {"context": 0.62, "tint": 0.2, "style": 0.08, "outfit": 0.0}
    if face:
        chances = {"context": 0.42, "tint": 0.14, "style": 0.06, "outfit": 0.38}
    names = list(chances)
    add(names[rng.choice(4, p=np.array(list(chances.values())) / sum(chances.values()))])
    if kinds > 0.82:
        add(names[rng.choice(4, p=np.array(list(chances.values())) / sum(chances.values()))])
    return Look(**look)  # type: ignore[arg-type]


@cache
def _flow_fields() -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    fields = []
    for k in range(12):
        rng = np.random.default_rng((3, k))
        yy, xx = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
        angle = np.zeros((SIZE, SIZE), np.float32)
        for _ in range(3):  # a few vortices, as in a starry sky
            cx, cy = rng.uniform(0, SIZE, 2)
            turn = np.arctan2(yy - cy, xx - cx) + np.pi / 2 * rng.choice([-1, 1])
            near = np.exp(-((xx - cx) ** 2 + (yy - cy) ** 2) / (2 * 22.0**2))
            angle = angle * (1 - near) + turn * near
        fields.append((np.cos(angle), np.sin(angle)))
    return tuple(fields)


def _van_gogh(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Strokes along a swirling field over a blue and yellow palette."""
    fields = _flow_fields()
    dx, dy = fields[rng.integers(len(fields))]
    yy, xx = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    grain = rng.normal(0, 1, (SIZE, SIZE)).astype(np.float32)
    image, strokes, steps = np.zeros_like(rgb), np.zeros((SIZE, SIZE), np.float32), 7
    for k in np.arange(steps) - steps // 2:
        y = np.clip(np.rint(yy + k * dy), 0, SIZE - 1).astype(int)
        x = np.clip(np.rint(xx + k * dx), 0, SIZE - 1).astype(int)
        strokes += grain[y, x] / np.sqrt(steps)
        if abs(k) <= 1:
            image += rgb[y, x] / 3
    light = image.mean(-1, keepdims=True)
    palette = np.where(
        light < 128,
        (25, 60, 140) + light * (0.5, 0.7, 0.75),
        (60, 95, 90) + light * (0.72, 0.6, 0.25),
    )
    out = image * 0.55 + palette * 0.45 + strokes[..., None] * (17, 17, 11)
    return np.clip(out, 0, 255)


def compose(
    folder: Path, who: Instance, look: Look, rng: np.random.Generator, place: str | None = None
) -> np.ndarray:
    """(64, 64, 3) uint8. Where `look` names no context: `place`, or one that fits no words."""
    place = look.context or place
    if place is None:
        kind = rng.random()
        places = ["plain"] if kind < 0.4 else list(HOME) if kind < 0.85 else list(CONTEXTS)
        place = places[rng.integers(len(places))]
    pictures = variants(place)
    background = pictures[rng.integers(len(pictures))]
    if rng.random() < 0.5:
        background = background[:, ::-1]
    subject = figure(folder, who, look.tint, look.outfit)
    if rng.random() < 0.5:
        subject = subject.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    subject = subject.rotate(rng.uniform(-5, 5), Image.Resampling.BILINEAR)
    side = int(CANVAS * rng.uniform(0.54, 0.62))
    subject = subject.resize(
        (side, side),
        Image.Resampling.BOX if side < 50 else Image.Resampling.BILINEAR,
        reducing_gap=1.0,
    )
    x = int((SIZE - side) / 2 + rng.uniform(-3, 3))
    y = int(SIZE - side + rng.uniform(-3, 2))
    canvas = Image.fromarray(np.ascontiguousarray(background))
    if place not in FLOATING and place != "plain":
        shadow = (
            subject.getchannel("A").filter(ImageFilter.GaussianBlur(1.6)).point(lambda a: a * 0.35)
        )
        canvas.paste((20, 20, 30), (x + 1, y + 2), shadow)
    canvas.paste(subject, (x, y), subject)
    rgb = np.asarray(canvas, np.float32)
    if place in FLOATING:  # the lowest part of the subject is under the surface
        line = min(SIZE - 7, y + int(side * 0.82))
        rgb = rgb.copy()
        rgb[line:] = 0.3 * rgb[line:] + 0.7 * background[line:]
    if look.style:
        rgb = _van_gogh(rgb, rng)
    light = rng.uniform(0.88, 1.1) * (1 + rng.uniform(-0.04, 0.04, 3))
    return np.clip(rgb * light, 0, 255).astype(np.uint8)


def scene(folder: Path, number: int, seed: int = 0) -> Scene:
    """Scene `number` of stream `seed`: always the same picture and caption."""
    rng = np.random.default_rng((11, seed, number))
    who_number = int(rng.integers(INSTANCES))
    who = instance(folder, who_number)
    look = random_look(rng, who)
    image = compose(folder, who, look, rng)
    return Scene(image, look.caption(who.sprite.noun), who.sprite.noun, look, who_number)
