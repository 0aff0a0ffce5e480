"""A suite done in pieces, its held-out subjects, and what a table of its own is about."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from test_bench_report import put

from rpo.bench.order import make_orders
from rpo.bench.records import Choice, read_result, write_result
from rpo.bench.report.figures import lines_side_by_side
from rpo.bench.report.measured import read
from rpo.bench.report.page import report_on, to_page_markdown
from rpo.bench.report.paper import in_order
from rpo.bench.report.training import training_table
from rpo.bench.suite import BenchSuite, find_suite, read_suite, to_toml
from rpo.bench.union import union
from rpo.cli import commands
from rpo.config import read_toml
from rpo.errors import UserError
from rpo.report.tables import cell_text, to_markdown

ROOT = Path(__file__).parent.parent
SWEEP = ROOT / "benchmarks" / "sweep.toml"
DEVELOPMENT = ("dog3", "duck_toy", "teapot")
SUITE = """
subjects = "emojiland"
names = ["cat", "dog3", "vase"]
development = ["dog3"]
[rows.base]
[rows.rpo]
method = "rpo"
[rows.online]
method = "online"
[tables.mine]
title = "Mine"
lines = ["base", "rpo:best", "online:best"]
first = "online:best"
"""


def written(folder: Path, text: str = SUITE) -> Path:
    file = folder / "mine.toml"
    file.write_text(text, encoding="utf-8")
    return file


def spelled_out(suite: BenchSuite, folder: Path) -> Path:
    file = folder / "suite.toml"
    file.write_text(to_toml(suite), encoding="utf-8")
    return file


def ids(suite: BenchSuite) -> list[str]:
    return [order.job.id for order in make_orders(suite, Path("x"))]


def test_flags_choose_rows_names_and_seeds(tmp_path: Path) -> None:
    suite = read_suite(written(tmp_path), rows=["rpo"], names=["vase", "dog3"], seeds=[7, 2])
    assert ids(suite) == ["rpo.vase.7", "rpo.dog3.7", "rpo.vase.2", "rpo.dog3.2"]
    held_out = read_suite(written(tmp_path), rows=["rpo"], held_out=True)
    assert ids(held_out) == ["rpo.cat.0", "rpo.vase.0"]


def test_a_folder_is_completed_in_pieces_and_keeps_whole_tables(tmp_path: Path) -> None:
    """Each piece is read back from the folder, as every session does."""
    file = written(tmp_path)
    first = read_suite(file, rows=["online"], held_out=True)
    again = read_suite(spelled_out(first, tmp_path))
    assert again == first
    both = union(again, read_suite(file, rows=["base"], names=["dog3"], seeds=[5]), tmp_path)
    found = read_suite(spelled_out(both, tmp_path))
    assert [row.name for row in found.rows] == ["online", "base"]
    assert [entry.name for entry in found.entries] == ["cat", "vase", "dog3"]
    assert found.seeds == (0, 5)
    assert found.development == ("dog3",)
    assert found.tables["mine"]["lines"] == ["base", "rpo:best", "online:best"]  # in its order
    # and no job is missing that nobody asked for
    assert sorted(ids(found)) == ["base.dog3.5", "online.cat.0", "online.vase.0"]
    assert len(found) == 3


def test_what_was_asked_for_twice_is_one_piece(tmp_path: Path) -> None:
    file = written(tmp_path)
    small = read_suite(file, rows=["rpo"], names=["cat"])
    turned = read_suite(file, rows=["rpo"], names=["vase", "cat"])
    again = read_suite(file, rows=["rpo"], names=["cat", "vase"])
    assert union(small, small, tmp_path).pieces == ()
    more = union(small, turned, tmp_path)
    assert (more.pieces, len(more)) == ((), 2)  # the first lies within the second
    both = union(union(more, read_suite(file, rows=["base"]), tmp_path), again, tmp_path)
    assert len(both) == 2 + 3
    whole = read_suite(file)
    assert union(both, whole, tmp_path).pieces == ()
    assert len(union(both, whole, tmp_path)) == len(whole) == 9


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('first = "online:best"', 'first = "rpo:last"', "first 'rpo:last' is none of its lines"),
        ('first = "online', 'frist = "online', "unknown key tables.mine.frist; did you mean first"),
        ('development = ["dog3"]', "", "--held-out: .*mine.toml has no list `development`"),
        (
            'development = ["dog3"]',
            'development = ["cat", "vase", "dog3"]',
            "--held-out: settings were chosen on all these subjects; name others",
        ),
    ],
)
def test_a_mistake_is_told_in_one_line(tmp_path: Path, old: str, new: str, told: str) -> None:
    with pytest.raises(UserError, match=told) as error:
        read_suite(written(tmp_path, SUITE.replace(old, new)), held_out=True)
    assert "\n" not in str(error.value)


def test_a_damaged_list_of_subjects_is_told(tmp_path: Path) -> None:
    file = spelled_out(read_suite(written(tmp_path)), tmp_path)
    file.write_text(file.read_text(encoding="utf-8").replace('kind = "live"', "", 1))
    with pytest.raises(UserError, match=r"suite.toml: listed.cat lacks kind; add it"):
        read_suite(file)


def test_the_command_has_these_flags(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[BenchSuite] = []
    monkeypatch.setattr("rpo.cli.bench._run", lambda suite, *rest: asked.append(suite))
    words = ["bench", str(written(tmp_path)), "--held-out", "--seed", "3", "--seed", "4"]
    assert commands.run([*words, "--row", "online"]) == 0
    assert ids(asked[0]) == ["online.cat.3", "online.vase.3", "online.cat.4", "online.vase.4"]
    assert commands.run([*words, "--name", "dog3"]) == 2
    assert "--held-out: settings were chosen" in capsys.readouterr().err


# --- the suites that there are -----------------------------------------------------------


def test_emojilands_suite_has_the_evidence() -> None:
    """At least twelve held-out subjects by three seeds, and each table's lines."""
    rows = ["base", "similarity", "dreambooth", "rpo", "online"]
    suite = read_suite(find_suite("emojiland"), held_out=True, rows=rows, seeds=[0, 1, 2])
    names = {entry.name for entry in suite.entries}
    assert len(names) == 27
    assert not names & set(DEVELOPMENT)
    assert len(suite) == 27 * 5 * 3
    assert {"online:best", "similarity:best", "similarity:last"} <= {
        *suite.tables["table-1"]["lines"]
    }
    assert suite.tables["online"]["first"] == "online:best"
    methods = read_suite(find_suite("methods"))
    assert tuple(entry.name for entry in methods.entries) == DEVELOPMENT == suite.development


