"""Two figures at once: the Pareto front, and the confidence ellipse of a mean of pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[float, float]


@dataclass(frozen=True)
class Ellipse:
    """centre; half axes, the longer first; angle of the longer one against x, in radians."""

    centre: Point
    axes: tuple[float, float]
    angle: float

    def outline(self, count: int = 72) -> list[Point]:
        """`count` points on it, anticlockwise from the end of its longer axis."""
        (x, y), (major, minor) = self.centre, self.axes
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        turns = (2 * math.pi * k / count for k in range(count))
        along = [(major * math.cos(turn), minor * math.sin(turn)) for turn in turns]
        return [(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in along]


def pareto_front(points: Sequence[Point]) -> list[int]:
    """Which points no other one beats, from left to right; of both values more is better.

    One point beats another that it equals or exceeds in both values, and exceeds in one.
    """

    def beaten(point: Point) -> bool:
        return any(
            other != point and other[0] >= point[0] and other[1] >= point[1] for other in points
        )

    kept = [index for index, point in enumerate(points) if not beaten(point)]
    return sorted(kept, key=lambda index: points[index])


def confidence_ellipse(points: Sequence[Point], level: float = 0.95) -> Ellipse | None:
    """Where the mean of independent pairs lies, by Hotelling's T² (Johnson and Wichern, 5.4).

    For n pairs with mean m and covariance S (divisor n - 1) it is the set of all z with

        n (z - m)' S⁻¹ (z - m) <= T²,    T² = 2 (n - 1) / (n - 2) F,

    F the quantile of the F distribution with 2 and n - 2 degrees of freedom, for which
    P(F <= f) = 1 - (1 + 2 f / (n - 2))^(-(n - 2) / 2). So T² = (n - 1) ((1 - level)^(-2 / (n - 2))
    - 1), and the half axes are the roots of T² / n times the eigenvalues of S.

    Give one pair a subject, as of `mean_interval`. None for fewer than three. ValueError unless
    0 < level < 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), not {level}")
    count = len(points)
    if count < 3:
        return None
    x, y = (math.fsum(point[k] for point in points) / count for k in (0, 1))
    a = math.fsum((point[0] - x) ** 2 for point in points) / (count - 1)
    b = math.fsum((point[0] - x) * (point[1] - y) for point in points) / (count - 1)
    c = math.fsum((point[1] - y) ** 2 for point in points) / (count - 1)
    middle, spread = (a + c) / 2, math.hypot((a - c) / 2, b)  # eigenvalues of [[a, b], [b, c]]
    t_squared = (count - 1) * ((1 - level) ** (-2 / (count - 2)) - 1)
    roots = (max(value, 0.0) * t_squared / count for value in (middle + spread, middle - spread))
    major, minor = map(math.sqrt, roots)
    return Ellipse((x, y), (major, minor), math.atan2(2 * b, a - c) / 2)
