"""`rpo.write_report`: the report of results and of runs from Python."""

from __future__ import annotations

from pathlib import Path

import pytest
from results_folders import write_results
from test_report import make_run

import rpo


def test_results_and_runs_are_told_by_one_name(tmp_path: Path) -> None:
    results = write_results(tmp_path / "results", ("cat",), (0,), ("base", "rpo"), pictures=False)
    page = rpo.write_report(str(results), out=tmp_path / "told")
    assert page == tmp_path / "told" / "report.html"
    assert "RPO" in (tmp_path / "told" / "tables.md").read_text(encoding="utf-8")
    assert not (results / "report").exists()
    run = make_run(tmp_path, {0: 0.5, 40: 0.7}, best=40)
    assert rpo.write_report(run.path) == run.path / "report.html"


def test_other_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(rpo.UserError, match="neither a results folder"):
        rpo.write_report(tmp_path)
    run = make_run(tmp_path, {0: 0.5}, best=0)
    with pytest.raises(rpo.UserError, match="--out: .* is a run"):
        rpo.write_report(run.path, tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()
