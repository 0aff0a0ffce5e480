"""Painters of landscapes, weather, water and sky."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from emojiland.painting import (
    BIG,
    BLUE_SKY,
    forest,
    gradient,
    jitter,
    pine,
    sky_and_ground,
    speckle,
    tree,
    waves,
)


def plain(rng):
    base = rng.integers(120, 250, 3)
    end = np.clip(base + rng.integers(-60, 60, 3), 60, 255)
    return gradient(tuple(base), tuple(end))


def jungle(rng):
    image = gradient(jitter(rng, (20, 75, 30)), jitter(rng, (45, 120, 45)))
    d = ImageDraw.Draw(image)
    for _ in range(5):
        x = rng.uniform(0, BIG)
        d.rectangle((x, 0, x + rng.uniform(6, 14), BIG), fill=jitter(rng, (60, 50, 25)))
    for _ in range(46):
        x, y, w, h = (
            rng.uniform(0, BIG),
            rng.uniform(0, BIG),
            rng.uniform(10, 22),
            rng.uniform(40, 90),
        )
        d.ellipse((x - w / 2, y - h / 2, x + w / 2, y + h / 2), fill=jitter(rng, (30, 130, 45), 30))
    return image


def snow(rng):
    image, d, y = sky_and_ground(rng, ((150, 170, 195), (215, 225, 235)), (244, 247, 252), 0.58, 3)
    for _ in range(5):
        x = rng.uniform(0, BIG)
        pine(d, x, y + 6, rng.uniform(60, 110), jitter(rng, (60, 95, 90)))
    for _ in range(90):
        x, t, r = rng.uniform(0, BIG), rng.uniform(0, BIG), rng.uniform(1.5, 4)
        d.ellipse((x - r, t - r, x + r, t + r), fill=(255, 255, 255))
    return image


def beach(rng):
    image, d, y = sky_and_ground(rng, BLUE_SKY, (238, 214, 160), 0.66, 7)
    sea = int(BIG * rng.uniform(0.38, 0.46))
    d.rectangle((0, sea, BIG, y), fill=jitter(rng, (30, 140, 190)))
    d.rectangle((0, y - 8, BIG, y), fill=(225, 245, 250))
    x = rng.choice([rng.uniform(15, 60), rng.uniform(BIG - 60, BIG - 15)])
    d.line((x, y + 20, x + 14, 70), fill=(120, 85, 50), width=9)
    for a in np.linspace(0, 2 * np.pi, 7):
        d.line(
            (x + 14, 70, x + 14 + 42 * np.cos(a), 70 + 24 * np.sin(a)), fill=(40, 140, 60), width=9
        )
    return image


def mountain(rng):
    image, d, y = sky_and_ground(rng, BLUE_SKY, (95, 150, 80), 0.72)
    for x in (rng.uniform(20, 90), rng.uniform(110, 240)):
        h, w = rng.uniform(100, 160), rng.uniform(90, 130)
        d.polygon((x - w, y, x + w, y, x, y - h), fill=jitter(rng, (120, 115, 120)))
        d.polygon(
            (x - w * 0.3, y - h * 0.7, x + w * 0.3, y - h * 0.7, x, y - h), fill=(248, 250, 252)
        )
    return image


def purple_rug_forest(rng):
    image, d = forest(rng)
    y = BIG * rng.uniform(0.66, 0.72)
    d.ellipse((6, y, BIG - 6, BIG + 24), fill=jitter(rng, (130, 50, 165)))
    d.ellipse((22, y + 9, BIG - 22, BIG + 8), outline=(215, 160, 230), width=5)
    return image


def wheat_field(rng):
    image, d, y = sky_and_ground(rng, BLUE_SKY, (222, 180, 75), 0.52, 8)
    for _ in range(150):
        x, t = rng.uniform(0, BIG), rng.uniform(y, BIG)
        h = 14 + (t - y) * 0.25
        d.line(
            (x, t + h, x + rng.uniform(-4, 4), t - h),
            fill=jitter(rng, (200, 150, 50), 24),
            width=3,
        )
    return image


def autumn(rng):
    image, d, y = sky_and_ground(rng, ((190, 205, 220), (240, 230, 215)), (190, 125, 55), 0.72)
    for x in (rng.uniform(10, 70), rng.uniform(170, 245)):
        tree(d, x, y + 10, rng.uniform(170, 210), (80, 55, 40), (225, 105, 30), rng, 16)
    for _ in range(60):
        x, t, r = rng.uniform(0, BIG), rng.uniform(y, BIG), rng.uniform(3, 6)
        d.ellipse((x - r, t - r, x + r, t + r), fill=jitter(rng, (225, 90, 30), 40))
    return image


def water(rng):
    return waves(rng, (70, 160, 215), (20, 95, 175), (170, 220, 245))


def milk(rng):
    return waves(rng, (255, 253, 245), (240, 235, 222), (220, 212, 196))


def sunflowers(rng):
    image = Image.new("RGB", (BIG, BIG), jitter(rng, (80, 165, 60)))
    speckle(image, rng, (0, 0, BIG, BIG), 12)
    d = ImageDraw.Draw(image)
    for _ in range(17):
        x, y = rng.uniform(0, BIG), rng.uniform(0, BIG)
        for a in np.linspace(0, 2 * np.pi, 9)[:-1]:
            cx, cy = x + 14 * np.cos(a), y + 14 * np.sin(a)
            d.ellipse((cx - 8, cy - 8, cx + 8, cy + 8), fill=(252, 205, 30))
        d.ellipse((x - 10, y - 10, x + 10, y + 10), fill=(100, 60, 25))
    return image


def dirt_road(rng):
    image, d, y = sky_and_ground(rng, BLUE_SKY, (100, 155, 70), 0.48)
    x = BIG * rng.uniform(0.4, 0.6)
    d.polygon((x - 14, y, x + 14, y, BIG * 1.0, BIG, 0, BIG), fill=jitter(rng, (165, 115, 70)))
    speckle(image, rng, (0, y, BIG, BIG), 8)
    return image


def moon(rng):
    image, d, y = sky_and_ground(rng, ((5, 5, 20), (15, 15, 40)), (165, 165, 168), 0.60, 7)
    for _ in range(40):
        x, t = rng.uniform(0, BIG), rng.uniform(0, y - 6)
        d.ellipse((x - 2, t - 2, x + 2, t + 2), fill=(255, 255, 235))
    for _ in range(7):
        x, t, r = rng.uniform(0, BIG), rng.uniform(y + 14, BIG), rng.uniform(12, 26)
        d.ellipse((x - r, t - r * 0.4, x + r, t + r * 0.4), fill=(125, 125, 130))
    x, r = rng.uniform(30, 220), rng.uniform(20, 30)
    d.ellipse((x - r, 40 - r, x + r, 40 + r), fill=(50, 110, 210))
    d.ellipse((x - r * 0.6, 40 - r * 0.5, x + r * 0.2, 40 + r * 0.3), fill=(60, 160, 80))
    return image


def volcano(rng):
    image, d, y = sky_and_ground(rng, ((85, 60, 75), (210, 120, 90)), (70, 60, 55), 0.78)
    x = rng.uniform(80, 176)
    d.polygon((x - 110, y, x + 110, y, x + 26, 64, x - 26, 64), fill=jitter(rng, (80, 62, 60)))
    d.polygon((x - 26, 64, x + 26, 64, x + 10, 110, x, 86, x - 12, 125), fill=(255, 110, 20))
    for _ in range(12):
        a, r = rng.uniform(-0.8, 0.8), rng.uniform(20, 62)
        cx, cy = x + r * np.sin(a), 62 - r * np.cos(a)
        d.ellipse((cx - 8, cy - 8, cx + 8, cy + 8), fill=jitter(rng, (255, 130, 25), 30))
    return image


def desert(rng):
    image, d, y = sky_and_ground(rng, ((250, 190, 110), (255, 230, 180)), (225, 165, 90), 0.62)
    x = rng.choice([rng.uniform(24, 60), rng.uniform(196, 232)])
    c = (60, 125, 70)
    d.rounded_rectangle((x - 10, 70, x + 10, y + 18), 10, fill=c)
    d.rounded_rectangle((x - 32, 96, x - 20, 130), 6, fill=c)
    d.rounded_rectangle((x - 32, 120, x, 132), 6, fill=c)
    d.rounded_rectangle((x + 20, 84, x + 32, 120), 6, fill=c)
    d.rounded_rectangle((x, 110, x + 32, 122), 6, fill=c)
    return image


def rainbow(rng):
    image, d, y = sky_and_ground(rng, BLUE_SKY, (105, 180, 85), 0.74)
    x = rng.uniform(100, 156)
    for k, c in enumerate(
        (
            (230, 50, 50),
            (245, 150, 40),
            (250, 225, 60),
            (80, 185, 80),
            (60, 110, 220),
            (140, 70, 180),
        )
    ):
        r = 118 - 10 * k
        d.ellipse((x - r, y - r * 1.25, x + r, y + r), outline=c, width=11)
    d.rectangle((0, y, BIG, BIG), fill=jitter(rng, (105, 180, 85)))
    return image


def night_sky(rng):
    image, d, y = sky_and_ground(rng, ((12, 16, 60), (45, 45, 110)), (25, 45, 40), 0.80)
    for _ in range(55):
        x, t, r = rng.uniform(0, BIG), rng.uniform(0, y), rng.uniform(1.5, 4)
        d.ellipse((x - r, t - r, x + r, t + r), fill=(255, 250, 210))
    x = rng.uniform(40, 210)
    d.ellipse((x - 22, 22, x + 22, 66), fill=(255, 245, 190))
    d.ellipse((x - 8, 16, x + 30, 58), fill=(18, 22, 68))
    return image


def waterfall(rng):
    image = gradient(jitter(rng, (95, 105, 100)), jitter(rng, (70, 85, 75)))
    speckle(image, rng, (0, 0, BIG, BIG), 16, 22)
    d = ImageDraw.Draw(image)
    x = rng.uniform(60, 140)
    d.rectangle((x, 0, x + 70, BIG), fill=(205, 232, 245))
    for _ in range(16):
        t = rng.uniform(x, x + 68)
        d.line((t, 0, t, BIG), fill=(250, 253, 255), width=3)
    d.ellipse((-20, BIG * 0.74, BIG + 20, BIG * 1.2), fill=jitter(rng, (90, 175, 205)))
    for _ in range(12):
        t, v, r = (
            rng.choice([rng.uniform(0, 44), rng.uniform(214, 256)]),
            rng.uniform(0, 190),
            rng.uniform(12, 24),
        )
        d.ellipse((t - r, v - r, t + r, v + r), fill=jitter(rng, (50, 130, 60), 18))
    return image


def tulips(rng):
    image, d, y = sky_and_ground(rng, BLUE_SKY, (70, 140, 60), 0.40)
    for row in range(7):
        t = y + 12 + row * (BIG - y) / 7
        c = ((225, 40, 70), (250, 120, 180), (250, 250, 245))[row % 3]
        r = 5 + row * 1.2
        for x in np.arange(rng.uniform(0, 10), BIG, r * 2.6):
            d.ellipse((x - r, t - r * 1.2, x + r, t + r), fill=jitter(rng, c, 16))
    return image
