"""The command killed at random instants, or asked to stop: resumed, it ends with the same bytes."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from jobs import World, make_world, measured, results

from rpo.cli import commands as cli

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL, no SIGHUP")

# In its first minute a job saves nothing to go on from: here it does so at every validation.
RPO = """
from rpo.cli import main
from rpo.runs.keeping import Keeper

Keeper.checkpoint_if_due = Keeper.checkpoint
main()
"""
# the last weights are the kept ones, so that all that was learned is compared
LENGTH = {"steps": 8, "every": 2, "validation.keep": "last"}
KINDS = {"full": {}, "lora": {"training.weights": "lora", "lora.rank": 2}, "flow": {}}
KILLS_A_RUN = 5


@dataclass
class Jobs:
    """One job's command; whole: what it makes when it is left alone, in so many seconds."""

    world: World
    kind: str
    whole: Path
    seconds: float = 0.0

    def command(self, out: Path) -> list[str]:
        flags = self.world.flags(**LENGTH, **KINDS[self.kind])
        return ["train", str(self.world.photos), *flags, "--resume", "--out", str(out)]

    def start(self, out: Path) -> subprocess.Popen[str]:
        """The command as a process that has said that the job begins."""
        process = subprocess.Popen(
            [sys.executable, "-c", RPO, *self.command(out), "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout
        line = process.stdout.readline()
        assert line, process.communicate()
        assert json.loads(line)["event"] == "started"
        return process

    def kill(self, out: Path, chance: random.Random) -> bool:
        """Whether the process was still at work at that instant."""
        process = self.start(out)
        instant = chance.uniform(0, self.seconds)
        time.sleep(instant)
        process.kill()
        said, error = ended(process)
        if process.returncode == 0:
            assert '"finished"' in said
            return False
        assert process.returncode == -signal.SIGKILL, error
        return True

    def check(self, out: Path) -> None:
        """Lets the run go to its end, which must be that of the one left alone."""
        assert cli.run([*self.command(out), "--quiet"]) == 0
        assert results(out) == results(self.whole)
        assert measured(out) == measured(self.whole)
        assert not list(out.rglob(".*"))


def ended(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What else it said, once it has ended. `communicate` would lose what is buffered already."""
    assert process.stdout
    assert process.stderr
    said, error = process.stdout.read(), process.stderr.read()
    process.wait()
    return said, error


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, World]:
    root = tmp_path_factory.mktemp("kleine Welt")
    full = make_world(root / "full")
    return {"full": full, "lora": full, "flow": make_world(root / "flow", "sd3-without-t5")}


@pytest.fixture(scope="module")
def jobs(worlds: dict[str, World], request: pytest.FixtureRequest) -> Jobs:
    jobs = Jobs(worlds[request.param], request.param, worlds["full"].root / request.param)
    process = jobs.start(jobs.whole)
    start = time.monotonic()
    _, error = process.communicate()
    assert process.returncode == 0, error
    jobs.seconds = time.monotonic() - start
    return jobs


@pytest.mark.parametrize(
    ("jobs", "trials"),
    [
        ("full", range(5)),
        pytest.param("full", range(5, 50), marks=pytest.mark.slow),
        pytest.param("lora", range(50), marks=pytest.mark.slow),
        pytest.param("flow", range(50), marks=pytest.mark.slow),
    ],
    ids=lambda given: given if isinstance(given, str) else f"{len(given)} kills",
    indirect=["jobs"],
)
def test_killed_at_random_instants_it_ends_the_same(
    jobs: Jobs, tmp_path: Path, trials: range
) -> None:
    """Each run is killed five times, or until it is done before that, and goes on each time."""
    number, kills = 0, 0
    for trial in trials:
        chance = random.Random(trial)
        while not jobs.kill(tmp_path / f"run {number}", chance):  # it was done: a new run
            jobs.check(tmp_path / f"run {number}")
            number, kills = number + 1, 0
        kills += 1
        if kills == KILLS_A_RUN:
            jobs.check(tmp_path / f"run {number}")
            number, kills = number + 1, 0
    if kills:
        jobs.check(tmp_path / f"run {number}")


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [*KINDS], indirect=True)
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_asked_to_stop_it_saves_and_ends_the_same(jobs: Jobs, tmp_path: Path, name: str) -> None:
    number = signal.Signals[name]
    for trial in range(3):
        out = tmp_path / f"run {trial}"
        process = jobs.start(out)
        time.sleep(random.Random(f"{name} {trial}").uniform(0, jobs.seconds / 2))
        process.send_signal(number)
        said, error = ended(process)
        assert "Traceback" not in error
        if process.returncode != 0:  # else it was done before
            assert process.returncode == 128 + number, error
            assert json.loads(said.splitlines()[-1])["event"] == "interrupted"
        jobs.check(out)
