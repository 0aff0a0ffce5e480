"""What `rpo plan` and `rpo info` say of this machine: asked in processes, once, and remembered.

They load PyTorch, which is not for the page's server; their answers are small.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from rpo.errors import printable
from rpo.report.page import duration, memory

_PATIENCE = 300  # seconds


@dataclass(frozen=True)
class Answer:
    """What a command said: its record, or why there is none."""

    record: dict[str, Any] | None
    problem: str = ""


def ask(words: Sequence[str]) -> Answer:
    """The JSON that `rpo WORDS --json` prints."""
    command = [sys.executable, "-m", "rpo", *words, "--json"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Answer(None, f"no answer ({type(error).__name__})")
    try:
        record = json.loads(done.stdout)
    except ValueError:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        told = said[-1].removeprefix("error: ") if said else "no answer"
        return Answer(None, printable(told))
    return Answer(record if isinstance(record, dict) else None)


class Plans:
    """Answers that are on their way or there."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "rpo plan")
        self._lock = threading.Lock()
        self._asked: dict[tuple[str, ...], Future[Answer]] = {}

    def ask(self, words: Sequence[str]) -> Answer | None:
        """The answer; None while it is on its way."""
        key = tuple(words)
        with self._lock:
            if len(self._asked) > 200:
                self._asked.clear()
            if key not in self._asked:
                self._asked[key] = self._pool.submit(ask, key)
            future = self._asked[key]
        return future.result() if future.done() else None

    def close(self) -> None:
        """Waits for nothing that was asked."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def devices(self) -> tuple[str, ...]:
        """The numbers of this machine's GPUs; waits for the answer."""
        record = ask(["info"]).record or {}
        found = record.get("hardware", {}).get("accelerators", ())
        cuda = [item for item in found if item.get("name") != "mps"]
        return tuple(str(number) for number in range(len(cuda)))


def plan_words(model: str, method: str, presets: Sequence[str], settings: Sequence[str]) -> list:
    """The command that asks what a job takes."""
    words = ["plan", "--model", model, "--method", method]
    for preset in presets:
        words += ["--preset", preset]
    for setting in settings:
        words += ["--set", setting]
    return words


def in_words(answer: Answer | None) -> str:
    """A plan's answer for people."""
    if answer is None:
        return "Working out what this takes here …"
    if answer.record is None:
        return answer.problem[:1].upper() + answer.problem[1:] + "."
    record = answer.record
    size = memory(record["peak"] / 1e6)
    if not record["fits"]:
        lack = memory(record["missing"] / 1e6)
        return f"Does not fit here: it needs {size} of memory, {lack} more than there is."
    time = duration(round(record["seconds"]))
    told = f"About {time} on this machine, with {size} of memory."
    if record["settings"]:
        changed = ", ".join(f"{key}={value}" for key, value in record["settings"].items())
        told += f" To fit, it is taught with {changed}."
    return told
