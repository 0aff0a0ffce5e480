"""The reward curve as inline SVG: no script, colours from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from rpo.runs.result import Validation

SERIES = (
    ("text_alignment", "is-text", "text alignment"),
    ("image_alignment", "is-image", "image alignment"),
    ("reward", "is-reward", "reward"),
)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`, some `about` of them."""
    span = max(high - low, 1e-3, 1e-9 * max(abs(low), abs(high)))  # above their last digits
    rough = span / about
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    return [round(i * step, 10) for i in range(first, last + 1)]


def whole_ticks(high: int, about: int) -> list[int]:
    """0 and further round whole numbers up to `high`."""
    marks = (tick for tick in ticks(0, max(high, 1), about) if tick == int(tick) and tick <= high)
    return [int(tick) for tick in marks]


def reward_curve(history: Sequence[Validation], width: int, height: int) -> str:
    """Reward, image and text alignment over the steps, (step, value) pairs in px of the viewBox.

    The chosen step is marked. Every point has a tooltip. A single validation gives points only.
    """
    values = [getattr(point, name) for point in history for name, _, _ in SERIES]
    marks = ticks(min(values), max(values))
    left, right, top, bottom = 40, width - 14, 24, height - 38
    last = max(history[-1].step, 1)

    def x(step: float) -> float:
        return round(left + (right - left) * step / last, 1)

    def y(value: float) -> float:
        return round(bottom - (bottom - top) * (value - marks[0]) / (marks[-1] - marks[0]), 1)

    parts = [
        f'<line class="grid" x1="{left}" x2="{right}" y1="{y(mark)}" y2="{y(mark)}"/>'
        f'<text x="{left - 8}" y="{y(mark) + 4}" text-anchor="end">{mark:.3g}</text>'
        for mark in marks
    ]
    parts += [
        f'<text x="{x(step)}" y="{bottom + 18}" text-anchor="middle">{step}</text>'
        for step in whole_ticks(last, 8 if width > 500 else 4)
    ]
    parts.append(
        f'<text x="{(left + right) / 2}" y="{height - 4}" text-anchor="middle">gradient step</text>'
    )
    for point in history:
        if point.chosen:
            at = x(point.step)
            anchor = "start" if at < width * 0.2 else "end" if at > width * 0.8 else "middle"
            parts.append(
                f'<line class="mark" x1="{at}" x2="{at}" y1="{top - 4}" y2="{bottom}"/>'
                f'<text class="name" x="{at}" y="{top - 10}" text-anchor="{anchor}">'
                f"step {point.step}, chosen</text>"
            )
    for name, style, label in SERIES:
        line = " ".join(f"{x(point.step)},{y(getattr(point, name))}" for point in history)
        dots = "".join(
            f'<circle cx="{x(point.step)}" cy="{y(getattr(point, name))}"'
            + (' r="5.5" class="picked"' if point.chosen and name == "reward" else ' r="3"')
            + f"><title>step {point.step}: {label} {getattr(point, name):.3f}</title></circle>"
            for point in history
        )
        parts.append(f'<g class="{style}"><polyline points="{line}"/>{dots}</g>')
    summary = escape(
        "Line chart of the validation reward and its two parts over the gradient steps; "
        "the numbers stand in the table below."
    )
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{summary}">'
        f"{''.join(parts)}</svg>"
    )
