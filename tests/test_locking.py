"""locking.py: one writer a run folder, the others refused at once; stale locks taken over."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from jobs import World, break_off, contents, measured, results

import rpo
from rpo.cli import commands as cli
from rpo.data.subject import Subject
from rpo.errors import UserError
from rpo.events import Failed, Notice, Started, StepDone, Validated
from rpo.runs.locking import LOCK, Owner, holder, locked


def write(folder: Path, owner: Owner) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LOCK).write_text(json.dumps(asdict(owner)))


def gone() -> int:
    """The number of a process that has ended and been waited for."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


# --- the lock itself ---------------------------------------------------------------------


def test_a_lock_names_its_owner_and_goes_with_its_end(tmp_path: Path) -> None:
    with locked(tmp_path) as remark:
        assert remark == ""
        owner = holder(tmp_path)
        assert owner is not None
        assert (owner.pid, owner.host) == (os.getpid(), socket.gethostname())
        with (
            pytest.raises(UserError, match=rf"in use by process {os.getpid()} on .*, since 2"),
            locked(tmp_path),
        ):
            pass
        assert holder(tmp_path) == owner  # the one refused has taken nothing away
    assert os.listdir(tmp_path) == []
    assert holder(tmp_path) is None


def test_folders_made_for_a_lock_alone_go_with_it(tmp_path: Path) -> None:
    with locked(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / LOCK).is_file()
    assert os.listdir(tmp_path) == []
    with locked(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "kept").write_text("")
    assert os.listdir(tmp_path / "a" / "b") == ["kept"]


@pytest.mark.parametrize("reused", [False, True], ids=["gone", "its number is another's by now"])
def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path, reused: bool) -> None:
    owner = Owner.present()
    assert owner.alive
    owner = replace(owner, born="a boot 17") if reused else replace(owner, pid=gone())
    assert not owner.alive
    write(tmp_path, owner)
    assert holder(tmp_path) is None
    with locked(tmp_path) as remark:
        assert f"took over the lock of process {owner.pid} on" in remark
        assert holder(tmp_path) == replace(Owner.present(), since=holder(tmp_path).since)  # type: ignore[union-attr]


@pytest.mark.parametrize("change", [{"host": "elsewhere"}, {"space": "pid:[1]"}])
def test_another_machines_lock_is_never_judged(tmp_path: Path, change: dict[str, Any]) -> None:
    owner = replace(Owner.present(), pid=gone(), **change)
    write(tmp_path, owner)
    with (
        pytest.raises(UserError, match=rf"if it runs no longer, delete .*{LOCK}"),
        locked(tmp_path),
    ):
        pass
    assert (tmp_path / LOCK).is_file()


@pytest.mark.parametrize("text", ["{", "5", '{"pid": "x"}', "\ufffd\x00" * 9, "[" * 9999])
def test_a_damaged_lock_is_taken_over(tmp_path: Path, text: str) -> None:
    (tmp_path / LOCK).write_text(text, encoding="utf-8")
    with locked(tmp_path) as remark:
        assert "damaged lock" in remark
    assert os.listdir(tmp_path) == []


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("years of work")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match="cannot be written to"), locked(tmp_path / "run"):
        pass
    assert (tmp_path / "mine").read_text() == "years of work"


RACE = """
import sys, time
from pathlib import Path
from rpo.errors import UserError
from rpo.runs import locking

def slowly(file, read=locking._read):  # so that two that judge at once both find it free
    found = read(file)
    time.sleep(0.02)
    return found

locking._read = slowly
print("ready", flush=True)
sys.stdin.readline()
try:
    with locking.locked(Path(sys.argv[1])):
        print("won", flush=True)
        sys.stdin.read()  # until the others have been answered
except UserError:
    print("refused", flush=True)
"""


