"""Five subjects for `benchmarks.second_world`, drawn by code: no artwork set has any of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageDraw

Colour = tuple[int, int, int]
SIDE = 1024  # pixels of the canvas, which photos shrink; drawings think in hundredths of it
INK: Colour = (54, 40, 44)


@dataclass(frozen=True)
class Pose:
    """turn: -1 looks left, 1 right; lift: 0 to 1, of whatever moves (an arm, a tail, a hand)."""

    turn: float
    lift: float


class Pen:
    """Draws in hundredths of the canvas; x goes right, y down."""

    def __init__(self, background: tuple[int, ...] = (0, 0, 0, 0)) -> None:
        self.image = Image.new("RGBA", (SIDE, SIDE), background)
        self._draw = ImageDraw.Draw(self.image)

    def _at(self, points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(x * SIDE / 100, y * SIDE / 100) for x, y in points]

    def oval(self, x: float, y: float, rx: float, ry: float, fill: Colour, edge: float = 0) -> None:
        """Around (x, y); edge: width of its outline."""
        box = self._at([(x - rx, y - ry), (x + rx, y + ry)])
        width = round(edge * SIDE / 100)
        self._draw.ellipse(
            [*box[0], *box[1]], fill=fill, outline=INK if edge else None, width=width
        )

    def box(
        self, x: float, y: float, w: float, h: float, fill: Colour, round_by: float = 0
    ) -> None:
        """(x, y) is its upper left corner."""
        (left, top), (right, bottom) = self._at([(x, y), (x + w, y + h)])
        corner = round_by * SIDE / 100
        self._draw.rounded_rectangle([left, top, right, bottom], corner, fill=fill)

    def shape(self, points: Sequence[tuple[float, float]], fill: Colour) -> None:
        self._draw.polygon(self._at(points), fill=fill)

    def line(self, points: Sequence[tuple[float, float]], fill: Colour, width: float) -> None:
        """With round ends and joints."""
        thick = width * SIDE / 100
        self._draw.line(self._at(points), fill=fill, width=round(thick), joint="curve")
        for x, y in (points[0], points[-1]):
            self.oval(x, y, width / 2, width / 2, fill)

    def arc(self, x: float, y: float, r: float, angles: tuple[float, float], width: float) -> None:
        """Of a circle, by degrees clockwise from the right."""
        box = self._at([(x - r, y - r), (x + r, y + r)])
        thick = round(width * SIDE / 100)
        self._draw.arc([*box[0], *box[1]], *angles, fill=INK, width=thick)

    def within(self, mask: Pen, paint: Pen) -> None:
        """Puts `paint` where `mask` has something."""
        both = ImageChops.multiply(paint.image.getchannel("A"), mask.image.getchannel("A"))
        self.image.paste(paint.image, (0, 0), both)


def _curve(points: Sequence[tuple[float, float]], count: int = 24) -> list[tuple[float, float]]:
    """A quadratic Bezier curve by its three points."""
    (x0, y0), (x1, y1), (x2, y2) = points
    steps = [k / count for k in range(count + 1)]
    return [
        (
            (1 - t) ** 2 * x0 + 2 * t * (1 - t) * x1 + t * t * x2,
            (1 - t) ** 2 * y0 + 2 * t * (1 - t) * y1 + t * t * y2,
        )
        for t in steps
    ]


# --- the subjects: each stands on y = 92 ----------------------------------------------------


def robot(pose: Pose) -> Image.Image:
    """Turquoise, of tin: a yellow belly with a red heart, one antenna, legs in boots."""
    tin, dark, sun, red = (72, 178, 186), (44, 122, 138), (250, 206, 84), (226, 68, 72)
    pen, look = Pen(), 3 * pose.turn
    for side in (-1, 1):
        raised = 30 - 26 * pose.lift * (side == (1 if pose.turn >= 0 else -1))
        hand = (50 + side * 31, 46 + raised)
        pen.line([(50 + side * 19, 52), (50 + side * 28, 58), hand], dark, 6)
        pen.oval(*hand, 5.5, 5.5, sun)
        pen.box(50 + side * 10 - 5, 76, 10, 12, dark, 2)
        pen.box(50 + side * 11 - 8, 84, 16, 8, red, 3.5)
    pen.box(29, 46, 42, 34, tin, 7)
    pen.box(36 + look / 2, 52, 28, 22, sun, 5)
    x, y = 50 + look / 2, 61
    for side in (-1, 1):
        pen.oval(x + side * 3.3, y, 4.2, 4.2, red)
    pen.shape([(x - 7.2, y + 1.6), (x + 7.2, y + 1.6), (x, y + 9.5)], red)
    pen.line([(50, 20), (50 + look, 10)], dark, 2.4)
    pen.oval(50 + look, 9, 4, 4, red)
    pen.box(25, 18, 50, 30, tin, 9)
    for side in (-1, 1):
        pen.box(50 + side * 27 - 3, 28, 6, 11, sun, 2.5)
        pen.oval(50 + side * 11 + look, 31, 7.5, 7.5, (252, 252, 246))
        pen.oval(50 + side * 11 + 1.8 * look, 32, 3.8, 3.8, INK)
        pen.oval(50 + side * 11 + 1.8 * look + 1.3, 30.6, 1.2, 1.2, (255, 255, 255))
    pen.arc(50 + look, 35, 9, (35, 145), 1.8)
    return pen.image


def dog(pose: Pose) -> Image.Image:
    """White, sitting, with black spots, a black ear and a red collar with a golden tag."""
    white, black, red, gold = (248, 244, 236), (58, 52, 56), (214, 58, 62), (246, 198, 70)
    pen, look = Pen(), 4 * pose.turn
    tail = _curve([(68, 84), (84, 82), (86, 76 - 18 * pose.lift)])
    pen.line(tail, white, 6)
    body = Pen()
    body.oval(50, 72, 22, 21, white)
    spots = Pen()
    for x, y, r in ((38, 64, 6), (61, 74, 7.5), (44, 82, 5), (66, 60, 4.5)):
        spots.oval(x, y, r, r * 0.9, black)
    pen.within(body, body)
    pen.within(body, spots)
    for side in (-1, 1):
        pen.box(50 + side * 9 - 5.5, 68, 11, 22, white, 5)
        pen.oval(50 + side * 9, 89, 8, 4.5, white)
        for toe in (-2.5, 2.5):
            pen.line([(50 + side * 9 + toe, 88), (50 + side * 9 + toe, 91)], INK, 0.7)
    pen.box(36, 53, 28, 6, red, 3)
    pen.oval(50 + look / 2, 61, 3.8, 3.8, gold)
    pen.oval(50 + look / 4, 35, 24, 21, white)
    for side, colour in ((-1, black), (1, white)):
        x = 50 + side * 23 + look / 4
        ear = _curve([(x - side * 9, 17), (x + side * 13, 20), (x + side * 6, 46)])
        pen.shape([*ear, (x - side * 2, 42)], colour)
        if colour == white:
            pen.line([(x - side * 6, 20), (x - side * 2, 41)], (214, 204, 196), 1)
    pen.oval(61 + look, 30, 8.5, 9.5, black)
    for side in (-1, 1):
        pen.oval(50 + side * 10 + look, 31, 4.4, 5, (255, 255, 255) if side == 1 else INK)
        pen.oval(50 + side * 10 + look, 31, 3.2, 3.8, INK)
        pen.oval(50 + side * 10 + look + 1.2, 29.4, 1.2, 1.2, (255, 255, 255))
    pen.oval(50 + 1.4 * look, 43, 11, 8, (255, 252, 246))
    pen.oval(50 + 1.6 * look, 39.5, 4.6, 3.4, INK)
    for side in (-1, 1):
        pen.arc(50 + 1.4 * look + side * 3.4, 43.5, 3.6, (20, 160), 1.2)
    pen.oval(50 + 1.4 * look, 50, 2.6, 3.4, (238, 122, 132))
    return pen.image


def cat(pose: Pose) -> Image.Image:
    """Ginger with dark stripes, a cream bib, green eyes and a curled tail."""
    ginger, stripe, cream, pink = (240, 152, 66), (190, 92, 34), (252, 236, 208), (240, 138, 138)
    pen, look = Pen(), 4 * pose.turn
    tail = _curve([(66, 88), (92, 90), (84, 62 - 22 * pose.lift)])
    pen.line(tail, ginger, 7)
    for k in (12, 17, 22):
        pen.oval(*tail[k], 3.5, 2.2, stripe)
    body, marks = Pen(), Pen()
    body.shape(
        _curve([(28, 92), (30, 44), (50, 44)]) + _curve([(50, 44), (70, 44), (72, 92)]), ginger
    )
    for y in (60, 70, 80):
        for side in (-1, 1):
            marks.line(
                _curve([(50 + side * 26, y - 4), (50 + side * 17, y), (50 + side * 14, y + 4)]),
                stripe,
                2.8,
            )
    marks.oval(50, 66, 9.5, 14, cream)
    pen.within(body, body)
    pen.within(body, marks)
    for side in (-1, 1):
        pen.oval(50 + side * 9, 89.5, 8, 4.6, cream)
    for side in (-1, 1):
        x = 50 + side * 15 + look / 4
        pen.shape([(x - 9, 24), (x + side * 7, 3), (x + 10, 24)], ginger)
        pen.shape([(x - 4.5, 22), (x + side * 5, 9.5), (x + 5.5, 22)], pink)
    pen.oval(50 + look / 4, 33, 26, 20.5, ginger)
    for shift in (-6, 0, 6):
        pen.line([(50 + look / 2 + shift, 13.5), (50 + look / 2 + shift * 0.8, 20)], stripe, 2.4)
    for side in (-1, 1):
        for y in (34, 40):
            pen.line(
                [(50 + side * 24.5 + look / 4, y), (50 + side * 18 + look / 3, y + 1)], stripe, 2
            )
    for side in (-1, 1):
        x = 50 + side * 11 + look
        pen.oval(x, 31, 5.8, 6.2, (150, 206, 92), 0.8)
        pen.oval(x + look / 5, 31, 1.9, 5, INK)
        pen.oval(x + 1.6, 28.6, 1.4, 1.4, (255, 255, 255))
        pen.oval(50 + 1.3 * look + side * 4.5, 43, 6, 4.8, cream)
    pen.shape([(47 + 1.3 * look, 38), (53 + 1.3 * look, 38), (50 + 1.3 * look, 41.5)], pink)
    for side in (-1, 1):
        pen.arc(50 + 1.3 * look + side * 2.8, 42, 2.9, (10, 170), 1.1)
        for y in (41, 44.5):
            pen.line(
                [(50 + 1.3 * look + side * 9, 43), (50 + 1.3 * look + side * 21, y + 1)], cream, 0.7
            )
    return pen.image


def teapot(pose: Pose) -> Image.Image:
    """Blue and white stripes, a golden knob and foot, a daisy on the belly."""
    blue, white, gold = (58, 104, 190), (250, 248, 242), (236, 186, 74)
    pen, tip = Pen(), 5 * pose.lift
    pen.line(_curve([(72, 48), (98, 46), (72, 78)]), blue, 6)
    spout = [
        *_curve([(30, 76), (14, 74), (8, 44 - tip)]),
        *_curve([(16, 42 - tip), (20, 54), (32, 56)]),
    ]
    pen.shape(spout, blue)
    pen.oval(12, 43.5 - tip, 4.6, 2, gold)
    pen.oval(50, 88, 18, 4.5, gold)
    belly, stripes = Pen(), Pen()
    belly.oval(50, 64, 28, 25, white)
    for k in range(-3, 4):
        x = 50 + 10.5 * k + 5 * pose.turn
        stripes.line(
            _curve(
                [(50 + (x - 50) * 0.55, 36), (50 + (x - 50) * 1.35, 64), (50 + (x - 50) * 0.55, 92)]
            ),
            blue,
            4.6,
        )
    pen.within(belly, belly)
    pen.within(belly, stripes)
    x, y = 50 + 9 * pose.turn, 65
    pen.oval(x, y, 12.5, 12.5, white)
    for k in range(8):
        angle = math.tau * k / 8
        pen.oval(x + 7 * math.cos(angle), y + 7 * math.sin(angle), 3.7, 3.7, (244, 140, 160))
    pen.oval(x, y, 4.4, 4.4, gold)
    pen.oval(50, 41, 17, 4.6, blue)
    pen.shape(
        _curve([(36, 40), (38, 27), (50, 27)]) + _curve([(50, 27), (62, 27), (64, 40)]), white
    )
    pen.line([(36, 40), (64, 40)], blue, 2.6)
    pen.oval(50, 24, 5, 5, gold)
    return pen.image


def clock(pose: Pose) -> Image.Image:
    """A purple alarm clock with a face that smiles: two bells, a hammer, round feet."""
    purple, dark, cream, brass = (140, 88, 190), (96, 56, 142), (254, 248, 230), (244, 194, 76)
    pen = Pen()
    for side in (-1, 1):
        pen.line([(50 + side * 18, 78), (50 + side * 25, 89)], dark, 6)
        pen.oval(50 + side * 26, 89, 5, 3.4, brass)
        bell = Pen()
        bell.oval(50 + side * 20, 24, 13, 12, brass)
        cut = Pen((0, 0, 0, 0))
        cut.shape(
            [
                (50 + side * 4, 8),
                (50 + side * 36, 8),
                (50 + side * 38, 26),
                (50 + side * 10, 34),
                (50 + side * 4, 26),
            ],
            brass,
        )
        pen.within(cut, bell)
        pen.oval(50 + side * 21.5, 11, 2.4, 2.4, dark)
    pen.line([(50, 26), (50 + 7 * (pose.lift - 0.5), 13)], dark, 2.6)
    pen.oval(50 + 7 * (pose.lift - 0.5), 12, 4, 3, red := (226, 74, 84))
    pen.oval(50, 56, 33, 33, purple)
    pen.oval(50, 56, 26.5, 26.5, cream)
    for k in range(12):
        angle = math.tau * k / 12
        r = 1.9 if k % 3 == 0 else 1.1
        pen.oval(50 + 23 * math.sin(angle), 56 - 23 * math.cos(angle), r, r, dark)
    for side in (-1, 1):
        pen.oval(50 + side * 9 + 2 * pose.turn, 50, 2.8, 3.8, INK)
        pen.oval(50 + side * 9 + 2 * pose.turn + 0.9, 48.6, 0.9, 0.9, (255, 255, 255))
        pen.oval(50 + side * 14, 60, 3.6, 2.6, (250, 176, 176))
    pen.arc(50 + pose.turn, 57, 9, (30, 150), 1.8)
    hour = math.tau * (0.35 + 0.5 * pose.lift)
    for length, angle, width in ((13, hour, 2.4), (19, 12 * hour, 1.7)):
        pen.line(
            [(50, 56), (50 + length * math.sin(angle), 56 - length * math.cos(angle))], red, width
        )
    pen.oval(50, 56, 2.4, 2.4, red)
    return pen.image
