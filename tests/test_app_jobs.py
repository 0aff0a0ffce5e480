"""The page's queue: processes of their own, one at a time, found again by another server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from app_home import make_run, write_events

from rpo.app.home import Home, read_table
from rpo.app.jobs import Queue
from rpo.config import Config
from rpo.errors import UserError
from rpo.events import Failed, Interrupted, Started, StepDone
from rpo.runs.locking import locked
from rpo.runs.spec import JobSpec

SLEEPER = "import time, sys; print('began', flush=True); time.sleep(60)"
FAILING = "import sys; print('error: photos: no such folder; name another', file=sys.stderr)"


class Toys(Queue):
    """A queue whose jobs are little programs."""

    program = SLEEPER

    def _command(self, name: str, spec: JobSpec) -> list[str]:
        return [sys.executable, "-c", self.program]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.at(tmp_path / "runs")


@pytest.fixture
def queue(home: Home) -> Iterator[Toys]:
    queue = Toys(home)
    yield queue
    for child in queue._children.values():
        child.kill()
        child.wait()


def spec(home: Home, name: str) -> JobSpec:
    return JobSpec(home.root, Config(noun="dog"), home.root / name)


def wait_for(condition: object, seconds: float = 30) -> None:
    late = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < late
        time.sleep(0.05)


def test_one_job_at_a_time_and_the_next_follows(home: Home, queue: Toys) -> None:
    for name in ("dog-1", "dog-2", "dog-3"):
        queue.add(spec(home, name))
    states = [queue.status(name).state for name in ("dog-1", "dog-2", "dog-3")]
    assert states == ["running", "waiting", "waiting"]
    assert queue.waiting() == ["dog-2", "dog-3"]
    queue.stop("dog-1")
    wait_for(lambda: queue.status("dog-1").state != "running")
    queue.tick()
    assert queue.status("dog-2").state == "running"
    assert queue.waiting() == ["dog-3"]


def test_a_gpu_each(home: Home, queue: Toys) -> None:
    queue.devices = ("0", "1")
    queue.program = "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); "
    queue.program += "time.sleep(60)"
    for name in ("dog-1", "dog-2", "dog-3"):
        queue.add(spec(home, name))
    states = [queue.status(name).state for name in ("dog-1", "dog-2", "dog-3")]
    assert states == ["running", "running", "waiting"]
    wait_for(lambda: queue.file("dog-2", "events").read_text() == "1\n")
    assert queue.file("dog-1", "events").read_text() in ("", "0\n")
    queue.stop("dog-1")
    wait_for(lambda: queue.status("dog-1").state != "running")
    queue.tick()
    assert read_table(queue.file("dog-3", "json"))["device"] == "0"


def test_another_server_finds_what_goes_on_and_what_waits(home: Home, queue: Toys) -> None:
    queue.add(spec(home, "dog-1"))
    queue.add(spec(home, "dog-2"))
    after = Toys(home)  # a new server has the files alone
    assert after.status("dog-1").state == "running"
    assert after.waiting() == ["dog-2"]
    assert after.names()[:2] in (["dog-1", "dog-2"], ["dog-2", "dog-1"])
    after.tick()
    assert after.status("dog-2").state == "waiting"
    queue._children["dog-1"].kill()
    queue._children["dog-1"].wait()
    after.tick()
    assert after.status("dog-2").state == "running"
    after.stop("dog-2")
    wait_for(lambda: after.status("dog-2").state == "stopped")


def test_a_job_outlives_the_process_that_started_it(home: Home, tmp_path: Path) -> None:
    code = f"""