@pytest.mark.parametrize("stale", [False, True], ids=["new", "stale"])
@pytest.mark.parametrize(
    "trials", [5, pytest.param(50, marks=pytest.mark.slow)], ids=lambda n: f"{n} trials"
)
def test_of_several_at_the_same_instant_one_wins(tmp_path: Path, stale: bool, trials: int) -> None:
    for trial in range(trials):
        folder = tmp_path / f"run {trial}"
        if stale:
            write(folder, replace(Owner.present(), pid=gone()))
        command = [sys.executable, "-c", RACE, str(folder)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        racers = [subprocess.Popen(command, **pipes) for _ in range(4)]  # type: ignore[call-overload]
        for racer in racers:
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            racer.stdin.write("go\n")
            racer.stdin.flush()
        answers = sorted(racer.stdout.readline().strip() for racer in racers)
        for racer in racers:
            racer.communicate()
        assert answers == ["refused"] * 3 + ["won"], trial


# --- jobs --------------------------------------------------------------------------------


def job(world: World, out: Path, **options: Any) -> Any:
    subject = Subject.from_folder(world.photos, "dog")
    return rpo.iterate(
        subject, model=str(world.model), out=out, settings=world.settings(), **options
    )


def test_a_second_job_is_refused_before_models_are_loaded(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    second = job(world, out)  # both found the folder free
    first = job(world, out)
    assert isinstance(next(first), Started)
    monkeypatch.setattr("rpo.models.backbone.Backbone.load", lambda *_, **__: pytest.fail("loaded"))
    event = next(second)
    assert isinstance(event, Failed)
    assert "in use by" in event.message
    with pytest.raises(UserError, match="in use by"):
        next(second)
    assert os.listdir(out) == [LOCK]
    first.close()
    assert not out.exists()


def test_resuming_a_run_at_work_is_refused_and_disturbs_nothing(
    world: World, done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    first = job(world, out)
    for event in first:
        if isinstance(event, StepDone):
            break
    while not (out / "best").exists():  # written in the background, and there at once
        time.sleep(0.01)
    before = contents(out)
    arguments = ["train", str(world.photos), *world.flags(), "--out", str(out), "--quiet"]
    assert cli.run([*arguments, "--resume"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "in use by process" in error
    assert cli.run(arguments) == 2
    assert contents(out) == before
    for _ in first:
        pass
    assert results(out) == results(done)
    assert measured(out) == measured(done)
    assert not (out / LOCK).exists()


@pytest.mark.parametrize("kind", [StepDone, Validated])
def test_no_lock_is_left_by_a_closed_job(world: World, tmp_path: Path, kind: type) -> None:
    break_off(world, tmp_path / "run", kind, 2)
    assert not (tmp_path / "run" / LOCK).exists()


def test_no_lock_is_left_by_a_failed_job(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("rpo.training.loop.Trainer._advance", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        list(job(world, tmp_path / "run"))
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_killed_jobs_lock_and_temporary_files_are_in_nobodys_way(
    world: World, done: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    break_off(world, out, Validated, 2)
    owner = replace(Owner.present(), pid=gone())
    write(out, owner)
    (out / "images" / "validation" / ".01-x.png.0123abcd.part").write_bytes(b"half")
    (out / ".best.new").mkdir()
    (out / ".best.new" / "half").write_bytes(b"half")
    events = list(job(world, out, resume=True))
    notices = [event.message for event in events if isinstance(event, Notice)]
    assert [f"took over the lock of process {owner.pid} " in text for text in notices] == [True]
    assert results(out) == results(done)
    assert measured(out) == measured(done)
    assert not [name for name in os.listdir(out) if name.startswith(".")]


def test_a_new_run_may_begin_where_one_was_killed_at_once(world: World, tmp_path: Path) -> None:
    write(tmp_path / "run", replace(Owner.present(), pid=gone()))
    events = job(world, tmp_path / "run")
    assert isinstance(next(events), Started)
    assert isinstance(next(events), Notice)
    events.close()


@pytest.mark.slow
@pytest.mark.parametrize("begun", [False, True], ids=["new", "resumed"])
def test_of_two_commands_one_goes_on_and_the_other_is_refused_in_a_line(
    world: World, done: Path, tmp_path: Path, begun: bool
) -> None:
    for trial in range(25):  # 50 with the other case
        out = tmp_path / f"run {trial}"
        command = [sys.executable, "-m", "rpo", "train", str(world.photos), *world.flags()]
        command += ["--out", str(out), "--quiet"]
        if begun:
            break_off(world, out, StepDone, 1)
            command.append("--resume")
        pair = [
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        ends = [(p.communicate(timeout=120), p.returncode) for p in pair]
        ends.sort(key=lambda end: end[1])
        if not (begun and ends[1][1] == 0):  # then it was so late that it found the run finished
            assert [code for _, code in ends] == [0, 2], (trial, ends)
            error = ends[1][0][1]
            assert error.count("\n") == 1
            assert error.startswith("error: ")
        assert results(out) == results(done)
        assert measured(out) == measured(done)
