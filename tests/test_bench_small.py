"""A shipped suite end to end: `rpo bench emojiland --small`, then `rpo report`."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from PIL import Image

from rpo.bench.records import read_results
from rpo.cli import commands

pytestmark = pytest.mark.slow


def test_emojilands_small_suite_makes_every_table(tmp_path: Path) -> None:
    results = tmp_path / "results"
    words = ["bench", "emojiland", "--small", "--held-out", "--out", str(results), "--quiet"]
    assert commands.run([*words, "--name", "dog"]) == 0  # a piece
    first = {file: file.stat().st_mtime_ns for file in (results / "jobs").iterdir()}
    assert len(first) == 9
    assert commands.run([*words, "--jobs", "2"]) == 0  # and the rest
    assert (
        first.items()
        <= {file: file.stat().st_mtime_ns for file in (results / "jobs").iterdir()}.items()
    )
    found = list(read_results(results))
    assert [result.status for result in found] == ["done"] * 18
    pictures = {
        judged.folder: sorted((results / judged.folder).iterdir())
        for result in found
        for judged in result.judged
    }
    assert len(pictures) == 2 * 12
    assert {len(files) for files in pictures.values()} == {25}
    drawn = [files[0] for folder, files in pictures.items() if folder.endswith("/dog")]
    for file in drawn:
        with Image.open(file) as image:
            assert image.size == (64, 64)
            assert image.convert("L").getextrema() != (0, 0)
    assert commands.run(["report", str(results)]) == 0
    report = results / "report"
    for name in ("table-1", "table-2", "table-3", "table-6", "table-7", "online"):
        text = (report / f"{name}.csv").read_text(encoding="utf-8")
        _, *rows = csv.reader(text.splitlines())
        assert len(rows) >= 2, name
    text = (report / "online-differences.csv").read_text(encoding="utf-8")
    assert [row[0] for row in csv.reader(text.splitlines())][1:] == [
        "Online RPO − base model",
        "Online RPO − DreamBooth, early stopping",
        "Online RPO − L_sim alone, early stopping",
        "Online RPO − RPO",
    ]
    html = (report / "report.html").read_text(encoding="utf-8")
    assert "Not done yet" not in html
    assert html.count("data:image/") > 20
