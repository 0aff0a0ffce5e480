"""A job that fails in the middle: what is recorded, reported and said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import (
    World,
)

from rpo.cli import commands as cli
from rpo.errors import UserError
from rpo.runs.result import load_run

pytestmark = pytest.mark.usefixtures("elsewhere")


def test_a_failed_run_is_recorded_and_reported(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from rpo.training import loop as training

    advance = training.Trainer._advance

    def fail(self: Any) -> Any:
        if self.step == 2:
            raise UserError("the loss became nan at step 3")
        return advance(self)

    out = tmp_path / "run"
    command = ["train", str(world.photos), *world.flags(), "--quiet", "--out", str(out)]
    with monkeypatch.context() as patch:
        patch.setattr(training.Trainer, "_advance", fail)
        assert cli.run(command) == cli.WRONG_INPUT
    assert capsys.readouterr().err == "error: the loss became nan at step 3\n"
    run = load_run(out)
    failures = [r for r in run.folder.records() if r["event"] == "failed"]
    (failed,) = failures
    assert failed["message"] == "the loss became nan at step 3"
    assert failed["kind"] == "wrong input"
    assert run.folder.summary() == {}  # in its first minute no checkpoint is due
    page = run.report.read_text(encoding="utf-8")
    assert "The run ended in an error: the loss became nan at step 3" in page
    assert "was interrupted" not in page
    assert (out / "images" / "overview.png").is_file()
    assert cli.run([*command, "--resume"]) == 0  # as though the cause were gone
    assert "failed" not in {r["event"] for r in run.folder.records()}
    assert "in an error" not in run.report.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA: no more"),
        RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
    ids=["cuda", "mps", "cpu", "python"],
)
@pytest.mark.parametrize("place", ["rpo.runs.job.Job._load", "rpo.models.pictures.sample"])
def test_exhausted_memory_is_one_line_with_the_remedy(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    place: str,
) -> None:
    def exhaust(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(place, exhaust)
    command = ["train", str(world.photos), *world.flags(), "-q", "--out", str(tmp_path / "run")]
    assert cli.run(command) == cli.WRONG_INPUT
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    for name in ("sampling.batch_size", "validation.batch_size", "training.batch_size"):
        assert name in err
    assert "resolution" in err


def test_another_runtime_error_is_not_hidden(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("rpo.runs.job.Job._load", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.run(["train", str(world.photos), *world.flags(), "-q", "--out", str(tmp_path / "run")])
