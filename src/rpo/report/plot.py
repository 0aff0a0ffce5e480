"""Plots as inline SVG, without script: named points in a plane, curves beside one another.

Colours are the page's (`results.css`): a style is a class that sets `color`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

from rpo.evaluation.plane import Ellipse, Point
from rpo.evaluation.statistics import Interval
from rpo.report.chart import ticks, whole_ticks

LETTER, LINE = 6.7, 15  # px of the names' 12 px type: a letter's width, a line's height
RADIUS = 5.0


@dataclass(frozen=True)
class Axis:
    """Values along one side: from its first mark at `start` px to its last at `end` px."""

    marks: Sequence[float]
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Where a value lies, in px of the viewBox."""
        low, high = self.marks[0], self.marks[-1]
        return round(self.start + (self.end - self.start) * (value - low) / (high - low), 1)


@dataclass(frozen=True)
class Mark:
    """A point of a plane: its name, its style, what its tooltip says, and where it may lie."""

    name: str
    style: str
    at: Point
    note: str = ""
    ellipse: Ellipse | None = None


def scatter(
    marks: Sequence[Mark],
    front: Sequence[Point],
    titles: tuple[str, str],
    width: int,
    height: int,
    name: str,
) -> str:
    """Named points with their ellipses, and the front of those that no other one beats.

    front: its points from left to right. titles: of x and y. name: unique in the page, for what is
    clipped: an ellipse far wider than all points are apart is cut at the frame.
    """
    xs, ys = (_span(marks, k) for k in (0, 1))
    x = Axis(ticks(*xs, about=6 if width > 500 else 4), 60, width - 12)
    y = Axis(ticks(*ys, about=6), height - 42, 10)
    parts = [_frame(x, y, titles, height)]
    frame = f'x="{x.start}" y="{y.end}" width="{x.end - x.start}" height="{y.start - y.end}"'
    parts.append(f'<clipPath id="{name}"><rect {frame}/></clipPath><g clip-path="url(#{name})">')
    for mark in marks:
        if mark.ellipse:
            outline = " ".join(f"{x(a)},{y(b)}" for a, b in mark.ellipse.outline())
            parts.append(f'<polygon class="{mark.style} region" points="{outline}"/>')
    parts.append("</g>")
    if len(front) > 1:
        way = " ".join(f"{x(a)},{y(b)}" for a, b in front)
        parts.append(f'<polyline class="front" points="{way}"/>')
    dots = [(x(mark.at[0]), y(mark.at[1])) for mark in marks]
    labels = place_labels([mark.name for mark in marks], dots, (x.start, y.end, x.end, y.start))
    for mark, (cx, cy), (left, base) in zip(marks, dots, labels, strict=True):
        parts.append(
            f'<g class="{mark.style} dot"><circle cx="{cx}" cy="{cy}" r="{RADIUS}">'
            f"<title>{escape(mark.note or mark.name)}</title></circle>"
            f'<text x="{left:.1f}" y="{base:.1f}">{escape(mark.name)}</text></g>'
        )
    summary = f"{titles[1]} against {titles[0]}; the numbers stand in the tables"
    return _svg(width, height, summary, parts)


def _span(marks: Sequence[Mark], axis: int) -> tuple[float, float]:
    """From the lowest to the highest value; ellipses widen it by at most its own length."""
    values = [mark.at[axis] for mark in marks]
    low, high = min(values), max(values)
    room = max(high - low, 0.02)
    reach = [point[axis] for mark in marks if mark.ellipse for point in mark.ellipse.outline()]
    low = max(min([low - 0.08 * room, *reach]), low - room)
    return low, min(max([high + 0.08 * room, *reach]), high + room)


def place_labels(
    names: Sequence[str], dots: Sequence[Point], frame: tuple[float, float, float, float]
) -> list[Point]:
    """Left end and base line of each name, beside its dot, where it covers least of the others."""
    taken = [(cx - RADIUS, cy - RADIUS, cx + RADIUS, cy + RADIUS) for cx, cy in dots]
    found = []
    for name, (cx, cy) in zip(names, dots, strict=True):
        wide, gap = LETTER * len(name), RADIUS + 4
        sides = [
            (cx + gap, cy + 4),
            (cx - gap - wide, cy + 4),
            (cx - wide / 2, cy - gap),
            (cx - wide / 2, cy + gap + 9),
            (cx + gap, cy - 8),
            (cx + gap, cy + 16),
            (cx - gap - wide, cy - 8),
            (cx - gap - wide, cy + 16),
        ]
        boxes = [(a, b - LINE + 4, a + wide, b + 4) for a, b in sides]
        costs = [
            sum(_overlap(box, other) for other in taken) + 5 * _outside(box, frame) for box in boxes
        ]
        best = costs.index(min(costs))
        taken.append(boxes[best])
        found.append(sides[best])
    return found


Box = tuple[float, float, float, float]