def test_the_sweep_is_on_the_development_subjects() -> None:
    for small, jobs in ((False, 39), (True, 13)):
        suite = read_suite(SWEEP, small=small)
        assert len(ids(suite)) == jobs
        assert {entry.name for entry in suite.entries} <= set(DEVELOPMENT)
    lines = {line for table in suite.tables.values() for line in table["lines"]}
    assert {line.partition(":")[0] for line in lines} == set(read_toml(SWEEP)["rows"])
    rates = {row.name: row.config.training.learning_rate for row in suite.rows}
    assert (rates["beta-1"], rates["similarity-1e-3"], rates["lora"]) == (1e-4, 1e-3, 1e-4)


# --- what the report makes of it ---------------------------------------------------------


def test_subjects_on_which_settings_were_chosen_are_in_no_figure(tmp_path: Path) -> None:
    spelled_out(read_suite(written(tmp_path)), tmp_path)
    for subject, value in (("cat", 0.25), ("vase", 0.5), ("dog3", 0.9)):
        put(tmp_path, "rpo", subject, 0, {"best": value})
    results = read(tmp_path)
    (group,) = results.groups
    assert set(group.lines["rpo:best"].cells) == {("cat", 0), ("vase", 0)}
    assert (results.done, results.aside) == (3, {"dog3"})
    text = to_page_markdown(results, [report_on(group, results.suite)])
    assert "In no figure: dog3, on which settings were chosen." in text
    for file in (tmp_path / "jobs").glob("rpo.*"):
        if "dog3" not in file.name:
            file.unlink()
    with pytest.raises(UserError, match="done and judged but dog3, on which settings were"):
        read(tmp_path)


