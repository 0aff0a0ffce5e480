"""The places of Emojiland: each a function that paints one random variant at 4x size.

Variants are painted once (`variants`) and reused, so scenes cost little.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

SIZE = 64
BIG = 4 * SIZE
Painter = Callable[[np.random.Generator], Image.Image]
Colour = tuple[int, int, int]


def _jitter(rng: np.random.Generator, colour: Colour, amount: int = 14) -> Colour:
    return tuple(int(np.clip(c + rng.integers(-amount, amount + 1), 0, 255)) for c in colour)  # type: ignore[return-value]


def _gradient(top: Colour, bottom: Colour) -> Image.Image:
    ramp = np.linspace(0, 1, BIG)[:, None, None]
    pixels = np.array(top) * (1 - ramp) + np.array(bottom) * ramp
    return Image.fromarray(np.repeat(pixels, BIG, 1).astype(np.uint8))


def _speckle(image: Image.Image, rng: np.random.Generator, box, amount: float, grain: int = 6):
    """Adds soft brightness noise inside a box: grass, sand, cloth."""
    x0, y0, x1, y1 = (int(v) for v in box)
    width, height = x1 - x0, y1 - y0
    noise = rng.normal(0, amount, (max(1, height // grain), max(1, width // grain)))
    soft = Image.fromarray(noise.astype(np.float32)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    patch = np.asarray(image.crop((x0, y0, x1, y1)), np.float32) + np.asarray(soft)[..., None]
    image.paste(Image.fromarray(np.clip(patch, 0, 255).astype(np.uint8)), (x0, y0))


def _sky_and_ground(rng, sky: tuple[Colour, Colour], ground: Colour, horizon=0.62, noise=8.0):
    image = _gradient(_jitter(rng, sky[0]), _jitter(rng, sky[1]))
    y = int(BIG * (horizon + rng.uniform(-0.05, 0.05)))
    ImageDraw.Draw(image).rectangle((0, y, BIG, BIG), fill=_jitter(rng, ground))
    _speckle(image, rng, (0, y, BIG, BIG), noise)
    return image, ImageDraw.Draw(image), y


BLUE_SKY = ((90, 165, 235), (200, 228, 250))


def _cloud(d, rng, x, y, s):
    for _ in range(4):
        dx, dy = rng.uniform(-s, s), rng.uniform(-s / 4, s / 4)
        d.ellipse(
            (x + dx - s * 0.6, y + dy - s * 0.3, x + dx + s * 0.6, y + dy + s * 0.3),
            fill=(250, 250, 252),
        )


def _tree(d, x, y, h, trunk, leaves, rng, blobs=7):
    d.rectangle((x - h * 0.07, y - h * 0.5, x + h * 0.07, y), fill=trunk)
    for _ in range(blobs):
        cx, cy = x + rng.uniform(-0.28, 0.28) * h, y - h * (0.7 + rng.uniform(-0.2, 0.2))
        r = h * rng.uniform(0.14, 0.24)
        d.ellipse((cx - r, cy - r, cx + r, cy + r), fill=_jitter(rng, leaves, 22))


def _pine(d, x, y, h, colour):
    for k in range(3):
        w = h * (0.34 - 0.08 * k)
        top = y - h * (0.45 + 0.27 * k)
        d.polygon((x - w, top + h * 0.35, x + w, top + h * 0.35, x, top), fill=colour)


def plain(rng):
    base = rng.integers(120, 250, 3)
    end = np.clip(base + rng.integers(-60, 60, 3), 60, 255)
    return _gradient(tuple(base), tuple(end))


def jungle(rng):
    image = _gradient(_jitter(rng, (20, 75, 30)), _jitter(rng, (45, 120, 45)))
    d = ImageDraw.Draw(image)
    for _ in range(5):
        x = rng.uniform(0, BIG)
        d.rectangle((x, 0, x + rng.uniform(6, 14), BIG), fill=_jitter(rng, (60, 50, 25)))
    for _ in range(46):
        x, y, w, h = (
            rng.uniform(0, BIG),
            rng.uniform(0, BIG),
            rng.uniform(10, 22),
            rng.uniform(40, 90),
        )
        d.ellipse(
            (x - w / 2, y - h / 2, x + w / 2, y + h / 2), fill=_jitter(rng, (30, 130, 45), 30)
        )
    return image


def snow(rng):
    image, d, y = _sky_and_ground(rng, ((150, 170, 195), (215, 225, 235)), (244, 247, 252), 0.58, 3)
    for _ in range(5):
        x = rng.uniform(0, BIG)
        _pine(d, x, y + 6, rng.uniform(60, 110), _jitter(rng, (60, 95, 90)))
    for _ in range(90):
        x, t, r = rng.uniform(0, BIG), rng.uniform(0, BIG), rng.uniform(1.5, 4)
        d.ellipse((x - r, t - r, x + r, t + r), fill=(255, 255, 255))
    return image


def beach(rng):
    image, d, y = _sky_and_ground(rng, BLUE_SKY, (238, 214, 160), 0.66, 7)
    sea = int(BIG * rng.uniform(0.38, 0.46))
    d.rectangle((0, sea, BIG, y), fill=_jitter(rng, (30, 140, 190)))
    d.rectangle((0, y - 8, BIG, y), fill=(225, 245, 250))
    x = rng.choice([rng.uniform(15, 60), rng.uniform(BIG - 60, BIG - 15)])
    d.line((x, y + 20, x + 14, 70), fill=(120, 85, 50), width=9)
    for a in np.linspace(0, 2 * np.pi, 7):
        d.line(
            (x + 14, 70, x + 14 + 42 * np.cos(a), 70 + 24 * np.sin(a)), fill=(40, 140, 60), width=9
        )
    return image


def cobblestone(rng):
    image = Image.new("RGB", (BIG, BIG), _jitter(rng, (70, 66, 64)))
    d = ImageDraw.Draw(image)
    step = int(rng.integers(26, 34))
    for row, y in enumerate(range(-step, BIG, int(step * 0.72))):
        for x in range(-step, BIG + step, step):
            o = step // 2 if row % 2 else 0
            d.rounded_rectangle(
                (x + o + 2, y + 2, x + o + step - 3, y + step * 0.72 - 3),
                8,
                fill=_jitter(rng, (150, 142, 136), 22),
            )
    return image


def _cloth(rng, colour):
    image = _gradient(_jitter(rng, colour), _jitter(rng, tuple(int(c * 0.86) for c in colour)))
    yy, xx = np.mgrid[0:BIG, 0:BIG] / BIG
    a, f, p = rng.uniform(0, np.pi), rng.uniform(3, 6), rng.uniform(0, 6)
    fold = np.sin((xx * np.cos(a) + yy * np.sin(a)) * f * 2 * np.pi + p + 1.5 * np.sin(yy * 6)) * 13
    return Image.fromarray(
        np.clip(np.asarray(image, np.float32) + fold[..., None], 0, 255).astype(np.uint8)
    )


def pink_fabric(rng):
    return _cloth(rng, (245, 150, 185))


def wooden_floor(rng):
    image = Image.new("RGB", (BIG, BIG), (110, 70, 40))
    d = ImageDraw.Draw(image)
    step = int(rng.integers(30, 40))
    for y in range(0, BIG, step):
        x = -int(rng.integers(0, 120))
        while x < BIG:
            w = int(rng.integers(90, 170))
            d.rectangle((x, y, x + w - 3, y + step - 3), fill=_jitter(rng, (186, 128, 76), 16))
            x += w
    return image


def city(rng):
    image, d, y = _sky_and_ground(rng, ((120, 170, 220), (225, 225, 230)), (115, 115, 120), 0.78, 4)
    x = -10
    while x < BIG:
        w, h = rng.integers(26, 48), rng.integers(70, 180)
        c = _jitter(rng, (110, 120, 140), 30)
        d.rectangle((x, y - h, x + w, y), fill=c)
        for wy in range(int(y - h + 8), int(y - 8), 16):
            for wx in range(int(x + 5), int(x + w - 7), 11):
                d.rectangle(
                    (wx, wy, wx + 5, wy + 8),
                    fill=(250, 235, 150) if rng.random() < 0.6 else (60, 70, 90),
                )
        x += w + 3
    return image


def mountain(rng):
    image, d, y = _sky_and_ground(rng, BLUE_SKY, (95, 150, 80), 0.72)
    for x in (rng.uniform(20, 90), rng.uniform(110, 240)):
        h, w = rng.uniform(100, 160), rng.uniform(90, 130)
        d.polygon((x - w, y, x + w, y, x, y - h), fill=_jitter(rng, (120, 115, 120)))
        d.polygon(
            (x - w * 0.3, y - h * 0.7, x + w * 0.3, y - h * 0.7, x, y - h), fill=(248, 250, 252)
        )
    return image


def blue_house(rng):
    image, d, y = _sky_and_ground(rng, ((190, 215, 235), (235, 240, 240)), (110, 165, 85), 0.74)
    x0 = rng.uniform(20, 50)
    x1 = x0 + rng.uniform(150, 180)
    d.rectangle((x0, 85, x1, y + 6), fill=_jitter(rng, (50, 100, 200)))
    d.polygon((x0 - 16, 88, x1 + 16, 88, (x0 + x1) / 2, 14), fill=_jitter(rng, (100, 60, 50)))
    for wx in (x0 + 16, x1 - 48):
        d.rectangle((wx, 105, wx + 32, 140), fill=(250, 245, 200), outline=(255, 255, 255), width=4)
    return image


def _forest(rng):
    image = _gradient(_jitter(rng, (90, 140, 90)), _jitter(rng, (50, 90, 50)))
    d = ImageDraw.Draw(image)
    for _ in range(9):
        x = rng.uniform(0, BIG)
        d.rectangle((x, 0, x + rng.uniform(8, 18), BIG * 0.72), fill=_jitter(rng, (85, 62, 42)))
    d.rectangle((0, BIG * 0.68, BIG, BIG), fill=_jitter(rng, (75, 100, 45)))
    for _ in range(20):
        x, y, r = rng.uniform(0, BIG), rng.uniform(-10, 60), rng.uniform(14, 30)
        d.ellipse((x - r, y - r, x + r, y + r), fill=_jitter(rng, (50, 125, 60), 20))
    return image, d


def purple_rug_forest(rng):
    image, d = _forest(rng)
    y = BIG * rng.uniform(0.66, 0.72)
    d.ellipse((6, y, BIG - 6, BIG + 24), fill=_jitter(rng, (130, 50, 165)))
    d.ellipse((22, y + 9, BIG - 22, BIG + 8), outline=(215, 160, 230), width=5)
    return image


def wheat_field(rng):
    image, d, y = _sky_and_ground(rng, BLUE_SKY, (222, 180, 75), 0.52, 8)
    for _ in range(150):
        x, t = rng.uniform(0, BIG), rng.uniform(y, BIG)
        h = 14 + (t - y) * 0.25
        d.line(
            (x, t + h, x + rng.uniform(-4, 4), t - h),
            fill=_jitter(rng, (200, 150, 50), 24),
            width=3,
        )
    return image


def autumn(rng):
    image, d, y = _sky_and_ground(rng, ((190, 205, 220), (240, 230, 215)), (190, 125, 55), 0.72)
    for x in (rng.uniform(10, 70), rng.uniform(170, 245)):
        _tree(d, x, y + 10, rng.uniform(170, 210), (80, 55, 40), (225, 105, 30), rng, 16)
    for _ in range(60):
        x, t, r = rng.uniform(0, BIG), rng.uniform(y, BIG), rng.uniform(3, 6)
        d.ellipse((x - r, t - r, x + r, t + r), fill=_jitter(rng, (225, 90, 30), 40))
    return image


def eiffel(rng):
    image, d, y = _sky_and_ground(rng, ((150, 185, 225), (240, 225, 220)), (115, 165, 90), 0.80)
    x, c = rng.choice([rng.uniform(40, 90), rng.uniform(165, 215)]), _jitter(rng, (110, 85, 65))
    for s in (-1, 1):
        d.polygon((x + s * 46, y, x + s * 30, y, x + s * 2, 70, x + s * 8, 70), fill=c)
    d.polygon((x - 9, 75, x + 9, 75, x, 4), fill=c)
    for t, w in ((y - 42, 35), (y - 88, 22)):
        d.rectangle((x - w, t, x + w, t + 9), fill=c)
    return image


def _waves(rng, top, bottom, crest):
    image = _gradient(_jitter(rng, top), _jitter(rng, bottom))
    d = ImageDraw.Draw(image)
    for y in range(int(rng.integers(0, 14)), BIG, 24):
        p = rng.uniform(0, 6)
        pts = [(x, y + 5 * np.sin(x / 14 + p)) for x in range(0, BIG + 4, 4)]
        d.line(pts, fill=crest, width=4)
    return image


def water(rng):
    return _waves(rng, (70, 160, 215), (20, 95, 175), (170, 220, 245))


def milk(rng):
    return _waves(rng, (255, 253, 245), (240, 235, 222), (220, 212, 196))


def sunflowers(rng):
    image = Image.new("RGB", (BIG, BIG), _jitter(rng, (80, 165, 60)))
    _speckle(image, rng, (0, 0, BIG, BIG), 12)
    d = ImageDraw.Draw(image)
    for _ in range(17):
        x, y = rng.uniform(0, BIG), rng.uniform(0, BIG)
        for a in np.linspace(0, 2 * np.pi, 9)[:-1]:
            cx, cy = x + 14 * np.cos(a), y + 14 * np.sin(a)
            d.ellipse((cx - 8, cy - 8, cx + 8, cy + 8), fill=(252, 205, 30))
        d.ellipse((x - 10, y - 10, x + 10, y + 10), fill=(100, 60, 25))
    return image


def mirror(rng):
    image = _gradient(_jitter(rng, (150, 105, 85)), _jitter(rng, (120, 80, 65)))
    d = ImageDraw.Draw(image)
    d.ellipse((4, BIG * 0.34, BIG - 4, BIG - 2), fill=(190, 150, 60))
    d.ellipse((16, BIG * 0.37, BIG - 16, BIG - 12), fill=_jitter(rng, (190, 222, 232)))
    for _k in range(3):
        x = rng.uniform(40, 170)
        d.line((x, BIG * 0.9, x + 46, BIG * 0.45), fill=(240, 250, 255), width=8)
    return image


def sidewalk(rng):
    image, d, y = _sky_and_ground(rng, ((205, 205, 210), (190, 185, 185)), (172, 172, 170), 0.64, 4)
    for k in range(5):
        x = BIG * (k / 4)
        d.line(
            (BIG / 2 + (x - BIG / 2) * 0.7, y, BIG / 2 + (x - BIG / 2) * 2, BIG),
            fill=(130, 130, 130),
            width=4,
        )
    for _ in range(13):
        x, h = rng.uniform(0, BIG), rng.uniform(70, 100)
        c = tuple(rng.integers(40, 230, 3))
        d.rounded_rectangle((x - 13, y - h * 0.7, x + 13, y + 8), 8, fill=c)
        d.ellipse((x - 10, y - h, x + 10, y - h + 22), fill=_jitter(rng, (205, 160, 130), 30))
    return image


def dirt_road(rng):
    image, d, y = _sky_and_ground(rng, BLUE_SKY, (100, 155, 70), 0.48)
    x = BIG * rng.uniform(0.4, 0.6)
    d.polygon((x - 14, y, x + 14, y, BIG * 1.0, BIG, 0, BIG), fill=_jitter(rng, (165, 115, 70)))
    _speckle(image, rng, (0, y, BIG, BIG), 8)
    return image


def white_rug(rng):
    image = _gradient(_jitter(rng, (140, 110, 90)), _jitter(rng, (110, 80, 60)))
    d = ImageDraw.Draw(image)
    d.rounded_rectangle((10, BIG * 0.30, BIG - 10, BIG - 6), 30, fill=(248, 246, 240))
    _speckle(image, rng, (10, BIG * 0.3, BIG - 10, BIG - 6), 7, 5)
    for x in range(14, BIG - 12, 9):
        d.line((x, BIG - 8, x, BIG), fill=(248, 246, 240), width=4)
    return image


def moon(rng):
    image, d, y = _sky_and_ground(rng, ((5, 5, 20), (15, 15, 40)), (165, 165, 168), 0.60, 7)
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


def great_wall(rng):
    image, d, _y = _sky_and_ground(rng, BLUE_SKY, (90, 140, 70), 0.46)
    pts = [
        (x, 120 + 28 * np.sin(x / 38 + rng.uniform(0, 0.2)) - x * 0.12)
        for x in range(-10, BIG + 20, 10)
    ]
    c = _jitter(rng, (165, 140, 110))
    d.line(pts, fill=c, width=36)
    for x, t in pts[::2]:
        d.rectangle((x - 5, t - 29, x + 4, t - 16), fill=c)
    x, t = pts[int(rng.integers(4, 22))]
    d.rectangle((x - 26, t - 60, x + 26, t + 20), fill=_jitter(rng, (145, 118, 90)))
    d.rectangle((x - 6, t - 40, x + 6, t - 22), fill=(60, 45, 35))
    return image


def wooden_roof(rng):
    image = _gradient(_jitter(rng, (120, 180, 235)), _jitter(rng, (205, 228, 245)))
    d = ImageDraw.Draw(image)
    top = int(BIG * rng.uniform(0.46, 0.54))
    d.polygon((0, BIG, 28, top, BIG - 28, top, BIG, BIG), fill=(120, 72, 40))
    for k, y in enumerate(range(top, BIG, 22)):
        m = 28 * (1 - (y - top) / (BIG - top))
        for x in np.arange(m - (13 if k % 2 else 0), BIG - m, 28):
            d.rounded_rectangle(
                (max(m, x), y, min(BIG - m, x + 25), y + 19),
                5,
                fill=_jitter(rng, (160, 98, 55), 16),
            )
    return image


def liberty(rng):
    image, d, y = _sky_and_ground(rng, BLUE_SKY, (60, 130, 180), 0.80)
    x, c = rng.choice([rng.uniform(34, 70), rng.uniform(186, 222)]), _jitter(rng, (95, 175, 150))
    d.rectangle((x - 26, y - 40, x + 26, y + 6), fill=(190, 170, 140))
    d.polygon((x - 20, y - 40, x + 20, y - 40, x + 10, 72, x - 10, 72), fill=c)
    d.ellipse((x - 11, 46, x + 11, 74), fill=c)
    for a in np.linspace(-1.2, 1.2, 5):
        d.line((x, 56, x + 24 * np.sin(a), 56 - 24 * np.cos(a)), fill=c, width=4)
    d.line((x + 8, 84, x + 26, 24), fill=c, width=9)
    d.ellipse((x + 19, 6, x + 35, 26), fill=(255, 190, 40))
    return image


def volcano(rng):
    image, d, y = _sky_and_ground(rng, ((85, 60, 75), (210, 120, 90)), (70, 60, 55), 0.78)
    x = rng.uniform(80, 176)
    d.polygon((x - 110, y, x + 110, y, x + 26, 64, x - 26, 64), fill=_jitter(rng, (80, 62, 60)))
    d.polygon((x - 26, 64, x + 26, 64, x + 10, 110, x, 86, x - 12, 125), fill=(255, 110, 20))
    for _ in range(12):
        a, r = rng.uniform(-0.8, 0.8), rng.uniform(20, 62)
        cx, cy = x + r * np.sin(a), 62 - r * np.cos(a)
        d.ellipse((cx - 8, cy - 8, cx + 8, cy + 8), fill=_jitter(rng, (255, 130, 25), 30))
    return image


def subway(rng):
    image = Image.new("RGB", (BIG, BIG), _jitter(rng, (215, 218, 212)))
    d = ImageDraw.Draw(image)
    for x in range(0, BIG, 24):
        d.line((x, 0, x, 70), fill=(180, 184, 180), width=2)
    y = int(BIG * rng.uniform(0.68, 0.74))
    d.rectangle((0, 64, BIG, y - 14), fill=_jitter(rng, (195, 60, 60)))
    for x in range(int(rng.integers(-40, 0)), BIG, 62):
        d.rounded_rectangle((x, 82, x + 46, 126), 6, fill=(60, 75, 95))
    d.rectangle((0, y - 14, BIG, y), fill=(40, 40, 45))
    d.rectangle((0, y, BIG, BIG), fill=_jitter(rng, (140, 140, 145)))
    d.rectangle((0, y + 4, BIG, y + 14), fill=(245, 205, 40))
    return image


def pool(rng):
    image = _gradient(_jitter(rng, (80, 205, 225)), _jitter(rng, (50, 180, 215)))
    d = ImageDraw.Draw(image)
    for x in range(int(rng.integers(0, 32)), BIG, 36):
        d.line((x, 46, x, BIG), fill=(120, 220, 235), width=3)
    for y in range(46, BIG, 30):
        d.line((0, y, BIG, y), fill=(120, 220, 235), width=3)
    d.rectangle((0, 0, BIG, 40), fill=_jitter(rng, (225, 215, 200)))
    d.rectangle((0, 40, BIG, 50), fill=(250, 250, 250))
    for k in range(8):
        x = k * 34 + rng.uniform(-6, 6)
        d.ellipse((x, 74, x + 17, 91), fill=(230, 60, 60) if k % 2 else (250, 250, 250))
    return image


def desert(rng):
    image, d, y = _sky_and_ground(rng, ((250, 190, 110), (255, 230, 180)), (225, 165, 90), 0.62)
    x = rng.choice([rng.uniform(24, 60), rng.uniform(196, 232)])
    c = (60, 125, 70)
    d.rounded_rectangle((x - 10, 70, x + 10, y + 18), 10, fill=c)
    d.rounded_rectangle((x - 32, 96, x - 20, 130), 6, fill=c)
    d.rounded_rectangle((x - 32, 120, x, 132), 6, fill=c)
    d.rounded_rectangle((x + 20, 84, x + 32, 120), 6, fill=c)
    d.rounded_rectangle((x, 110, x + 32, 122), 6, fill=c)
    return image


def rainbow(rng):
    image, d, y = _sky_and_ground(rng, BLUE_SKY, (105, 180, 85), 0.74)
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
    d.rectangle((0, y, BIG, BIG), fill=_jitter(rng, (105, 180, 85)))
    return image


def night_sky(rng):
    image, d, y = _sky_and_ground(rng, ((12, 16, 60), (45, 45, 110)), (25, 45, 40), 0.80)
    for _ in range(55):
        x, t, r = rng.uniform(0, BIG), rng.uniform(0, y), rng.uniform(1.5, 4)
        d.ellipse((x - r, t - r, x + r, t + r), fill=(255, 250, 210))
    x = rng.uniform(40, 210)
    d.ellipse((x - 22, 22, x + 22, 66), fill=(255, 245, 190))
    d.ellipse((x - 8, 16, x + 30, 58), fill=(18, 22, 68))
    return image


def castle(rng):
    image, d, y = _sky_and_ground(rng, ((215, 195, 225), (245, 225, 215)), (120, 165, 95), 0.78)
    c = _jitter(rng, (150, 150, 160))
    d.rectangle((50, 90, 206, y), fill=c)
    for x in range(50, 206, 24):
        d.rectangle((x, 76, x + 13, 92), fill=c)
    for x in (30, 186):
        d.rectangle((x, 56, x + 40, y), fill=_jitter(rng, (135, 135, 148)))
        d.polygon((x - 6, 58, x + 46, 58, x + 20, 6), fill=_jitter(rng, (190, 60, 80)))
    return image


def waterfall(rng):
    image = _gradient(_jitter(rng, (95, 105, 100)), _jitter(rng, (70, 85, 75)))
    _speckle(image, rng, (0, 0, BIG, BIG), 16, 22)
    d = ImageDraw.Draw(image)
    x = rng.uniform(60, 140)
    d.rectangle((x, 0, x + 70, BIG), fill=(205, 232, 245))
    for _ in range(16):
        t = rng.uniform(x, x + 68)
        d.line((t, 0, t, BIG), fill=(250, 253, 255), width=3)
    d.ellipse((-20, BIG * 0.74, BIG + 20, BIG * 1.2), fill=_jitter(rng, (90, 175, 205)))
    for _ in range(12):
        t, v, r = (
            rng.choice([rng.uniform(0, 44), rng.uniform(214, 256)]),
            rng.uniform(0, 190),
            rng.uniform(12, 24),
        )
        d.ellipse((t - r, v - r, t + r, v + r), fill=_jitter(rng, (50, 130, 60), 18))
    return image


def checkered_floor(rng):
    image = Image.new("RGB", (BIG, BIG), (240, 240, 236))
    d = ImageDraw.Draw(image)
    s, ox = int(rng.integers(36, 48)), int(rng.integers(0, 40))
    dark = _jitter(rng, (40, 40, 46))
    for i in range(-1, BIG // s + 2):
        for j in range(-1, BIG // s + 2):
            if (i + j) % 2:
                d.rectangle((i * s - ox, j * s - ox, i * s - ox + s, j * s - ox + s), fill=dark)
    return image


def tulips(rng):
    image, d, y = _sky_and_ground(rng, BLUE_SKY, (70, 140, 60), 0.40)
    for row in range(7):
        t = y + 12 + row * (BIG - y) / 7
        c = ((225, 40, 70), (250, 120, 180), (250, 250, 245))[row % 3]
        r = 5 + row * 1.2
        for x in np.arange(rng.uniform(0, 10), BIG, r * 2.6):
            d.ellipse((x - r, t - r * 1.2, x + r, t + r), fill=_jitter(rng, c, 16))
    return image


# --- at home: where photos are taken; no caption and no prompt names these places ----------


def brick_wall(rng):
    image = Image.new("RGB", (BIG, BIG), (205, 195, 185))
    d, colour = ImageDraw.Draw(image), _jitter(rng, (170, 85, 70), 25)
    for row, y in enumerate(range(0, BIG, 26)):
        for x in range(-60, BIG, 62):
            left = x + (31 if row % 2 else 0)
            d.rectangle((left, y, left + 57, y + 21), fill=_jitter(rng, colour, 10))
    return image


def bookshelf(rng):
    image = Image.new("RGB", (BIG, BIG), _jitter(rng, (95, 62, 40)))
    d = ImageDraw.Draw(image)
    for y in (70, 150, 236):
        x = 8
        while x < BIG - 14:
            w, h = int(rng.integers(9, 20)), int(rng.integers(40, 62))
            d.rectangle((x, y - h, x + w, y), fill=tuple(int(c) for c in rng.integers(50, 210, 3)))
            x += w + 2
        d.rectangle((0, y, BIG, y + 9), fill=(135, 92, 60))
    return image


def sofa(rng):
    image = _gradient(_jitter(rng, (228, 220, 205)), _jitter(rng, (205, 195, 180)))
    d, c = ImageDraw.Draw(image), tuple(int(v) for v in rng.integers(70, 190, 3))
    dark = tuple(int(v * 0.8) for v in c)
    d.rounded_rectangle((10, 84, BIG - 10, 230), 26, fill=dark)
    d.rounded_rectangle((34, 100, 126, 180), 16, fill=c)
    d.rounded_rectangle((130, 100, 222, 180), 16, fill=c)
    d.rounded_rectangle((22, 168, BIG - 22, 232), 16, fill=c)
    d.rectangle((0, 232, BIG, BIG), fill=_jitter(rng, (150, 120, 95)))
    return image


def kitchen(rng):
    image = Image.new("RGB", (BIG, BIG), (235, 238, 238))
    d, c = ImageDraw.Draw(image), _jitter(rng, (185, 215, 210), 25)
    for y in range(4, 160, 34):
        for x in range(4, BIG, 34):
            d.rectangle((x, y, x + 29, y + 29), fill=_jitter(rng, c, 5))
    d.rectangle((0, 160, BIG, 184), fill=_jitter(rng, (120, 115, 112)))
    d.rectangle((0, 184, BIG, BIG), fill=_jitter(rng, (225, 215, 195)))
    return image


def fence(rng):
    image, d, y = _sky_and_ground(rng, ((205, 225, 240), (230, 238, 240)), (95, 140, 75), 0.76)
    c = _jitter(rng, (205, 190, 165), 20)
    for x in range(int(rng.integers(-20, 0)), BIG, 36):
        d.polygon((x, y + 4, x, 92, x + 14, 76, x + 28, 92, x + 28, y + 4), fill=c)
    for t in (112, 164):
        d.rectangle((0, t, BIG, t + 11), fill=tuple(int(v * 0.88) for v in c))
    return image


def carpet(rng):
    colour = tuple(int(v) for v in rng.integers(90, 200, 3))
    image = _gradient(_jitter(rng, (220, 215, 208)), _jitter(rng, (205, 200, 195)))
    ImageDraw.Draw(image).rectangle((0, 110, BIG, BIG), fill=colour)
    _speckle(image, rng, (0, 110, BIG, BIG), 16, 4)
    return image


def window(rng):
    image = Image.new("RGB", (BIG, BIG), _jitter(rng, (215, 205, 185), 20))
    d = ImageDraw.Draw(image)
    x = rng.uniform(30, 80)
    d.rectangle((x, 18, x + 140, 150), fill=(245, 245, 242))
    for dx in (8, 74):
        d.rectangle((x + dx, 26, x + dx + 58, 142), fill=_jitter(rng, (165, 205, 235)))
    d.rectangle((x - 10, 150, x + 150, 162), fill=(235, 235, 230))
    d.rectangle((0, 206, BIG, BIG), fill=_jitter(rng, (140, 100, 70)))
    return image


def wallpaper(rng):
    colour = tuple(int(v) for v in rng.integers(140, 235, 3))
    image = Image.new("RGB", (BIG, BIG), colour)
    d, light = ImageDraw.Draw(image), tuple(min(255, v + 18) for v in colour)
    for x in range(0, BIG, 32):
        d.rectangle((x, 0, x + 14, BIG), fill=light)
    d.rectangle((0, 196, BIG, BIG), fill=_jitter(rng, (120, 90, 70)))
    d.rectangle((0, 186, BIG, 198), fill=(240, 238, 232))
    return image


HOME: dict[str, Painter] = {
    "brick wall": brick_wall,
    "bookshelf": bookshelf,
    "sofa": sofa,
    "kitchen": kitchen,
    "fence": fence,
    "carpet": carpet,
    "window": window,
    "wallpaper": wallpaper,
}

# key -> (painter, phrase that follows "a {noun}")
CONTEXTS: dict[str, tuple[Painter, str]] = {
    "jungle": (jungle, "in the jungle"),
    "snow": (snow, "in the snow"),
    "beach": (beach, "on the beach"),
    "cobblestone": (cobblestone, "on a cobblestone street"),
    "pink fabric": (pink_fabric, "on top of pink fabric"),
    "wooden floor": (wooden_floor, "on top of a wooden floor"),
    "city": (city, "with a city in the background"),
    "mountain": (mountain, "with a mountain in the background"),
    "blue house": (blue_house, "with a blue house in the background"),
    "purple rug": (purple_rug_forest, "on top of a purple rug in a forest"),
    "wheat": (wheat_field, "with a wheat field in the background"),
    "autumn": (autumn, "with a tree and autumn leaves in the background"),
    "eiffel": (eiffel, "with the Eiffel Tower in the background"),
    "water": (water, "floating on top of water"),
    "milk": (milk, "floating in an ocean of milk"),
    "sunflowers": (sunflowers, "on top of green grass with sunflowers around it"),
    "mirror": (mirror, "on top of a mirror"),
    "sidewalk": (sidewalk, "on top of the sidewalk in a crowded street"),
    "dirt road": (dirt_road, "on top of a dirt road"),
    "white rug": (white_rug, "on top of a white rug"),
    "moon": (moon, "on the Moon"),
    "great wall": (great_wall, "with the Great Wall of China in the background"),
    "roof": (wooden_roof, "on top of a wooden roof"),
    "liberty": (liberty, "with the Statue of Liberty in the background"),
    "volcano": (volcano, "with a volcano in the background"),
    "subway": (subway, "on a subway platform"),
    "pool": (pool, "swimming in a pool"),
    "desert": (desert, "in the desert"),
    "rainbow": (rainbow, "with a rainbow in the background"),
    "night": (night_sky, "under a night sky full of stars"),
    "castle": (castle, "with a castle in the background"),
    "waterfall": (waterfall, "in front of a waterfall"),
    "checkered": (checkered_floor, "on top of a checkered floor"),
    "tulips": (tulips, "in a field of tulips"),
}
FLOATING = {"water", "milk", "pool"}
VARIANTS = 48


@cache
def variants(key: str) -> tuple[np.ndarray, ...]:
    """VARIANTS pictures (64, 64, 3) uint8 of one place, always the same ("plain": gradients)."""
    if key == "plain":
        painter, count = plain, 8 * VARIANTS
    else:
        painter, count = HOME[key] if key in HOME else CONTEXTS[key][0], VARIANTS
    seed = sum(ord(c) * 31**i for i, c in enumerate(key)) % 2**31
    pictures = []
    for k in range(count):
        image = painter(np.random.default_rng((seed, k))).convert("RGB")
        pictures.append(np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX)))
    return tuple(pictures)
