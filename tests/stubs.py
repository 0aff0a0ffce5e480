"""Jobs that take no time: what a runner and its executors are tested with."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from rpo.bench.executors.executor import Work
from rpo.bench.order import Order
from rpo.bench.records import Job, JobResult, write_result
from rpo.events import Event, Progress


def make_stub(number: int, results: Path, seconds: float = 0.0) -> Order:
    """An order whose settings say what its stub does."""
    name, settings = f"stub.{number}.0", {"seconds": seconds}
    job = Job(name, "stub", "stub", str(number), "dog", "live", 0, "", "emojiland", settings)
    return Order(job, "", "", str(results))


def load_stub() -> Work:
    """As `rpo.bench.executors.executor.load_work`."""
    return do_stub


def do_stub(order: Order, tell: Callable[[Event], None]) -> JobResult:
    """Counts its beginnings in runs/ID.begun and takes its time; dies or fails where it is told.

    A number 7 kills its worker at the first attempt, 8 always, and 9 fails.
    """
    results, number = Path(order.results), order.job.subject
    runs = results / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    with (runs / f"{order.job.id}.begun").open("a") as file:
        file.write("x")
    end = time.monotonic() + order.job.settings["seconds"]
    while time.monotonic() < end:
        tell(Progress("training", 0, 1))
        time.sleep(0.005)
    tell(Progress("training", 1, 1))
    if number == "8" or (number == "7" and order.attempt == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    status = "failed" if number == "9" else "done"
    result = JobResult(order.job, status, "told to" if status == "failed" else "")  # type: ignore[arg-type]
    write_result(results, result)
    return result