def test_a_table_is_about_the_line_that_its_suite_says(tmp_path: Path) -> None:
    """Online .6 less base .1 and RPO .4: +0.5, +0.2."""
    spelled_out(read_suite(written(tmp_path)), tmp_path)
    for subject in ("cat", "vase"):
        put(tmp_path, "base", subject, 0, {"untrained": 0.1})
        put(tmp_path, "rpo", subject, 0, {"best": 0.4})
        put(tmp_path, "online", subject, 0, {"best": 0.6})
    results = read(tmp_path)
    report = report_on(results.groups[0], results.suite)
    table, gaps = next(pair for pair in report.paper if pair[0].name == "mine")
    assert [row.chosen for row in table.rows] == [False, False, True]
    assert gaps is not None
    told = [(row.values[0], cell_text(row.values[1], "+.3f")) for row in gaps.rows]
    assert told == [
        ("ONLINE best − BASE untrained", "+0.500 [+0.500, +0.500]"),
        ("ONLINE best − RPO best", "+0.200 [+0.200, +0.200]"),
    ]
    # before online is done, the table is about RPO
    for file in (tmp_path / "jobs").glob("online.*"):
        file.unlink()
    results = read(tmp_path)
    report = report_on(results.groups[0], results.suite)
    _, gaps = next(pair for pair in report.paper if pair[0].name == "mine")
    assert gaps is not None
    assert [row.values[0] for row in gaps.rows] == ["RPO best − BASE untrained"]


def test_pictures_of_one_row_stand_beside_others_once(tmp_path: Path) -> None:
    choices: tuple[Choice, ...] = ("best", "last")
    for row in ("rpo", "online", "dreambooth", "similarity", "dpo", "disenbooth"):
        put(tmp_path, row, "cat", 0, dict.fromkeys(choices, 0.5))
    put(tmp_path, "base", "cat", 0, {"untrained": 0.1})
    (group,) = read(tmp_path).groups
    for line in group.lines.values():
        line.cells = {place: replace(cell, folder="x") for place, cell in line.cells.items()}
    group = replace(group, lines={line.key: line for line in in_order(group.lines.values())})
    assert [line.key for line in lines_side_by_side(group)] == [
        *("base", "dreambooth:last", "similarity:last", "online:last", "rpo:best"),
    ]


def test_what_the_trainings_said(tmp_path: Path) -> None:
    """Two jobs: p .4 and .6, highest rewards .7 at 40 and .9 at 80."""
    curves = (((0.0, 0.5, 0, 0), (40.0, 0.7, 0, 0)), ((0.0, 0.2, 0, 0), (80.0, 0.9, 0, 0)))
    for subject, p, curve in zip(("cat", "dog"), (0.4, 0.6), curves, strict=True):
        put(tmp_path, "rpo", subject, 0, {"last": 0.5, "best": 0.5}, curve=curve)
        result = read_result(tmp_path / "jobs" / f"rpo.{subject}.0.json")
        said = {"label_mean_probability": p, "last_margin": 10 * p}
        write_result(tmp_path, replace(result, figures=said))
        put(tmp_path, "similarity", subject, 0, {"last": 0.5}, curve=curve)
    put(tmp_path, "base", "cat", 0, {"untrained": 0.1})
    (group,) = read(tmp_path).groups
    table = training_table(group)
    assert table is not None
    told = to_markdown(table).splitlines()
    assert "| RPO best | 0.50 | 5.00 | 0.800 | 60 | 2 |" in told
    assert "| SIMILARITY last | – | – | 0.800 | 60 | 2 |" in told
    assert not [line for line in told if "BASE" in line]
    group.lines = {"base": group.lines["base"]}
    assert training_table(group) is None
