"""Painters of what people built: streets, landmarks, floors and cloths."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from emojiland.painting import BIG, BLUE_SKY, cloth, gradient, jitter, sky_and_ground, speckle


def city(rng):
    image, d, y = sky_and_ground(rng, ((120, 170, 220), (225, 225, 230)), (115, 115, 120), 0.78, 4)
    x = -10
    while x < BIG:
        w, h = rng.integers(26, 48), rng.integers(70, 180)
        c = jitter(rng, (110, 120, 140), 30)
        d.rectangle((x, y - h, x + w, y), fill=c)
        for wy in range(int(y - h + 8), int(y - 8), 16):
            for wx in range(int(x + 5), int(x + w - 7), 11):
                d.rectangle(
                    (wx, wy, wx + 5, wy + 8),
                    fill=(250, 235, 150) if rng.random() < 0.6 else (60, 70, 90),
                )
        x += w + 3
    return image


def blue_house(rng):
    image, d, y = sky_and_ground(rng, ((190, 215, 235), (235, 240, 240)), (110, 165, 85), 0.74)
    x0 = rng.uniform(20, 50)
    x1 = x0 + rng.uniform(150, 180)
    d.rectangle((x0, 85, x1, y + 6), fill=jitter(rng, (50, 100, 200)))
    d.polygon((x0 - 16, 88, x1 + 16, 88, (x0 + x1) / 2, 14), fill=jitter(rng, (100, 60, 50)))
    for wx in (x0 + 16, x1 - 48):
        d.rectangle((wx, 105, wx + 32, 140), fill=(250, 245, 200), outline=(255, 255, 255), width=4)
    return image


def eiffel(rng):
    image, d, y = sky_and_ground(rng, ((150, 185, 225), (240, 225, 220)), (115, 165, 90), 0.80)
    x, c = rng.choice([rng.uniform(40, 90), rng.uniform(165, 215)]), jitter(rng, (110, 85, 65))
    for s in (-1, 1):
        d.polygon((x + s * 46, y, x + s * 30, y, x + s * 2, 70, x + s * 8, 70), fill=c)
    d.polygon((x - 9, 75, x + 9, 75, x, 4), fill=c)
    for t, w in ((y - 42, 35), (y - 88, 22)):
        d.rectangle((x - w, t, x + w, t + 9), fill=c)
    return image


def great_wall(rng):
    image, d, _y = sky_and_ground(rng, BLUE_SKY, (90, 140, 70), 0.46)
    pts = [
        (x, 120 + 28 * np.sin(x / 38 + rng.uniform(0, 0.2)) - x * 0.12)
        for x in range(-10, BIG + 20, 10)
    ]
    c = jitter(rng, (165, 140, 110))
    d.line(pts, fill=c, width=36)
    for x, t in pts[::2]:
        d.rectangle((x - 5, t - 29, x + 4, t - 16), fill=c)
    x, t = pts[int(rng.integers(4, 22))]
    d.rectangle((x - 26, t - 60, x + 26, t + 20), fill=jitter(rng, (145, 118, 90)))
    d.rectangle((x - 6, t - 40, x + 6, t - 22), fill=(60, 45, 35))
    return image


def wooden_roof(rng):
    image = gradient(jitter(rng, (120, 180, 235)), jitter(rng, (205, 228, 245)))
    d = ImageDraw.Draw(image)
    top = int(BIG * rng.uniform(0.46, 0.54))
    d.polygon((0, BIG, 28, top, BIG - 28, top, BIG, BIG), fill=(120, 72, 40))
    for k, y in enumerate(range(top, BIG, 22)):
        m = 28 * (1 - (y - top) / (BIG - top))
        for x in np.arange(m - (13 if k % 2 else 0), BIG - m, 28):
            d.rounded_rectangle(
                (max(m, x), y, min(BIG - m, x + 25), y + 19),
                5,
                fill=jitter(rng, (160, 98, 55), 16),
            )
    return image


def liberty(rng):
    image, d, y = sky_and_ground(rng, BLUE_SKY, (60, 130, 180), 0.80)
    x, c = rng.choice([rng.uniform(34, 70), rng.uniform(186, 222)]), jitter(rng, (95, 175, 150))
    d.rectangle((x - 26, y - 40, x + 26, y + 6), fill=(190, 170, 140))
    d.polygon((x - 20, y - 40, x + 20, y - 40, x + 10, 72, x - 10, 72), fill=c)
    d.ellipse((x - 11, 46, x + 11, 74), fill=c)
    for a in np.linspace(-1.2, 1.2, 5):
        d.line((x, 56, x + 24 * np.sin(a), 56 - 24 * np.cos(a)), fill=c, width=4)
    d.line((x + 8, 84, x + 26, 24), fill=c, width=9)
    d.ellipse((x + 19, 6, x + 35, 26), fill=(255, 190, 40))
    return image


def sidewalk(rng):
    image, d, y = sky_and_ground(rng, ((205, 205, 210), (190, 185, 185)), (172, 172, 170), 0.64, 4)
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
        d.ellipse((x - 10, y - h, x + 10, y - h + 22), fill=jitter(rng, (205, 160, 130), 30))
    return image


def subway(rng):
    image = Image.new("RGB", (BIG, BIG), jitter(rng, (215, 218, 212)))
    d = ImageDraw.Draw(image)
    for x in range(0, BIG, 24):
        d.line((x, 0, x, 70), fill=(180, 184, 180), width=2)
    y = int(BIG * rng.uniform(0.68, 0.74))
    d.rectangle((0, 64, BIG, y - 14), fill=jitter(rng, (195, 60, 60)))
    for x in range(int(rng.integers(-40, 0)), BIG, 62):
        d.rounded_rectangle((x, 82, x + 46, 126), 6, fill=(60, 75, 95))
    d.rectangle((0, y - 14, BIG, y), fill=(40, 40, 45))
    d.rectangle((0, y, BIG, BIG), fill=jitter(rng, (140, 140, 145)))
    d.rectangle((0, y + 4, BIG, y + 14), fill=(245, 205, 40))
    return image


def pool(rng):
    image = gradient(jitter(rng, (80, 205, 225)), jitter(rng, (50, 180, 215)))
    d = ImageDraw.Draw(image)
    for x in range(int(rng.integers(0, 32)), BIG, 36):
        d.line((x, 46, x, BIG), fill=(120, 220, 235), width=3)
    for y in range(46, BIG, 30):
        d.line((0, y, BIG, y), fill=(120, 220, 235), width=3)
    d.rectangle((0, 0, BIG, 40), fill=jitter(rng, (225, 215, 200)))
    d.rectangle((0, 40, BIG, 50), fill=(250, 250, 250))
    for k in range(8):
        x = k * 34 + rng.uniform(-6, 6)
        d.ellipse((x, 74, x + 17, 91), fill=(230, 60, 60) if k % 2 else (250, 250, 250))
    return image


def castle(rng):
    image, d, y = sky_and_ground(rng, ((215, 195, 225), (245, 225, 215)), (120, 165, 95), 0.78)
    c = jitter(rng, (150, 150, 160))
    d.rectangle((50, 90, 206, y), fill=c)
    for x in range(50, 206, 24):
        d.rectangle((x, 76, x + 13, 92), fill=c)
    for x in (30, 186):
        d.rectangle((x, 56, x + 40, y), fill=jitter(rng, (135, 135, 148)))
        d.polygon((x - 6, 58, x + 46, 58, x + 20, 6), fill=jitter(rng, (190, 60, 80)))
    return image


def cobblestone(rng):
    image = Image.new("RGB", (BIG, BIG), jitter(rng, (70, 66, 64)))
    d = ImageDraw.Draw(image)
    step = int(rng.integers(26, 34))
    for row, y in enumerate(range(-step, BIG, int(step * 0.72))):
        for x in range(-step, BIG + step, step):
            o = step // 2 if row % 2 else 0
            d.rounded_rectangle(
                (x + o + 2, y + 2, x + o + step - 3, y + step * 0.72 - 3),
                8,
                fill=jitter(rng, (150, 142, 136), 22),
            )
    return image


def mirror(rng):
    image = gradient(jitter(rng, (150, 105, 85)), jitter(rng, (120, 80, 65)))
    d = ImageDraw.Draw(image)
    d.ellipse((4, BIG * 0.34, BIG - 4, BIG - 2), fill=(190, 150, 60))
    d.ellipse((16, BIG * 0.37, BIG - 16, BIG - 12), fill=jitter(rng, (190, 222, 232)))
    for _k in range(3):
        x = rng.uniform(40, 170)
        d.line((x, BIG * 0.9, x + 46, BIG * 0.45), fill=(240, 250, 255), width=8)
    return image


def white_rug(rng):
    image = gradient(jitter(rng, (140, 110, 90)), jitter(rng, (110, 80, 60)))
    d = ImageDraw.Draw(image)
    d.rounded_rectangle((10, BIG * 0.30, BIG - 10, BIG - 6), 30, fill=(248, 246, 240))
    speckle(image, rng, (10, BIG * 0.3, BIG - 10, BIG - 6), 7, 5)
    for x in range(14, BIG - 12, 9):
        d.line((x, BIG - 8, x, BIG), fill=(248, 246, 240), width=4)
    return image


def pink_fabric(rng):
    return cloth(rng, (245, 150, 185))


def wooden_floor(rng):
    image = Image.new("RGB", (BIG, BIG), (110, 70, 40))
    d = ImageDraw.Draw(image)
    step = int(rng.integers(30, 40))
    for y in range(0, BIG, step):
        x = -int(rng.integers(0, 120))
        while x < BIG:
            w = int(rng.integers(90, 170))
            d.rectangle((x, y, x + w - 3, y + step - 3), fill=jitter(rng, (186, 128, 76), 16))
            x += w
    return image


def checkered_floor(rng):
    image = Image.new("RGB", (BIG, BIG), (240, 240, 236))
    d = ImageDraw.Draw(image)
    s, ox = int(rng.integers(36, 48)), int(rng.integers(0, 40))
    dark = jitter(rng, (40, 40, 46))
    for i in range(-1, BIG // s + 2):
        for j in range(-1, BIG // s + 2):
            if (i + j) % 2:
                d.rectangle((i * s - ox, j * s - ox, i * s - ox + s, j * s - ox + s), fill=dark)
    return image
