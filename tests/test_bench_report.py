"""bench/report: what is averaged over what, which line is what, verdicts; figures by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rpo.bench.records import Choice, Job, JobResult, Judged, write_result
from rpo.bench.report.measured import (
    Group,
    difference,
    figure,
    photo_figures,
    read,
    shared_places,
)
from rpo.bench.report.page import report_on, to_page_markdown
from rpo.bench.report.paper import best_lines, find_headline, in_order, is_method, tables_of
from rpo.bench.report.story import findings, verdict_of
from rpo.errors import UserError
from rpo.evaluation.scoring import Row
from rpo.evaluation.statistics import Interval
from rpo.report.tables import to_markdown

JUDGES = {"clip": {"name": "c", "sha256": {"w": "ab" * 32}, "preprocessing": {}}}


def put(
    folder: Path,
    row: str,
    subject: str,
    seed: int,
    figures: dict[Choice, float],
    settings: dict[str, Any] | None = None,
    **changes: Any,
) -> None:
    """A job whose every figure is the one number given for its judged step."""
    method = "" if "untrained" in figures else changes.pop("method", row)
    model = changes.pop("model", "emojiland")
    job = Job(
        f"{row}.{subject}.{seed}",
        row,
        row.upper(),
        subject,
        "cat",
        "live",
        seed,
        method,
        model,
        settings or {},
        tuple(figures),
    )
    judged = tuple(
        Judged(
            choice,
            f"{row.upper()} {choice}",
            40,
            "",
            (Row(subject, 1, 1, "a red {}", "colour", {"dino": v}),),
            dict.fromkeys(("dino", "clip_i", "clip_t", "harmonic"), v),
        )
        for choice, v in figures.items()
    )
    result = JobResult(
        job, "done", judged=judged, judges=JUDGES, protocol={"lambda": 0.5}, photos={"dino": 0.75}
    )
    write_result(folder, replace(result, **changes))


def only_group(folder: Path) -> Group:
    (group,) = read(folder).groups
    return group


def test_seeds_are_averaged_before_subjects(tmp_path: Path) -> None:
    """Subject a has two seeds, .2 and .4, b one, .9: (0.3 + 0.9) / 2 = 0.6 and not 0.5."""
    put(tmp_path, "rpo", "a", 0, {"best": 0.2})
    put(tmp_path, "rpo", "a", 1, {"best": 0.4})
    put(tmp_path, "rpo", "b", 0, {"best": 0.9})
    group = only_group(tmp_path)
    line = group.lines["rpo:best"]
    found = figure(line, "dino", line.cells)
    assert isinstance(found, Interval)
    assert (found.mean, found.n) == (pytest.approx(0.6), 2)
    assert figure(line, "dino", [("b", 0)]) == 0.9
    assert figure(line, "aesthetic", line.cells) is None
    oracle = photo_figures(group, line.cells)["dino"]
    assert isinstance(oracle, Interval)
    assert oracle.mean == 0.75


def test_differences_are_of_what_both_have_done(tmp_path: Path) -> None:
    """a: mean of (.5 - .4, .7 - .4) = .2; b: .6 - .2 = .4; c has no rival: (.2 + .4) / 2."""
    for seed, value in ((0, 0.5), (1, 0.7)):
        put(tmp_path, "rpo", "a", seed, {"best": value})
        put(tmp_path, "dpo", "a", seed, {"last": 0.4})
    put(tmp_path, "rpo", "b", 0, {"best": 0.6})
    put(tmp_path, "rpo", "b", 1, {"best": 0.0})
    put(tmp_path, "dpo", "b", 0, {"last": 0.2})
    put(tmp_path, "rpo", "c", 0, {"best": 0.9})
    lines = only_group(tmp_path).lines
    found = difference(lines["rpo:best"], lines["dpo:last"], "dino")
    assert isinstance(found, Interval)
    assert (found.mean, found.low, found.high) == pytest.approx((0.3, 0.2, 0.4))
    assert shared_places(lines.values()) == {("a", 0), ("a", 1), ("b", 0)}


def test_a_table_leaves_out_for_all_what_one_row_lacks(tmp_path: Path) -> None:
    for subject, value in (("a", 0.25), ("b", 0.5), ("c", 1.0)):
        put(tmp_path, "rpo", subject, 0, {"best": value})
        failed = {"status": "failed", "error": "no memory", "judged": ()} if subject == "c" else {}
        put(tmp_path, "dreambooth", subject, 0, {"last": value / 2}, **failed)
    results = read(tmp_path)
    report = report_on(results.groups[0])
    (table, gaps), *_ = report.paper
    text = to_markdown(table)
    assert "| RPO best | 0.375 [0.250, 0.500]" in text  # and not the mean with c, 0.583
    assert "| DREAMBOOTH last | 0.188 [0.125, 0.250]" in text
    assert "| 2, 1 failed | .668 / .803 / .305, SD 1.5 |" in text
    assert "- Left out of the means: c, seed 0, for want of DREAMBOOTH last (failed)" in text
    assert "- n: 2 subjects, 2 of subject and seed" in text
    assert gaps is not None
    assert "| RPO best − DREAMBOOTH last | +0.188 [+0.125, +0.250]" in to_markdown(gaps)
    page = to_page_markdown(results, [report])
    assert "- DREAMBOOTH, c, seed 0: no memory" in page
    assert "| RPO best | rpo:best | 3 | 3 | 0.583" in page  # all that it has, as it says


def test_lines_are_known_by_their_settings(tmp_path: Path) -> None:
    put(tmp_path, "x", "a", 0, {"best": 0.1, "last": 0.2}, method="rpo")
    put(tmp_path, "y", "a", 0, {"best": 0.3}, {"reward.mean": "arithmetic"}, method="rpo")
    put(tmp_path, "z", "a", 0, {"best": 0.3}, {"reward.lambda_val": 0.3}, method="rpo")
    put(tmp_path, "s", "a", 0, {"best": 0.1, "last": 0.2}, method="similarity")
    put(tmp_path, "t", "a", 0, {"last": 0.2}, {"training.preference_weight": 0.0}, method="rpo")
    put(tmp_path, "base", "a", 0, {"untrained": 0.2})
    group = only_group(tmp_path)
    lines = group.lines
    assert find_headline(lines.values()) is lines["x:best"]
    methods = [key for key, line in lines.items() if is_method(line)]
    assert methods == ["base", "s:last", "t:last", "x:best", "z:best"]
    ordered = [line.key for line in in_order(lines.values())]
    assert ordered[0] == "base"
    assert ordered[-4:] == ["z:best", "x:last", "x:best", "y:best"]
    rows = {table.name: [line.key for _, line in table.rows(group)] for table in tables_of(None)}
    assert rows["table-2"] == ["s:last", "t:last", "x:last", "s:best", "x:best"]
    assert rows["table-3"] == ["z:best", "x:best"]
    assert rows["table-6"] == ["y:best", "x:best"]
    assert rows["table-8"] == []


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        (Interval(0.2, 0.1, 0.3, 6), "supported"),
        (Interval(0.2, 0.1, 0.3, 5), "too few subjects"),
        (Interval(0.1, 0.0, 0.2, 9), "not told apart"),
        (Interval(0.1, -0.1, 0.3, 9), "not told apart"),
        (Interval(-0.2, -0.3, -0.1, 9), "contradicted"),
        (0.4, "too few subjects"),
        (None, "not measured"),
    ],
)
def test_verdicts(value: Any, verdict: str) -> None:
    assert verdict_of(value) == verdict


def test_the_story(tmp_path: Path) -> None:
    for place, subject in enumerate("abcdef"):
        put(tmp_path, "rpo", subject, 0, {"best": 0.5 + place / 100, "last": 0.3})
        put(tmp_path, "similarity", subject, 0, {"best": 0.6})
        put(
            tmp_path,
            "dreambooth",
            subject,
            0,
            {"last": 0.5 + (place - 2.5) / 10},
            seconds={"total": 60.0},
        )
    told = findings(only_group(tmp_path))
    verdicts = {finding.claim.name: finding.verdict for finding in told}
    assert verdicts == {
        "early-stopping": "supported",  # +.20, +.21 … +.25
        "preference-loss": "contradicted",  # -.10, -.09 … -.05
        "harmonic-mean": "not measured",
        "dreambooth": "not told apart",  # +.25, +.16, +.07, -.02, -.11, -.20
    }
    assert told[0].measured.startswith(
        "RPO best less RPO last, 6 subjects, seeds 0: λ-harmonic +0.225 [+0.2"
    )
    assert "Of only 6 subjects the intervals are too narrow." in told[0].measured
    assert told[2].measured == (
        "Not measured: it needs RPO with reward.mean = arithmetic on the same subjects."
    )


def test_the_best_of_a_column_and_what_is_not_told_apart_from_it(tmp_path: Path) -> None:
    """dpo trails rpo by .1 / 6 in the mean, now more, now less; similarity by .3 throughout."""
    for subject, gap in zip("abcdef", (0.1, -0.1, 0.2, -0.1, 0.1, -0.1), strict=True):
        put(tmp_path, "rpo", subject, 0, {"best": 0.8})
        put(tmp_path, "dpo", subject, 0, {"last": 0.8 - gap})
        put(tmp_path, "similarity", subject, 0, {"last": 0.5})
    lines = list(only_group(tmp_path).lines.values())
    assert best_lines(lines, "dino", shared_places(lines)) == {"rpo:best", "dpo:last"}
    assert best_lines(lines, "dino", [(subject, 0) for subject in "abcde"]) == set()


def test_given_pictures_join_the_group_of_their_judges(tmp_path: Path) -> None:
    put(tmp_path, "rpo", "a", 0, {"best": 0.5})
    put(tmp_path, "ip-adapter", "a", 0, {"untrained": 0.4}, model="")
    assert set(only_group(tmp_path).lines) == {"rpo:best", "ip-adapter"}
    put(tmp_path, "other", "a", 0, {"best": 0.5}, model="sd15", method="rpo")
    groups = read(tmp_path).groups
    assert [(g.model, sorted(g.lines)) for g in groups] == [
        ("sd15", ["ip-adapter", "other:best"]),
        ("emojiland", ["ip-adapter", "rpo:best"]),
    ]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"curve": ((0.0, 1.0),)}, "curve must be of step, reward"),
        ({"photos": {"dino": 1e200}}, "no figure can be above"),
        ({"judges": {"clip": {"sha256": [1]}}}, "judges.clip.sha256 must be a table"),
        ({"judges": {"clip": {"preprocessing": {"resample": "x"}}}}, "resample must be one of PIL"),
    ],
)
def test_damage_is_named(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    put(tmp_path, "rpo", "a", 0, {"best": 0.5}, **changes)
    with pytest.raises(UserError, match=rf"rpo\.a\.0\.json: damaged \(.*{told}.*; delete it"):
        read(tmp_path)


def test_nothing_done_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing in it is done and judged; run `rpo bench` first"):
        read(tmp_path)
    put(tmp_path, "rpo", "a", 0, {"best": 0.5}, status="failed", error="no memory", judged=())
    with pytest.raises(UserError, match="the first that failed: no memory"):
        read(tmp_path)
