"""The thirty subjects: DreamBench's names and classes, drawn from sprites no model has seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from emojiland.art import LIVE_CLASSES
from emojiland.backgrounds import HOME
from emojiland.figures import Instance, random_instance
from emojiland.scenes import Look, compose, sprites

# name -> (class noun, held-out icon, pattern); colours and pattern details come from the name
SUBJECTS: dict[str, tuple[str, str, str]] = {
    "backpack": ("backpack", "backpack", "none"),
    "backpack_dog": ("backpack", "backpack", "dots"),
    "bear_plushie": ("stuffed animal", "teddy-bear", "none"),
    "berry_bowl": ("bowl", "green-salad", "none"),
    "can": ("can", "canned-food", "none"),
    "candle": ("candle", "candle", "stripes"),
    "cat": ("cat", "cat-face", "none"),
    "cat2": ("cat", "cat", "patches"),
    "clock": ("clock", "alarm-clock", "none"),
    "colorful_sneaker": ("sneaker", "running-shoe", "stripes"),
    "dog": ("dog", "dog-face", "none"),
    "dog2": ("dog", "dog", "none"),
    "dog3": ("dog", "poodle", "none"),
    "dog5": ("dog", "dog-face", "patches"),
    "dog6": ("dog", "dog-face", "two-tone"),
    "dog7": ("dog", "dog", "dots"),
    "dog8": ("dog", "dog-face", "stripes"),
    "duck_toy": ("toy", "duck", "none"),
    "fancy_boot": ("boot", "womans-boot", "dots"),
    "grey_sloth_plushie": ("stuffed animal", "panda", "none"),
    "monster_toy": ("toy", "pile-of-poo", "dots"),
    "pink_sunglasses": ("glasses", "glasses", "none"),
    "poop_emoji": ("toy", "pile-of-poo", "none"),
    "rc_car": ("toy", "racing-car", "none"),
    "red_cartoon": ("cartoon", "alien-monster", "none"),
    "robot_toy": ("toy", "robot", "none"),
    "shiny_sneaker": ("sneaker", "running-shoe", "none"),
    "teapot": ("teapot", "teapot", "none"),
    "vase": ("vase", "amphora", "none"),
    "wolf_plushie": ("stuffed animal", "bear", "two-tone"),
}


def subject_instance(artwork: Path, name: str) -> Instance:
    noun, icon, pattern = SUBJECTS[name]
    (sprite,) = [s for s in sprites(artwork, True) if s.noun == noun and s.icon == icon]
    seed = sum(ord(c) * 131**i for i, c in enumerate(name)) % 2**31
    drawn = random_instance(np.random.default_rng((17, seed)), (sprite,))
    calm = replace(drawn, hue=0.0, saturation=1.0, value=1.0) if pattern == "none" else drawn
    return replace(calm, pattern=pattern)


def subject_photos(artwork: Path, name: str) -> list[np.ndarray]:
    """4 to 6 pictures (64, 64, 3) uint8, each in another place at home."""
    who = subject_instance(artwork, name)
    rng = np.random.default_rng((19, list(SUBJECTS).index(name)))
    places = rng.permutation(list(HOME))[: int(rng.integers(4, 7))]
    return [compose(artwork, who, Look(), rng, place=str(place)) for place in places]


def write_subjects(artwork: Path, folder: Path) -> None:
    """folder/<name>/NN.png and folder/../subjects.toml."""
    lines = ["# The thirty subjects of Emojiland: DreamBench in miniature.\n"]
    for name, (noun, icon, _) in SUBJECTS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for k, photo in enumerate(subject_photos(artwork, name)):
            Image.fromarray(photo).save(folder / name / f"{k:02d}.png", optimize=True)
        kind = "live" if noun in LIVE_CLASSES else "object"
        artist = subject_instance(artwork, name).sprite.artist
        lines.append(f'[{name}]\nnoun = "{noun}"\nkind = "{kind}"\nart = "{artist}/{icon}"\n')
    (folder.parent / "subjects.toml").write_text("\n".join(lines), "utf-8")