import sys
from test_app_jobs import Toys, spec
from rpo.app.home import Home
home = Home.at({str(home.root)!r})
Toys(home).add(spec(home, "dog-1"))
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=_environment())
    queue = Queue(home)
    assert queue.status("dog-1").state == "running"
    owner = read_table(queue.file("dog-1", "json"))["owner"]
    assert os.getpgid(owner["pid"]) == owner["pid"]  # no signal of a terminal reaches it
    os.kill(owner["pid"], signal.SIGKILL)
    wait_for(lambda: queue.status("dog-1").state == "stopped")


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def test_what_went_wrong_is_told(home: Home, queue: Toys) -> None:
    queue.program = FAILING
    queue.add(spec(home, "dog-1"))
    wait_for(lambda: queue.status("dog-1").state != "running")
    status = queue.status("dog-1")
    assert (status.state, status.message) == ("failed", "photos: no such folder; name another")
    queue.resume("dog-1")  # once it is put right
    assert queue.status("dog-1").state in ("running", "failed")


def test_the_states_of_a_run_folder(home: Home) -> None:
    queue = Queue(home)
    make_run(home.root, "done", finished=True)
    make_run(home.root, "broken-off", [StepDone(1, 0.5, 0.1), Interrupted(1)])
    make_run(home.root, "killed", [StepDone(1, 0.5, 0.1)])
    make_run(home.root, "wrong", [Failed("no space\nleft")])
    states = {name: queue.status(name).state for name in queue.names()}
    assert states == {
        "done": "finished",
        "broken-off": "stopped",
        "killed": "stopped",
        "wrong": "failed",
    }
    assert queue.status("wrong").message == "no space\\nleft"
    with locked(home.root / "killed"):  # as `rpo train` elsewhere holds it
        assert queue.status("killed").state == "running"


def test_a_damaged_run_is_told_and_ends_nothing(home: Home) -> None:
    run = make_run(home.root, "dog-1", [StepDone(1, 0.5, 0.1)])
    (run / "last" / "state.json").write_text("{")
    assert Queue(home).status("dog-1").state == "failed"
    (home.jobs / "dog-2.json").write_text("no table")
    (home.jobs / "..evil.json").write_text("{}")
    assert set(Queue(home).names()) == {"dog-1", "dog-2"}
    assert Queue(home).waiting() == []


def test_a_run_goes_on_by_the_command_that_a_person_would_type(home: Home) -> None:
    job, queue = spec(home, "dog-1"), Queue(home)
    words = queue._command("dog-1", job)
    assert words[1:5] == ["-m", "rpo", "train", str(home.root)]
    assert words[words.index("--config") + 1].endswith("dog-1.toml")
    make_run(home.root, "dog-1")
    assert queue._command("dog-1", job)[-1] == "--resume"


def test_what_cannot_be_queued(home: Home, queue: Toys, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lies elsewhere"):
        queue.add(JobSpec(tmp_path, Config(noun="dog"), tmp_path / "other" / "dog-1"))
    with pytest.raises(UserError, match="in memory"):
        queue.add(JobSpec(None, Config(noun="dog"), home.root / "dog-1"))
    queue.add(spec(home, "dog-1"))
    with pytest.raises(UserError, match="at work already"):
        queue.add(spec(home, "dog-1"))
    with pytest.raises(UserError, match="not at work"):
        queue.stop("dog-9")
    with pytest.raises(UserError, match="no run"):
        queue.resume("dog-9")
    with pytest.raises(UserError, match="no run"):
        queue.stop("../dog")


def test_the_bin_keeps_everything(home: Home) -> None:
    make_run(home.root, "dog-1")
    moved = home.throw_away("dog-1")
    assert moved.is_relative_to(home.bin)
    assert (moved / "config.toml").is_file()
    assert list(home.runs()) == []


def test_a_folder_that_cannot_be_the_runs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="a file"):
        Home.at(tmp_path / "file")
    (tmp_path / "runs").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "runs" / ".rpo-app").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="no link"):
        Home.at(tmp_path / "runs")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def started(path: Path, resumed_at: int | None = None) -> Started:
    prompts = ("a photo of [V] dog", ("a [V] dog",), ("a [V] dog",))
    return Started(path, "[V] dog", "live", 4, "m", "r", 8, "best", resumed_at, *prompts)


def test_events_are_written_as_the_queue_reads_them(home: Home) -> None:
    run = make_run(home.root, "dog-1")
    write_events(run / "metrics.jsonl", [started(run)])
    assert Queue(home).status("dog-1").state == "stopped"
