"""What the living of Emojiland wear. Each piece is painted around a head box (x0, y0, x1, y1)."""

from __future__ import annotations

from functools import cache

from PIL import Image, ImageDraw

_Z = 4  # painted so much larger, then reduced


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
def overlay(
    key: str, front: bool, box: tuple[float, float, float, float], side: int
) -> Image.Image | None:
    """The part of an outfit in front of the figure or behind it, (side, side) RGBA; None: no such.

    box: (x0, y0, x1, y1) of the head, in pixels.
    """
    painter = OUTFITS[key][2 if front else 1]
    if painter is None:
        return None
    image = Image.new("RGBA", (side * _Z, side * _Z))
    painter(ImageDraw.Draw(image), tuple(v * _Z for v in box))
    return image.resize((side, side), Image.Resampling.BOX)
