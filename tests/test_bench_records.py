"""The files of a results folder: what is written is read back, and damage is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rpo.bench.records import (
    Job,
    JobResult,
    Judged,
    is_done,
    line_key,
    lines,
    read_result,
    read_results,
    to_record,
    write_result,
)
from rpo.errors import UserError
from rpo.evaluation.scoring import Row

JOB = Job(
    id="rpo.dog.0",
    row="rpo",
    title="RPO",
    subject="dog",
    noun="dog",
    kind="live",
    seed=0,
    method="rpo",
    model="emojiland",
    settings={"training.learning_rate": 3e-7, "training.weights": "lora", "training.flip": True},
    choose=("best", "last"),
)
ROWS = (
    Row("dog", 1, 1, "a {} on the Moon", "place", {"dino": 0.25}),
    Row("dog", 0, 1, "", "", {"class_drift": 0.5}),
)
DONE = JobResult(
    JOB,
    "done",
    steps=200,
    seconds={"training": 1.5, "total": 2.0},
    trained_parameters=7,
    curve=((0, 0.25, 0.5, 0.125), (40, 0.5, 0.5, 0.5)),
    figures={"last_margin": -0.5},
    judged=(
        Judged("best", "RPO", 40, "pictures/rpo-best/seed-0/dog", ROWS, {"dino": 0.25}),
        Judged("last", "RPO, last step", 200, "", ROWS[:1], {"dino": 0.25}),
    ),
    photos={"dino": 0.75},
    judges={"dino": {"name": "emojiland", "preprocessing": {"size": {"height": 64}}}},
    protocol={"images_per_prompt": 4},
    provenance={"commit": "abc"},
)
LOST = JobResult(replace(JOB, id="rpo.cat.0", subject="cat"), "failed", "no photos; add some")


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    file = write_result(tmp_path, DONE)
    assert file == tmp_path / "jobs" / "rpo.dog.0.json"
    assert read_result(file) == DONE
    assert is_done(tmp_path, "rpo.dog.0")
    assert not is_done(tmp_path, "rpo.cat.0")
    assert [entry.name for entry in (tmp_path / "jobs").iterdir()] == [file.name]


def test_what_was_read_can_be_written_down_again(tmp_path: Path) -> None:
    read = read_result(write_result(tmp_path, DONE))
    assert to_record(read) == to_record(DONE)
    assert (
        write_result(tmp_path / "copy", read).read_bytes()
        == (tmp_path / "jobs" / "rpo.dog.0.json").read_bytes()
    )


def test_a_failure_is_listed_until_the_job_is_done(tmp_path: Path) -> None:
    write_result(tmp_path, LOST)
    write_result(tmp_path, DONE)
    assert list(read_results(tmp_path)) == [LOST, DONE]
    assert not is_done(tmp_path, LOST.job.id)
    write_result(tmp_path, replace(LOST, status="done", error=""))
    assert [result.status for result in read_results(tmp_path)] == ["done", "done"]
    assert list(read_results(tmp_path / "elsewhere")) == []


def test_a_failure_that_outlived_its_remedy_is_passed_over(tmp_path: Path) -> None:
    """A process may die between writing the one and removing the other."""
    failed = write_result(tmp_path, replace(DONE, status="failed")).read_bytes()
    write_result(tmp_path, DONE)
    (tmp_path / "jobs" / "rpo.dog.0.failed.json").write_bytes(failed)
    assert list(read_results(tmp_path)) == [DONE]


def test_every_judged_step_is_a_line() -> None:
    found = list(lines(iter([DONE, LOST])))
    assert [(line.key, line.judged.step) for line in found] == [("rpo:best", 40), ("rpo:last", 200)]
    assert line_key("base", "untrained") == "base"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"schema": 2}, "schema must be 1"),
        ({"status": "half"}, "status must be done or failed"),
        ({"seconds": {"total": "long"}}, "seconds.total must be a finite number"),
        ({"judged": [{"pictures": [{"prompt": -1}]}]}, r"pictures\[0\].prompt must be a whole"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, change: dict, told: str) -> None:
    file = write_result(tmp_path, DONE)
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError, match=rf"rpo.dog.0.json: damaged \(.*{told}.*; delete it"):
        read_result(file)


def test_a_lacking_field_is_named(tmp_path: Path) -> None:
    file = write_result(tmp_path, DONE)
    record = json.loads(file.read_text())
    del record["judged"][0]["step"]
    file.write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"lacks judged\.step"):
        read_result(file)
