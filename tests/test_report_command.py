"""`rpo report`: the files it writes, that its page stands alone, and what it refuses."""

from __future__ import annotations

import base64
import csv
import json
import re
from pathlib import Path

import pytest
from results_folders import draw, write_results
from test_report import Checker, make_run

from rpo.bench.suite import read_suite, to_toml
from rpo.cli import run

SUITE = """
title = "A <small> suite"
subjects = "emojiland"
names = ["cat", "dog", "vase"]
seeds = [0]
[rows.base]
[rows.rpo]
method = "rpo"
choose = ["best", "last"]
[tables.table-2]
title = "Parts (Table 2)"
lines = ["rpo:last", "rpo:best"]
[tables.my-own]
title = "Mine | yours"
lines = ["base", "rpo:best"]
"""


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return write_results(tmp_path / "results", ("cat", "dog"), (0,), ("base", "rpo", "similarity"))


def add_suite(results: Path, text: str = SUITE) -> None:
    file = results / "suite.toml"
    file.write_text(text, encoding="utf-8")
    file.write_text(to_toml(read_suite(file)), encoding="utf-8")


def told(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


def test_everything_is_written(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", str(results)]) == 0
    place = results / "report"
    assert capsys.readouterr().out == f"{place / 'report.html'}\n"
    names = {file.name for file in place.iterdir()}
    assert {"report.html", "tables.md", "claims.csv", "everything.csv", "skills.csv"} <= names
    assert {"table-1.csv", "table-2.csv", "table-2-differences.csv"} <= names
    assert "table-6.csv" not in names
    head, *rows = csv.reader((place / "table-2.csv").read_text(encoding="utf-8").splitlines())
    assert head[:3] == ["", "method", "DINO ↑"]
    assert [row[0] for row in rows] == [
        "L_sim alone",
        "without early stopping",
        "early stopping without L_pref",
        "RPO",
    ]
    markdown = (place / "tables.md").read_text(encoding="utf-8")
    assert "- Not measured: Table 6 needs RPO with reward.mean = arithmetic and with" in markdown
    assert "- judges: dino emojiland/dino (d1d1d1d1d1); clip emojiland/clip" in markdown
    assert run(["report", str(results)]) == 0  # its own files it replaces


def test_the_page_stands_alone(results: Path) -> None:
    assert run(["report", str(results), "--subjects", "emojiland"]) == 0
    html = (results / "report" / "report.html").read_text(encoding="utf-8")
    page = Checker()
    page.feed(html)
    assert page.open == []
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert all(source.startswith("data:image/") for source in page.sources)
    # a row a subject of photo and five lines; five skills of two subjects: photo and three lines
    assert page.tags.count("img") == 2 * (1 + 5) + 5 * 2 * (1 + 3)
    assert html.count('class="region"') == 0  # of two subjects there is no ellipse
    ids = re.findall(r'id="([^"]+)"', html)
    assert len(ids) == len(set(ids)) > 0


def test_a_suite_names_tables_and_what_is_missing(results: Path) -> None:
    add_suite(results)
    assert run(["report", str(results)]) == 0
    html = (results / "report" / "report.html").read_text(encoding="utf-8")
    assert "<h1>A &lt;small&gt; suite</h1>" in html
    assert "<dt>Not done yet</dt><dd>2</dd>" in html  # vase by base and by rpo
    markdown = (results / "report" / "tables.md").read_text(encoding="utf-8")
    second = markdown.split("## Parts (Table 2)\n")[1].split("\n## ")[0]
    assert re.findall(r"^\| ([^|]+) \| ([^|]+) \|", second, re.M)[1:] == [
        ("without early stopping", "RPO, last step"),
        ("RPO", "RPO"),
    ]
    assert "## Mine \\| yours" in markdown
    assert "- backbone: emojiland; dpm++, 20 steps, guidance 5" in second
    assert (results / "report" / "my-own.csv").is_file()
    assert html.count("data:image/jpeg") > 0  # photos of Emojiland's own subjects


def test_a_table_cannot_choose_its_place(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_suite(results, SUITE.replace("my-own", '"../../x"'))
    assert run(["report", str(results)]) == 2
    assert "tables.../../x: name it by letters" in told(capsys)
    assert not (results / "report").exists()


def test_a_strangers_words_are_shown_and_no_more(results: Path) -> None:
    evil = '<script>alert(1)</script>"|\x1b[31m\n# [x](http://y)'
    file = next((results / "jobs").glob("rpo.*.json"))
    text = file.read_text(encoding="utf-8")
    record = json.loads(text)
    for part in (record, *record["judged"]):
        part["title"] = evil
    record["subject"]["noun"] = evil
    record["model"] = evil
    record["judges"]["dino"]["name"] = evil
    record["protocol"][evil] = evil
    record["provenance"] = {evil: {evil: [evil]}}
    for judged in record["judged"]:
        for picture in judged["pictures"]:
            picture["skill"] = picture["template"] = evil if picture["prompt"] else ""
    file.write_text(json.dumps(record), encoding="utf-8")
    assert run(["report", str(results)]) == 0
    html = (results / "report" / "report.html").read_text(encoding="utf-8")
    page = Checker()
    page.feed(html)
    assert "<script" not in html
    assert page.open == []
    assert "\x1b" not in html
    assert all(source.startswith("data:image/") for source in page.sources)
    markdown = (results / "report" / "tables.md").read_text(encoding="utf-8")
    assert "<script" not in markdown.replace("\\<script", "")
    assert "](" not in markdown.replace("\\](", "")
    assert "\x1b" not in markdown


def test_no_picture_from_elsewhere_is_shown(results: Path, tmp_path: Path) -> None:
    secret = draw("secret", 9, 1.0)
    (tmp_path / "secret").mkdir()
    for number in range(1, 7):
        secret.save(tmp_path / "secret" / f"{number:02d}-1.png")
    files = sorted((results / "jobs").glob("*.json"))
    for file, way in zip(
        files, ("../secret", str(tmp_path / "secret"), "link", "\0"), strict=False
    ):
        record = json.loads(file.read_text(encoding="utf-8"))
        for judged in record["judged"]:
            judged["folder"] = way
        file.write_text(json.dumps(record), encoding="utf-8")
    (results / "link").symlink_to(tmp_path / "secret")
    assert run(["report", str(results)]) == 0
    html = (results / "report" / "report.html").read_text(encoding="utf-8")
    data = base64.b64encode((tmp_path / "secret" / "01-1.png").read_bytes()).decode()
    assert data not in html
    assert html.count('class="blank"') > 0


def test_other_files_are_left_alone(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "report.html").write_text("mine")
    assert run(["report", str(results), "--out", str(mine)]) == 2
    assert "mine: holds other files; name a new folder by --out" in told(capsys)
    assert (mine / "report.html").read_text() == "mine"
    assert run(["report", str(results), "--out", str(mine / "report.html")]) == 2
    assert "a file where the report belongs" in told(capsys)
    assert run(["report", str(results), "--out", str(tmp_path / "new")]) == 0
    assert not (results / "report").exists()
    (results / "report").symlink_to(mine)
    assert run(["report", str(results)]) == 2
    assert "symbolic link" in told(capsys)


def test_what_is_neither_results_nor_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["report", str(tmp_path)]) == 2
    assert "neither a results folder, which has jobs/, nor a run" in told(capsys)
    (tmp_path / "jobs").mkdir()
    assert run(["report", str(tmp_path)]) == 2
    assert "nothing in it is done and judged" in told(capsys)
    assert [entry.name for entry in tmp_path.iterdir()] == ["jobs"]


def test_a_run_is_told_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path, {0: 0.5, 40: 0.7}, best=40)
    assert run(["report", str(folder.path)]) == 0
    assert capsys.readouterr().out == f"{folder.path / 'report.html'}\n"
    assert "The weights of step 40 scored best" in (folder.path / "report.html").read_text("utf-8")
    assert run(["report", str(folder.path), "--out", str(tmp_path / "x")]) == 2
    assert "whose report lies in it; leave the flag out" in told(capsys)
