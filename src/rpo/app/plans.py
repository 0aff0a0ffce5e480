"""What `rpo plan` and `rpo info` say of this machine: asked in processes, once, and remembered.

They load PyTorch, which is not for the page's server; their answers are small.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from rpo.app.commands import ask_module
from rpo.errors import UserError
from rpo.report.page import duration, memory

_PATIENCE = 300  # seconds


@dataclass(frozen=True)
class Answer:
    """What a command said: its record, or why there is none."""

    record: dict[str, Any] | None
    problem: str = ""


def ask(words: Sequence[str]) -> Answer:
    """The JSON that `rpo WORDS --json` prints; of `rpo plan` also where nothing fits."""
    try:
        return Answer(ask_module(["rpo", *words, "--json"], _PATIENCE))
    except UserError as error:
        return Answer(None, str(error))


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

    def ask_in_turn(self, words: Sequence[str]) -> Answer | None:
        """As `ask`, but what is asked anew waits until nothing else is on its way."""
        with self._lock:
            busy = any(not future.done() for future in self._asked.values())
            waits = busy and tuple(words) not in self._asked
        return None if waits else self.ask(words)

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


def lacks_room(answer: Answer | None) -> bool:
    """Whether a plan says that the job does not fit this machine."""
    return answer is not None and answer.record is not None and not answer.record["fits"]


def in_words(answer: Answer | None) -> str:
    """A plan's answer for people."""
    if answer is None:
        return "Working out what this takes here …"
    if answer.record is None:
        return answer.problem[:1].upper() + answer.problem[1:] + "."
    record = answer.record
    size = memory(record["peak"] / 1e6)
    if lacks_room(answer):
        lack = memory(record["missing"] / 1e6)
        return f"Does not fit here: it needs {size} of memory, {lack} more than there is."
    time = duration(round(record["seconds"]))
    told = f"About {time} on this machine, with {size} of memory."
    if record["settings"]:
        changed = ", ".join(f"{key}={value}" for key, value in record["settings"].items())
        told += f" To fit, it is taught with {changed}."
    return told
