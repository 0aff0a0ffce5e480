"""benchmarks.page: what it counts, and what it says of it. Figures by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import page


def test_steps_are_counted_between_two_times(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    assert page.steps_between(file, 0, 9) == 0
    events = [{"event": "step", "time": t} for t in (1.0, 2.0, 2.5, 3.0)]
    lines = [json.dumps(e) for e in [*events, {"event": "validation", "time": 2.2}]]
    file.write_text("\n".join([*lines, '{"event": "st']))  # the last line is being written
    assert page.steps_between(file, 2.0, 3.0) == 2


class Answers:
    """A connection of given statuses; None for one that breaks."""

    def __init__(self, *statuses: int | None) -> None:
        self.statuses, self.asked = list(statuses), []

    def request(self, method: str, path: str, headers: Any) -> None:
        self.asked.append(path)

    def getresponse(self) -> Any:
        self.status = self.statuses.pop(0)
        if self.status is None:
            raise ConnectionResetError
        return self

    def read(self) -> bytes:
        return b"x"

    def close(self) -> None:
        pass


def test_a_load_is_the_document_and_its_styles() -> None:
    fine = Answers(200, 200, 200)
    assert page.Visitors._load(fine) == ""  # type: ignore[arg-type]
    assert fine.asked == ["/", "/theme.css", "/rpo/page.css"]
    assert page.Visitors._load(Answers(200, 500)) == "/theme.css: 500"  # type: ignore[arg-type]
    assert page.Visitors._load(Answers(None)) == "ConnectionResetError"  # type: ignore[arg-type]


def test_visits_come_at_their_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page.Visitors, "_load", staticmethod(lambda connection: ""))
    visitors = page.Visitors("http://127.0.0.1:1/", rate=50, seconds=0.2)
    visitors.visit()
    assert len(visitors.waited) == 10
    assert min(visitors.waited) >= 0  # none before its time
    assert visitors.errors == []


def test_what_is_told() -> None:
    record = {
        "first_picture": {"first_paint": 0.5, "whole_page": 1.25},
        "idle_memory_mb": 150.0,
        "memory_after_mb": 160.0,
        "page_loads": 40,
        "errors": ["/: 500"],
        "seconds_a_load": {"median": 0.012, "most": 0.2},
        "steps_a_second_alone": [4.0, 6.0],
        "steps_a_second_beside_visits": [4.0, 5.0],
        "slowdown": 0.1,
    }
    said = "\n".join(page._told(record))
    assert "0.50 s after Ready (at most 2), whole page 1.25 s" in said
    assert "40, 1 errors, median 12 ms, longest 200 ms" in said
    assert "5.00 steps a second alone, 4.50 beside the visits: 10.0% slower (at most 10%)" in said


def test_wrong_arguments_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for flags in (["--seconds", "0"], ["--rounds", "0"], ["--steps", "0"], ["--rate", "-1"]):
        assert page.main(flags) == 2
        assert capsys.readouterr().err.count("\n") == 1
