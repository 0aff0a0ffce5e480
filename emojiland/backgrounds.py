"""Every place by name, with the phrase that captions use, and its painted variants.

Variants are painted once and reused, so scenes cost little.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image

from emojiland import built, nature
from emojiland.home import HOME
from emojiland.painting import SIZE, Painter

# key -> (painter, phrase that follows "a {noun}")
CONTEXTS: dict[str, tuple[Painter, str]] = {
    "jungle": (nature.jungle, "in the jungle"),
    "snow": (nature.snow, "in the snow"),
    "beach": (nature.beach, "on the beach"),
    "cobblestone": (built.cobblestone, "on a cobblestone street"),
    "pink fabric": (built.pink_fabric, "on top of pink fabric"),
    "wooden floor": (built.wooden_floor, "on top of a wooden floor"),
    "city": (built.city, "with a city in the background"),
    "mountain": (nature.mountain, "with a mountain in the background"),
    "blue house": (built.blue_house, "with a blue house in the background"),
    "purple rug": (nature.purple_rug_forest, "on top of a purple rug in a forest"),
    "wheat": (nature.wheat_field, "with a wheat field in the background"),
    "autumn": (nature.autumn, "with a tree and autumn leaves in the background"),
    "eiffel": (built.eiffel, "with the Eiffel Tower in the background"),
    "water": (nature.water, "floating on top of water"),
    "milk": (nature.milk, "floating in an ocean of milk"),
    "sunflowers": (nature.sunflowers, "on top of green grass with sunflowers around it"),
    "mirror": (built.mirror, "on top of a mirror"),
    "sidewalk": (built.sidewalk, "on top of the sidewalk in a crowded street"),
    "dirt road": (nature.dirt_road, "on top of a dirt road"),
    "white rug": (built.white_rug, "on top of a white rug"),
    "moon": (nature.moon, "on the Moon"),
    "great wall": (built.great_wall, "with the Great Wall of China in the background"),
    "roof": (built.wooden_roof, "on top of a wooden roof"),
    "liberty": (built.liberty, "with the Statue of Liberty in the background"),
    "volcano": (nature.volcano, "with a volcano in the background"),
    "subway": (built.subway, "on a subway platform"),
    "pool": (built.pool, "swimming in a pool"),
    "desert": (nature.desert, "in the desert"),
    "rainbow": (nature.rainbow, "with a rainbow in the background"),
    "night": (nature.night_sky, "under a night sky full of stars"),
    "castle": (built.castle, "with a castle in the background"),
    "waterfall": (nature.waterfall, "in front of a waterfall"),
    "checkered": (built.checkered_floor, "on top of a checkered floor"),
    "tulips": (nature.tulips, "in a field of tulips"),
}
FLOATING = {"water", "milk", "pool"}
VARIANTS = 48


@cache
def variants(key: str) -> tuple[np.ndarray, ...]:
    """VARIANTS pictures (64, 64, 3) uint8 of one place, always the same ("plain": gradients)."""
    if key == "plain":
        painter, count = nature.plain, 8 * VARIANTS
    else:
        painter, count = HOME[key] if key in HOME else CONTEXTS[key][0], VARIANTS
    seed = sum(ord(c) * 31**i for i, c in enumerate(key)) % 2**31
    pictures = []
    for k in range(count):
        image = painter(np.random.default_rng((seed, k))).convert("RGB")
        pictures.append(np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX)))
    return tuple(pictures)