def _overlap(a: Box, b: Box) -> float:
    """The area that two boxes (left, top, right, bottom) share."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return wide * high if wide > 0 and high > 0 else 0.0


def _outside(box: Box, frame: Box) -> float:
    """The area of a box beyond the frame."""
    return (box[2] - box[0]) * (box[3] - box[1]) - _overlap(box, frame)


# --- curves ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bundle:
    """Curves of one panel: each a list of (step, value); the mean of all; the chosen points."""

    title: str
    style: str
    each: Sequence[Sequence[Point]]
    mean: Sequence[Point]
    chosen: Sequence[Point] = field(default_factory=list)


def curve_panel(bundle: Bundle, marks: Sequence[float], last: int, size: tuple[int, int]) -> str:
    """One panel: every curve thin, their mean thick, the chosen steps as dots.

    marks: of the y axis, last: the x axis' end; panels side by side share them.
    """
    width, height = size
    x = Axis([0, max(last, 1)], 38, width - 8)
    y = Axis(marks, height - 34, 8)
    parts = [_frame(x, y, ("gradient step", ""), height, whole_ticks(last, 4))]
    parts.append(f'<g class="{bundle.style}">')
    for points in bundle.each:
        way = " ".join(f"{x(a)},{y(b)}" for a, b in points)
        parts.append(f'<polyline class="thin" points="{way}"/>')
    way = " ".join(f"{x(a)},{y(b)}" for a, b in bundle.mean)
    parts.append(f'<polyline class="mean" points="{way}"/>')
    parts += [f'<circle class="pick" cx="{x(a)}" cy="{y(b)}" r="2.6"/>' for a, b in bundle.chosen]
    parts.append("</g>")
    return _svg(width, height, f"Reward of {bundle.title} over the gradient steps", parts)


def mean_curve(curves: Iterable[Sequence[Point]]) -> list[Point]:
    """The mean of the values at each step that most curves have, (step, mean) in order."""
    at: dict[float, list[float]] = {}
    count = 0
    for points in curves:
        count += 1
        for step, value in points:
            at.setdefault(step, []).append(value)
    return [(s, sum(own) / len(own)) for s, own in sorted(at.items()) if 2 * len(own) > count]


# --- intervals ---------------------------------------------------------------------------


def forest(
    rows: Sequence[tuple[str, Interval | None, str]], width: int, extent: float, title: str
) -> str:
    """Differences as dots with whiskers about a line at 0: (name, interval, style) a row.

    extent: the furthest value from 0 of all panels that share the scale.
    """
    marks = ticks(-extent, extent, 4)
    height = 34 * len(rows) + 46
    x = Axis(marks, 26, width - 14)
    top, bottom = 8, height - 38
    parts = [
        f'<line class="{"zero" if abs(mark) < 1e-12 else "grid"}" x1="{x(mark)}" x2="{x(mark)}" '
        f'y1="{top}" y2="{bottom}"/>'
        f'<text x="{x(mark)}" y="{bottom + 17}" text-anchor="middle">{_signed(mark)}</text>'
        for mark in marks
    ]
    for place, (name, interval, style) in enumerate(rows):
        y = top + 34 * place + 17
        parts.append(f'<text class="number" x="4" y="{y + 4}">{escape(name)}</text>')
        if interval is None:
            continue
        note = f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}], n {interval.n}"
        parts.append(
            f'<g class="{style} whisker"><line x1="{x(interval.low)}" x2="{x(interval.high)}" '
            f'y1="{y}" y2="{y}"/><circle cx="{x(interval.mean)}" cy="{y}" r="5">'
            f"<title>{note}</title></circle></g>"
        )
    middle = (x.start + x.end) / 2
    parts.append(f'<text x="{middle}" y="{height - 4}" text-anchor="middle">{escape(title)}</text>')
    return _svg(width, height, f"Paired differences in {title} with 95 % intervals", parts)


def _signed(value: float) -> str:
    return "0" if abs(value) < 1e-12 else f"{value:+.3g}".replace("-", "\N{MINUS SIGN}")


# --- pieces ------------------------------------------------------------------------------


def _frame(
    x: Axis,
    y: Axis,
    titles: tuple[str, str],
    height: int,
    x_marks: Sequence[float] | None = None,
) -> str:
    """Grid, numbers and titles of both axes."""
    parts = [
        f'<line class="grid" x1="{x.start}" x2="{x.end}" y1="{y(mark)}" y2="{y(mark)}"/>'
        f'<text x="{x.start - 7}" y="{y(mark) + 4}" text-anchor="end">{_told(mark)}</text>'
        for mark in y.marks
    ]
    for mark in x.marks if x_marks is None else x_marks:
        grid = f'<line class="grid" x1="{x(mark)}" x2="{x(mark)}" y1="{y.end}" y2="{y.start}"/>'
        parts.append(
            ("" if x_marks else grid)
            + f'<text x="{x(mark)}" y="{y.start + 16}" text-anchor="middle">{_told(mark)}</text>'
        )
    middle = (x.start + x.end) / 2
    parts.append(
        f'<text x="{middle}" y="{height - 3}" text-anchor="middle">{escape(titles[0])}</text>'
    )
    if titles[1]:
        at = (y.start + y.end) / 2
        parts.append(
            f'<text transform="translate(10 {at}) rotate(-90)" text-anchor="middle">'
            f"{escape(titles[1])}</text>"
        )
    return "".join(parts)


def _told(value: float) -> str:
    return f"{value:.4g}".replace("-", "\N{MINUS SIGN}")


def _svg(width: int, height: int, summary: str, parts: Iterable[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(summary)}">'
        f"{''.join(parts)}</svg>"
    )
