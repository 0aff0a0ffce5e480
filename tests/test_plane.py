"""plane.py: the Pareto front and the confidence ellipse, by hand and by counting."""

from __future__ import annotations

import math
import random

import pytest

from rpo.evaluation.plane import Ellipse, confidence_ellipse, pareto_front


def test_the_front_by_hand() -> None:
    #         beaten by b    b           beaten by c     c           d
    points = [(0.2, 0.8), (0.3, 0.8), (0.5, 0.5), (0.6, 0.5), (0.1, 0.9)]
    assert pareto_front(points) == [4, 1, 3]
    assert pareto_front([]) == []


def test_equal_points_do_not_beat_each_other() -> None:
    assert pareto_front([(1.0, 1.0), (1.0, 1.0), (0.5, 1.0)]) == [0, 1]


def test_a_circle_by_hand() -> None:
    """n = 4, S = 2/3 I; T² = 3 (0.05⁻¹ - 1) = 57; radius² = 57 / 4 · 2/3 = 9.5."""
    found = confidence_ellipse([(2, 3), (0, 3), (1, 4), (1, 2)])
    assert found is not None
    assert found.centre == pytest.approx((1, 3))
    assert found.axes == pytest.approx((math.sqrt(9.5), math.sqrt(9.5)))


def test_a_tilted_ellipse_by_hand() -> None:
    """S = [[5/6, 1/2], [1/2, 5/6]]: eigenvalues 4/3 along (1, 1) and 1/3; times 57 / 4."""
    found = confidence_ellipse([(1, 1), (-1, -1), (0.5, -0.5), (-0.5, 0.5)])
    assert found is not None
    assert found.axes == pytest.approx((math.sqrt(19), math.sqrt(4.75)))
    assert found.angle == pytest.approx(math.pi / 4)
    outline = found.outline(4)
    assert outline[0] == pytest.approx((math.sqrt(9.5), math.sqrt(9.5)))
    assert outline[1] == pytest.approx((-math.sqrt(4.75 / 2), math.sqrt(4.75 / 2)))


def test_its_outline_is_where_hotelling_says() -> None:
    """n (z - m)' S⁻¹ (z - m) = T² on it, by numpy's inverse, T² by its F quantile, 6.944 (2, 4)."""
    numpy = pytest.importorskip("numpy")
    source = random.Random(1)
    points = [(source.gauss(0, 1), source.gauss(0, 3)) for _ in range(6)]
    found = confidence_ellipse(points)
    assert found is not None
    inverse = numpy.linalg.inv(numpy.cov(numpy.array(points).T))
    centre = numpy.mean(points, axis=0)
    for point in found.outline(7):
        away = numpy.array(point) - centre
        assert 6 * away @ inverse @ away == pytest.approx(2 * 5 / 4 * 6.94427, rel=1e-5)


def test_it_covers_the_true_mean_as_often_as_it_says() -> None:
    source, hits, trials = random.Random(0), 0, 1500
    for _ in range(trials):
        xs = [source.gauss(0, 1) for _ in range(5)]
        found = confidence_ellipse([(x, 0.6 * x + source.gauss(0, 0.5)) for x in xs], level=0.9)
        assert found is not None
        hits += _holds(found, (0.0, 0.0))
    assert hits / trials == pytest.approx(0.9, abs=4 * math.sqrt(0.09 / trials))


def _holds(ellipse: Ellipse, point: tuple[float, float]) -> bool:
    x, y = point[0] - ellipse.centre[0], point[1] - ellipse.centre[1]
    cos, sin = math.cos(ellipse.angle), math.sin(ellipse.angle)
    along, across = x * cos + y * sin, y * cos - x * sin
    return (along / ellipse.axes[0]) ** 2 + (across / ellipse.axes[1]) ** 2 <= 1


def test_what_has_no_ellipse() -> None:
    assert confidence_ellipse([(0, 0), (1, 1)]) is None
    with pytest.raises(ValueError, match="level"):
        confidence_ellipse([(0, 0)] * 5, level=1.0)
    flat = confidence_ellipse([(0, 1), (1, 1), (2, 1)])
    assert flat is not None
    assert flat.axes[1] == 0
