"""Killed without warning and resumed, every method ends with the bytes of a run left alone."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from jobs import PROMPTS, measured, results, save_photos

from rpo.cli import commands as cli
from rpo.config import METHODS
from rpo.runs.result import load_run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")

# In its first minute a job saves nothing to go on from: here it does so at every validation.
RPO = """
from rpo.cli import main
from rpo.runs.keeping import Keeper

Keeper.checkpoint_if_due = Keeper.checkpoint
main()
"""
STEPS = 6
SETTINGS = {
    "training.steps": STEPS,
    "validation.every": 2,
    "validation.keep": "last",  # so that best/ is one that has learned
    "validation.steps": 2,
    "sampling.steps": 2,
    "sampling.images_per_prompt": 2,
    "dreambooth.class_images": 3,
}
CHEAP = ("similarity",)


def kill(command: list[str], step: int, seconds: float) -> None:
    """Runs `rpo` with that command and kills it so many seconds after the event of that step."""
    with subprocess.Popen(
        [sys.executable, "-c", RPO, *command, "--json"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        for event in map(json.loads, process.stdout):
            if event["event"] == "step" and event["step"] == step:
                time.sleep(seconds)
                process.kill()
                break
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    "method", [pytest.param(m, marks=() if m in CHEAP else pytest.mark.slow) for m in METHODS]
)
def test_killed_at_any_time_and_resumed_it_ends_the_same(method: str, tmp_path: Path) -> None:
    save_photos(tmp_path / "photos")
    (tmp_path / "prompts.toml").write_text(PROMPTS, encoding="utf-8")
    settings = {**SETTINGS, "prompts": tmp_path / "prompts.toml"}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    start = ["train", str(tmp_path / "photos"), "--noun", "dog", "--out"]
    more = ["--method", method, *(f"--set={key}={value}" for key, value in settings.items())]
    assert cli.run([*start, str(whole), *more, "--quiet"]) == 0
    chance = random.Random(method)
    step, seconds = chance.randint(1, STEPS - 1), chance.uniform(0, 0.1)
    kill([*start, str(cut), *more], step, seconds)
    run = load_run(cut)
    saved = run.folder.summary()["step"]
    print(f"{method}: killed {seconds:.3f} s after step {step}, goes on from step {saved}")
    assert not run.finished
    assert saved <= step + 1
    assert cli.run([*start, str(cut), "--resume", "--quiet"]) == 0
    assert results(cut) == results(whole)
    assert measured(cut) == measured(whole)
