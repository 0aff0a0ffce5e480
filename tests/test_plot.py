"""plot.py: where points, names, curves and intervals lie."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from rpo.evaluation.plane import Ellipse
from rpo.evaluation.statistics import Interval
from rpo.report.plot import (
    Axis,
    Bundle,
    Mark,
    curve_panel,
    forest,
    mean_curve,
    place_labels,
    scatter,
)


def test_an_axis_is_linear_between_its_first_and_last_mark() -> None:
    x = Axis([1.0, 2.0, 3.0], 50, 250)
    assert [x(1.0), x(2.5), x(3.0), x(4.0)] == [50, 200, 250, 350]


def test_points_lie_where_their_values_are() -> None:
    """Right and up are higher; each keeps its tooltip; the front runs from dot to dot."""
    marks = [
        Mark("low & left", "line-1", (0.0, 0.2)),
        Mark("high", "line-2", (1.0, 0.4), "a <note>", Ellipse((1.0, 0.4), (9.0, 0.01), 0.0)),
    ]
    svg = scatter(marks, [(0.0, 0.2), (1.0, 0.4)], ("DINO", "CLIP-T"), 400, 300, "p")
    root = ElementTree.fromstring(svg)
    dots = [(float(c.get("cx")), float(c.get("cy"))) for c in root.iter("circle")]  # type: ignore[arg-type]
    ticks = {
        float(t.text.replace("−", "-")): t  # type: ignore[union-attr]
        for t in root.iter("text")
        if re.fullmatch(r"−?[\d.]+", t.text or "")
    }
    # an ellipse far wider than the points are apart widens the axis by the points' own span alone
    assert max(ticks) == 2.0
    assert dots[0][0] < dots[1][0] < 388
    assert dots[0][1] > dots[1][1]
    assert {t.text for t in root.iter("title")} == {"low & left", "a <note>"}
    assert 'class="front" points="' + " ".join(f"{x},{y}" for x, y in dots) + '"' in svg


def test_names_keep_off_dots_and_each_other() -> None:
    dots = [(100.0, 100.0), (112.0, 100.0), (112.0, 112.0), (290.0, 50.0)]
    names = ["first", "second", "third", "at the edge"]
    places = place_labels(names, dots, (0, 0, 300, 200))
    boxes = [
        (x, y - 11, x + 6.7 * len(name), y + 4) for name, (x, y) in zip(names, places, strict=True)
    ]
    for k, box in enumerate(boxes):
        assert box[0] >= 0
        assert box[2] <= 300
        for other in boxes[:k]:
            apart = box[2] <= other[0] or other[2] <= box[0]
            assert apart or box[3] <= other[1] or other[3] <= box[1]
        for cx, cy in dots:
            assert not (box[0] < cx < box[2] and box[1] < cy < box[3])


def test_the_mean_of_curves_is_over_the_steps_that_most_have() -> None:
    curves = [[(0, 1.0), (40, 2.0)], [(0, 2.0), (40, 4.0), (80, 9.0)], [(0, 3.0)]]
    assert mean_curve(curves) == [(0, 2.0), (40, 3.0)]
    assert mean_curve([]) == []


def test_a_panel_of_curves() -> None:
    bundle = Bundle("RPO", "line-0", [[(0, 0.5), (40, 1.0)]], [(0, 0.5), (40, 1.0)], [(40, 1.0)])
    root = ElementTree.fromstring(curve_panel(bundle, [0.0, 1.0], 40, (146, 142)))
    lines = {line.get("class"): line.get("points") for line in root.iter("polyline")}
    # x from 38 to 138 px, y from 108 down to 8
    assert lines == {"thin": "38.0,58.0 138.0,8.0", "mean": "38.0,58.0 138.0,8.0"}
    (dot,) = root.iter("circle")
    assert (dot.get("cx"), dot.get("cy")) == ("138.0", "8.0")


def test_intervals_lie_about_zero() -> None:
    """From -0.1 to +0.1 over 26 to 226 px: 0 is at 126, 0.05 at 176."""
    rows = [("1", Interval(0.05, 0.0, 0.1, 4), "is-for"), ("2", None, "is-open")]
    root = ElementTree.fromstring(forest(rows, 240, 0.1, "DINO"))
    (dot,) = root.iter("circle")
    assert dot.get("cx") == "176.0"
    (whisker,) = [line for line in root.iter("line") if line.get("class") is None]
    assert (whisker.get("x1"), whisker.get("x2")) == ("126.0", "226.0")
    (zero,) = [line for line in root.iter("line") if line.get("class") == "zero"]
    assert zero.get("x1") == "126.0"
