"""`rpo bench` killed at random moments: nothing that was finished is lost, changed or repeated."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from jobs import World, save_photos
from test_bench_runner import Inline
from test_bench_work import nothing

from rpo.bench.records import JobResult, read_results
from rpo.bench.session import run_suite
from rpo.bench.suite import read_suite
from rpo.bench.work import do_job
from rpo.cli import commands

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")

# In its first minute a job saves nothing to go on from: here it does so at every validation. And
# none of its events is kept back, so that a moment can be named by how many there were.
RPO = """
from rpo.bench.executors import executor
from rpo.cli import main
from rpo.runs.keeping import Keeper

Keeper.checkpoint_if_due = Keeper.checkpoint
executor.QUIET = 0
if __name__ == "__main__":
    main()
"""
SUITE = """
images_per_prompt = 1
seeds = [0]
[rows.base]
[rows.rpo]
method = "rpo"
choose = ["best", "last"]
"""
EVENTS = 40  # of a session, before which it is killed


class Command:
    """The command on one results folder, and what its jobs had written when it was last killed."""

    def __init__(self, world: World, suite: Path, results: Path) -> None:
        script = world.root / "command.py"
        script.write_text(RPO, encoding="utf-8")
        settings = [f"--set={setting}" for setting in world.settings()]
        words = ["bench", str(suite), "--model", str(world.model), *settings]
        self.words = [sys.executable, str(script), *words, "--out", str(results)]
        self.results, self.done = results, dict[str, bytes]()
        self.errors = results.with_name(f"{results.name}.txt")

    def start(self) -> subprocess.Popen[str]:
        with self.errors.open("a") as errors:
            return subprocess.Popen(
                [*self.words, "--json"],
                stdout=subprocess.PIPE,
                stderr=errors,  # no pipe, whose end a worker would hold beyond its runner's death
                text=True,
                start_new_session=True,
            )

    def kill(self, chance: random.Random) -> bool:
        """Whether it was still at work: the runner alone dies, or with its workers."""
        events, alone = chance.randint(1, EVENTS), chance.random() < 0.5
        process = self.start()
        assert process.stdout
        for line in islice(process.stdout, events):
            assert json.loads(line)["event"]
        time.sleep(chance.uniform(0, 0.05))
        (os.kill if alone else os.killpg)(process.pid, signal.SIGKILL)
        process.stdout.close()
        process.wait()
        self.check()
        assert process.returncode in (0, -signal.SIGKILL), self.errors.read_text()
        return process.returncode != 0

    def check(self) -> None:
        """What was finished is as it was, to the second in which it was."""
        now = {file.name: file.read_bytes() for file in self.results.glob("jobs/[!.]*")}
        assert self.done.items() <= now.items()
        assert not [name for name in now if "failed" in name]
        self.done = now

    def finish(self) -> list[JobResult]:
        """Lets it go to its end."""
        with pytest.MonkeyPatch.context() as patch:  # in this process, which has all loaded
            here = lambda jobs, load: Inline(load())  # noqa: E731
            patch.setattr("rpo.bench.executors.local.LocalExecutor", here)
            assert commands.run([*self.words[2:], "--quiet"]) == 0
        self.check()
        return list(read_results(self.results))


def told(results: list[JobResult]) -> list[JobResult]:
    """What must not depend on any interruption."""
    return [replace(result, seconds={}, provenance={}) for result in results]


@pytest.fixture(scope="module")
def suite(world: World, models: tuple[Path, Path]) -> Path:
    """A suite of two subjects: four jobs."""
    subjects, file = world.root / "subjects", world.root / "suite.toml"
    save_photos(subjects / "rex")
    save_photos(subjects / "cup", 2)
    (subjects / "subjects.toml").write_text('[rex]\nnoun = "dog"\n[cup]\nnoun = "cup"\n')
    (subjects / "prompts.toml").write_text(world.prompts.read_text(), encoding="utf-8")
    dino, clip = (json.dumps(str(folder)) for folder in models)
    judges = f"[judges]\ndino = {dino}\nclip = {clip}\n"
    file.write_text(f"subjects = {json.dumps(str(subjects))}\n{SUITE}{judges}", encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def whole(world: World, suite: Path) -> list[JobResult]:
    """The results of a session that was left alone."""
    place = world.root / "whole"
    read = read_suite(suite, model=str(world.model), settings=world.settings())
    run_suite(read, place, lambda: Inline(do_job), nothing)
    return list(read_results(place))


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_loses_and_repeats_nothing(
    world: World, suite: Path, whole: list[JobResult], tmp_path: Path, kills: int
) -> None:
    chance, number = random.Random(kills), 0
    command = Command(world, suite, tmp_path / "results 0")
    for _ in range(kills):
        while not command.kill(chance):  # it was done: a new folder
            assert told(command.finish()) == told(whole)
            number += 1
            command = Command(world, suite, tmp_path / f"results {number}")
    assert told(command.finish()) == told(whole)
    assert len(whole) == 4
    assert not list((command.results / "runs").glob("*/last"))
