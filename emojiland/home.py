"""Places at home, where photos are taken: no caption and no prompt names them."""

from __future__ import annotations

from PIL import Image, ImageDraw

from emojiland.painting import BIG, Painter, gradient, jitter, sky_and_ground, speckle


def brick_wall(rng):
    image = Image.new("RGB", (BIG, BIG), (205, 195, 185))
    d, colour = ImageDraw.Draw(image), jitter(rng, (170, 85, 70), 25)
    for row, y in enumerate(range(0, BIG, 26)):
        for x in range(-60, BIG, 62):
            left = x + (31 if row % 2 else 0)
            d.rectangle((left, y, left + 57, y + 21), fill=jitter(rng, colour, 10))
    return image


def bookshelf(rng):
    image = Image.new("RGB", (BIG, BIG), jitter(rng, (95, 62, 40)))
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
    image = gradient(jitter(rng, (228, 220, 205)), jitter(rng, (205, 195, 180)))
    d, c = ImageDraw.Draw(image), tuple(int(v) for v in rng.integers(70, 190, 3))
    dark = tuple(int(v * 0.8) for v in c)
    d.rounded_rectangle((10, 84, BIG - 10, 230), 26, fill=dark)
    d.rounded_rectangle((34, 100, 126, 180), 16, fill=c)
    d.rounded_rectangle((130, 100, 222, 180), 16, fill=c)
    d.rounded_rectangle((22, 168, BIG - 22, 232), 16, fill=c)
    d.rectangle((0, 232, BIG, BIG), fill=jitter(rng, (150, 120, 95)))
    return image


def kitchen(rng):
    image = Image.new("RGB", (BIG, BIG), (235, 238, 238))
    d, c = ImageDraw.Draw(image), jitter(rng, (185, 215, 210), 25)
    for y in range(4, 160, 34):
        for x in range(4, BIG, 34):
            d.rectangle((x, y, x + 29, y + 29), fill=jitter(rng, c, 5))
    d.rectangle((0, 160, BIG, 184), fill=jitter(rng, (120, 115, 112)))
    d.rectangle((0, 184, BIG, BIG), fill=jitter(rng, (225, 215, 195)))
    return image


def fence(rng):
    image, d, y = sky_and_ground(rng, ((205, 225, 240), (230, 238, 240)), (95, 140, 75), 0.76)
    c = jitter(rng, (205, 190, 165), 20)
    for x in range(int(rng.integers(-20, 0)), BIG, 36):
        d.polygon((x, y + 4, x, 92, x + 14, 76, x + 28, 92, x + 28, y + 4), fill=c)
    for t in (112, 164):
        d.rectangle((0, t, BIG, t + 11), fill=tuple(int(v * 0.88) for v in c))
    return image


def carpet(rng):
    colour = tuple(int(v) for v in rng.integers(90, 200, 3))
    image = gradient(jitter(rng, (220, 215, 208)), jitter(rng, (205, 200, 195)))
    ImageDraw.Draw(image).rectangle((0, 110, BIG, BIG), fill=colour)
    speckle(image, rng, (0, 110, BIG, BIG), 16, 4)
    return image


def window(rng):
    image = Image.new("RGB", (BIG, BIG), jitter(rng, (215, 205, 185), 20))
    d = ImageDraw.Draw(image)
    x = rng.uniform(30, 80)
    d.rectangle((x, 18, x + 140, 150), fill=(245, 245, 242))
    for dx in (8, 74):
        d.rectangle((x + dx, 26, x + dx + 58, 142), fill=jitter(rng, (165, 205, 235)))
    d.rectangle((x - 10, 150, x + 150, 162), fill=(235, 235, 230))
    d.rectangle((0, 206, BIG, BIG), fill=jitter(rng, (140, 100, 70)))
    return image


def wallpaper(rng):
    colour = tuple(int(v) for v in rng.integers(140, 235, 3))
    image = Image.new("RGB", (BIG, BIG), colour)
    d, light = ImageDraw.Draw(image), tuple(min(255, v + 18) for v in colour)
    for x in range(0, BIG, 32):
        d.rectangle((x, 0, x + 14, BIG), fill=light)
    d.rectangle((0, 196, BIG, BIG), fill=jitter(rng, (120, 90, 70)))
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
