"""Results of `rpo bench` and `rpo evaluate` on the page: found, read apart, shown as text."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from app_home import ask, make_run
from results_folders import write_results

pytest.importorskip("gradio")

import gradio as gr

from rpo.app import pieces
from rpo.app.desk import Desk
from rpo.app.figures import read_figures
from rpo.app.home import Home
from rpo.app.jobs import Queue
from rpo.app.results import Results
from rpo.app.server import make_app
from rpo.bench.report.write import write_report
from rpo.errors import UserError
from rpo.evaluation.file import read_evaluation

SECRET = "the secret of another folder"
JUDGE = {"name": "c", "sha256": {"w": "ab" * 32}, "preprocessing": {}}


def evaluation(**changes: Any) -> dict[str, Any]:
    """The content of an evaluation.json of one run of one subject."""
    system = {
        "name": "dog-1",
        "run": "dog-1",
        "method": "rpo",
        "weights": "lora",
        "step": 40,
        "model": "emojiland",
        "drawing": {"scheduler": "ddim", "steps": 20, "guidance_scale": 5.0, "resolution": 64},
        "judged": "a dog",
        "drawn": "a [V] dog",
        "seeds": "0",
        "images_per_prompt": 1,
        "subjects": {"rex": {"dino": 0.5}},
        "pictures": [{"prompt": 1}, {"prompt": 2}, {"prompt": 0}],
        "overall": {
            "dino": {"mean": 0.5, "low": 0.25, "high": 0.75, "n": 2},
            "clip_i": {"mean": 0.125, "low": None, "high": None, "n": 1},
        },
        "photos": {"dino": 0.875},
        "missing": [],
        **changes,
    }
    return {
        "systems": [system],
        "together": [],
        "differences": [],
        "judges": {"clip": JUDGE, "dino": JUDGE},
        "gallery": [{}],
        "protocol": {"photos": "squares", "lambda": 0.5, "interval": "95 %"},
    }


def write_evaluation(folder: Path, content: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "evaluation.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home.at(tmp_path / "runs")
    make_run(home.root, "dog-1", finished=True)
    return home


def test_results_are_found_where_the_commands_leave_them(home: Home) -> None:
    write_evaluation(home.root / "evaluations" / "dog-1-1", evaluation())
    write_evaluation(home.root / "judged", evaluation())
    (home.root / "results" / "emojiland" / "jobs").mkdir(parents=True)
    (home.root / "evaluations" / "empty").mkdir()
    expected = {"evaluations/dog-1-1", "judged", "results/emojiland"}
    assert set(home.results()) == expected
    for age, name in enumerate(sorted(expected)):
        os.utime(home.root / name, (age, age))
    assert list(home.results()) == sorted(expected, reverse=True)  # the newest first
    assert home.result("judged") == home.root / "judged"


@pytest.mark.parametrize("name", ["..", "dog-1", "elsewhere", "evaluations", "/etc", "", None, 7])
def test_no_name_leads_elsewhere(home: Home, tmp_path: Path, name: Any) -> None:
    outside = write_evaluation(tmp_path / "outside", evaluation())
    (home.root / "elsewhere").symlink_to(outside)
    (home.root / "results").symlink_to(tmp_path)  # outside/ would be in it
    (home.root / "linked").mkdir()
    (home.root / "linked" / "evaluation.json").symlink_to(outside / "evaluation.json")
    assert home.results() == {}
    with pytest.raises(UserError, match="no results of this folder"):
        home.result(name)


def test_the_figures_of_an_evaluation(home: Home) -> None:
    (table,) = read_figures(write_evaluation(home.root / "e", evaluation()))["tables"]
    assert table["title"] == "dog-1: rex, 2 pictures"
    assert table["rows"] == [
        ["DINO ↑", "0.500 [0.250, 0.750]", "2", "0.875"],
        ["CLIP-I ↑", "0.125", "1", "–"],
    ]
    assert (
        "backbone: emojiland; rpo (lora), step 40; ddim, 20 steps, guidance 5, 64 pixels"
        in (table["about"])
    )
    shown = pieces.table(table, True)
    assert "0.500<small>[0.250, 0.750]</small>" in shown
    assert "<details open>" in shown


def test_the_figures_of_a_benchmark_and_its_report(home: Home, tmp_path: Path) -> None:
    write_results(home.root / "bench", pictures=False)
    found = read_figures(home.root / "bench")
    titles = [table["title"] for table in found["tables"]]
    assert any(title.startswith("Table 1") for title in titles)
    assert "Everything that was measured" in titles
    assert titles[-1] == "The claims' paired differences"
    app, desk = make_app(home, "127.0.0.1", 7860)
    try:
        assert ask(app, "/rpo/results/bench").status == 404  # nobody made it yet
        write_report(home.root / "bench")
        reply = ask(app, "/rpo/results/bench")
        assert b"<h1>" in reply.body
        assert reply.headers["content-security-policy"].endswith("sandbox")
        page = home.root / "bench" / "report" / "report.html"
        (tmp_path / "secret").write_text(SECRET)
        page.unlink()
        page.symlink_to(tmp_path / "secret")
        assert ask(app, "/rpo/results/bench").status == 404
        shutil.move(home.root / "bench" / "report", tmp_path / "report")
        (tmp_path / "report" / "report.html").unlink()
        (tmp_path / "report" / "report.html").write_text(SECRET)
        (home.root / "bench" / "report").symlink_to(tmp_path / "report")
        for path in ("/rpo/results/bench", "/rpo/results/dog-1", "/rpo/results/bench/jobs"):
            reply = ask(app, path)
            assert reply.status == 404
            assert SECRET.encode() not in reply.body
    finally:
        desk.close()


@pytest.mark.parametrize(
    "bad", ["<script>alert(1)</script>", "${alert(1)} {{x}} `y`", "a\n\x1b[31m"]
)
def test_a_strangers_results_are_text(home: Home, bad: str) -> None:
    system = evaluation(name=bad, method=bad, missing=[bad], subjects={bad: {}})
    found = read_figures(write_evaluation(home.root / "e", system))
    html = pieces.figures({**found, "title": bad}, "/rpo/results/e")
    for sign in ("<script", "${", "{{", "`", "\x1b"):
        assert sign not in html


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "must be a table"),
        ({"systems": [7]}, r"systems\[0\] must be a table"),
        ({"systems": []}, "lacks together"),
        (evaluation(overall={"dino": {"mean": "much"}}), "mean must be a finite number"),
        (evaluation(overall={"dino": {"mean": 1e999}}), "finite|not JSON"),
        (evaluation(drawing={"scheduler": 7}), "scheduler must be text"),
        ({**evaluation(), "judges": {"clip": {"preprocessing": {"resample": 99}}}}, "filters"),
    ],
)
def test_a_damaged_evaluation_is_one_line(tmp_path: Path, content: Any, said: str) -> None:
    folder = write_evaluation(tmp_path / "e", content)
    with pytest.raises(UserError, match=said) as caught:
        read_figures(folder)
    assert "evaluation.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_evaluation_by_a_link_is_refused(tmp_path: Path) -> None:
    kept = write_evaluation(tmp_path / "kept", evaluation())
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "evaluation.json").symlink_to(kept / "evaluation.json")
    with pytest.raises(UserError, match="symbolic link"):
        read_evaluation(tmp_path / "e")


def test_the_page_reads_them_in_another_process(home: Home) -> None:
    desk = Desk(home, Queue(home))
    with gr.Blocks(analytics_enabled=False):
        part = Results(desk)
    try:
        assert part.arrive(None)[0]["visible"] is False
        write_evaluation(home.root / "e", evaluation())
        shown, names, report = part.arrive(None)
        assert (shown["visible"], names["value"], report["visible"]) == (True, "e", False)
        assert list(part.show("e"))[-1].startswith('<div class="panel figures"><h3>e</h3>')
        (home.root / "e" / "evaluation.json").write_text("{")
        last = list(part.show("e"))[-1]
        assert 'role="alert"' in last
        assert "evaluation.json: damaged" in last
        assert 'role="alert"' in list(part.show("../e"))[-1]
    finally:
        desk.close()
