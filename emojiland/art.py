"""Emoji artwork: pinned packages, their licences, and the sprites taken from them.

Building downloads the packages with npm; running RPO never needs them.
Each package is an Iconify JSON file of SVG bodies; resvg rasterises them.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Package:
    name: str
    version: str
    licence: str
    author: str


PACKAGES = {
    "fluent-emoji": Package("@iconify-json/fluent-emoji", "1.2.7", "MIT", "Microsoft Corporation"),
    "fluent-emoji-flat": Package(
        "@iconify-json/fluent-emoji-flat", "1.2.6", "MIT", "Microsoft Corporation"
    ),
    "noto": Package("@iconify-json/noto", "1.2.9", "Apache-2.0", "Google Inc"),
    "noto-v1": Package("@iconify-json/noto-v1", "1.2.5", "Apache-2.0", "Google Inc"),
    "twemoji": Package("@iconify-json/twemoji", "1.2.5", "CC-BY-4.0", "Twitter"),
    "emojione": Package("@iconify-json/emojione", "1.2.3", "CC-BY-4.0", "Emoji One"),
    "fxemoji": Package("@iconify-json/fxemoji", "1.2.2", "CC-BY-4.0", "Mozilla"),
}

# class noun -> icon names, the same in every set that has them
CLASS_ICONS: dict[str, tuple[str, ...]] = {
    "backpack": ("backpack",),
    "stuffed animal": ("teddy-bear", "koala", "panda", "bear"),
    "bowl": ("steaming-bowl", "bowl-with-spoon", "green-salad", "cooked-rice"),
    "can": ("canned-food", "oil-drum"),
    "candle": ("candle",),
    "cat": ("cat-face", "cat", "grinning-cat"),
    "clock": ("alarm-clock", "mantelpiece-clock", "two-oclock"),
    "sneaker": ("running-shoe",),
    "dog": ("dog-face", "dog", "poodle"),
    "toy": ("robot", "duck", "pile-of-poo", "racing-car"),
    "boot": ("womans-boot", "hiking-boot"),
    "glasses": ("glasses", "sunglasses"),
    "cartoon": ("ogre", "alien-monster", "goblin", "ghost"),
    "teapot": ("teapot",),
    "vase": ("amphora", "funeral-urn"),
}
LIVE_CLASSES = ("cat", "dog")

# Sets name some icons their own way.
ALTERNATIVES = {
    "grinning-cat": ("grinning-cat-face",),
    "robot": ("robot-face",),
    "koala": (),
    "dog-face": ("dog",),  # fxemoji
}
# (set, icon) pairs that are there but show something else.
EXCLUDED = {
    ("noto-v1", "koala"),  # mostly a tree trunk
    ("fxemoji", "sunglasses"),  # a smiley that wears them
    ("fxemoji", "poodle"),
    ("fxemoji", "dog"),  # its "dog" is a face, taken as dog-face
}
# Never seen in training: a whole set, and one set's icons of the classes that set lacks.
HELD_OUT_SET = "noto-v1"
HELD_OUT_ICONS = {("twemoji", icon) for icon in ("teddy-bear", "canned-food", "teapot")}

# Whole bodies: where the head is, as fractions of the canvas (x0, y0, x1, y1).
# A sprite that is not listed and is alive is a face: the head is all of it.
BODY_HEADS: dict[tuple[str, str], tuple[float, float, float, float]] = {
    ("fluent-emoji", "dog"): (0.05, 0.12, 0.47, 0.50),
    ("fluent-emoji-flat", "dog"): (0.05, 0.12, 0.47, 0.50),
    ("noto", "dog"): (0.08, 0.08, 0.60, 0.52),
    ("noto-v1", "dog"): (0.08, 0.08, 0.62, 0.55),
    ("twemoji", "dog"): (0.03, 0.08, 0.42, 0.45),
    ("emojione", "dog"): (0.20, 0.08, 0.80, 0.60),
    ("fluent-emoji", "poodle"): (0.05, 0.05, 0.45, 0.45),
    ("fluent-emoji-flat", "poodle"): (0.05, 0.05, 0.45, 0.45),
    ("noto", "poodle"): (0.05, 0.05, 0.45, 0.45),
    ("noto-v1", "poodle"): (0.08, 0.05, 0.48, 0.45),
    ("twemoji", "poodle"): (0.05, 0.05, 0.42, 0.42),
    ("emojione", "poodle"): (0.10, 0.08, 0.50, 0.50),
    ("fluent-emoji", "cat"): (0.05, 0.20, 0.42, 0.55),
    ("fluent-emoji-flat", "cat"): (0.05, 0.20, 0.42, 0.55),
    ("noto", "cat"): (0.08, 0.10, 0.48, 0.48),
    ("noto-v1", "cat"): (0.10, 0.10, 0.58, 0.55),
    ("twemoji", "cat"): (0.05, 0.10, 0.45, 0.48),
    ("emojione", "cat"): (0.10, 0.15, 0.58, 0.58),
    ("fxemoji", "cat"): (0.10, 0.15, 0.90, 0.85),
}


@dataclass(frozen=True)
class Sprite:
    """One drawing of one class. `head` is None for things, the head's box for the living."""

    noun: str
    artist: str
    icon: str
    head: tuple[float, float, float, float] | None
    is_face: bool
    held_out: bool

    @property
    def name(self) -> str:
        return f"{self.artist}/{self.icon}"


def download(folder: Path) -> None:
    """Fetch the pinned packages into `folder` with `npm pack` (skips what is there)."""
    folder.mkdir(parents=True, exist_ok=True)
    for key, package in PACKAGES.items():
        target = folder / f"{key}.json"
        if target.exists():
            continue
        spec = f"{package.name}@{package.version}"
        done = subprocess.run(
            ["npm", "pack", "--silent", "--pack-destination", str(folder), spec],
            check=True,
            capture_output=True,
            text=True,
        )
        archive = folder / done.stdout.strip().splitlines()[-1]
        with tarfile.open(archive) as tar:
            member = tar.extractfile("package/icons.json")
            assert member is not None
            target.write_bytes(member.read())
        archive.unlink()


def artwork_hash(folder: Path) -> str:
    """One SHA-256 over all icon files, for the provenance of what was trained on them."""
    digest = hashlib.sha256()
    for key in sorted(PACKAGES):
        digest.update((folder / f"{key}.json").read_bytes())
    return digest.hexdigest()


@cache
def _icons(folder: Path, artist: str) -> dict:
    return json.loads((folder / f"{artist}.json").read_text("utf-8"))


def _svg(folder: Path, artist: str, icon: str) -> str | None:
    data = _icons(folder, artist)
    for name in (icon, *ALTERNATIVES.get(icon, ())):
        name = data.get("aliases", {}).get(name, {}).get("parent", name)
        if name in data["icons"]:
            body = data["icons"][name]
            left, top = (body.get(k, data.get(k, 0)) for k in ("left", "top"))
            width, height = (body.get(k, data.get(k, 16)) for k in ("width", "height"))
            return (
                '<svg xmlns="http://www.w3.org/2000/svg" '
                'xmlns:xlink="http://www.w3.org/1999/xlink" '
                f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">'
                f"{body['body']}</svg>"
            )
    return None


def load_sprites(folder: Path) -> tuple[Sprite, ...]:
    """Every sprite there is, in a fixed order."""
    sprites = []
    for noun, icons in CLASS_ICONS.items():
        for icon in icons:
            for artist in PACKAGES:
                if (artist, icon) in EXCLUDED or _svg(folder, artist, icon) is None:
                    continue
                if (
                    artist != "fxemoji"
                    and icon == "dog-face"
                    and (icon not in _icons(folder, artist)["icons"])
                ):
                    continue
                body = BODY_HEADS.get((artist, icon))
                head = None
                if noun in LIVE_CLASSES:
                    head = body or (0.0, 0.0, 1.0, 1.0)
                held_out = artist == HELD_OUT_SET or (artist, icon) in HELD_OUT_ICONS
                sprites.append(Sprite(noun, artist, icon, head, body is None, held_out))
    return tuple(sprites)


@cache
def rasterise(folder: Path, sprite: Sprite, size: int) -> np.ndarray:
    """(size, size, 4) float32 RGBA in [0, 1], not premultiplied, trimmed to fill the square."""
    import resvg_py  # only drawing needs it

    svg = _svg(folder, sprite.artist, sprite.icon)
    assert svg is not None
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=2 * size, height=2 * size))
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    if sprite.is_face:  # faces fill the square, so that the head's box is all of it
        image = image.crop(image.getbbox())
        side = max(image.size)
        square = Image.new("RGBA", (side, side))
        square.paste(image, ((side - image.width) // 2, side - image.height))
        image = square
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS), np.float32) / 255
