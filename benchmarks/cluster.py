"""What the runner itself costs, by jobs that do nothing: a check of docs/cluster.md's figures.

    python -m benchmarks.cluster --jobs 1000

Three measurements, in this order:

    runner      its processor seconds a job, with files, and its memory at a tenth and at the end
    one, two    jobs a minute with one and with two workers (--executor), single-threaded; each job
                computes for `--seconds` of processor time
    resume      seconds until a session that finds everything done has ended

Two workers reach twice the jobs of one where two cores are free: the load is told beside.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rpo.bench.executors.executor import Executor, Heard, Work, work_on
from rpo.bench.executors.local import LocalExecutor
from rpo.bench.order import Order
from rpo.bench.records import Job, JobResult, write_result
from rpo.bench.runner import Tally, run_orders
from rpo.events import Event, Progress


def make_order(number: int, results: Path, seconds: float) -> Order:
    """A job whose settings say for how long it computes."""
    settings = {"seconds": seconds}
    job = Job(f"stub.{number}.0", "stub", "", str(number), "dog", "live", 0, "", "", settings)
    return Order(job, "", "", str(results))


def load_stub() -> Work:
    """As a worker loads what it does."""
    return do_stub


def do_stub(order: Order, tell: Callable[[Event], None]) -> JobResult:
    """Computes, tells once, and writes its result."""
    end = time.process_time() + order.job.settings["seconds"]
    while time.process_time() < end:
        sum(range(1000))
    tell(Progress("training", 1, 1))
    result = JobResult(order.job, "done")
    write_result(Path(order.results), result)
    return result


class Inline:
    """Does an order at once, in this process."""

    slots = 1

    def submit(self, order: Order) -> None:
        """Remembers it."""
        self.order = order

    def hear(self, seconds: float) -> list[Heard]:
        """All that comes of it."""
        heard: list[Heard] = []
        work_on(self.order, do_stub, heard.append, lambda: False)
        return heard

    def stop(self) -> None:
        """Never needed."""

    def close(self) -> None:
        """Nothing."""


def ignore(heard: Heard, tally: Tally) -> None:
    """Nobody watches."""


def runner_cost(folder: Path, count: int) -> dict[str, float]:
    """Of `count` jobs in this process."""
    kept: list[int] = []

    def show(heard: Heard, tally: Tally) -> None:
        if tally.done in (count // 10, count) and heard.kind == "done":
            gc.collect()
            kept.append(tracemalloc.get_traced_memory()[0])

    orders = (make_order(number, folder, 0.0) for number in range(count))
    tracemalloc.start()
    run_orders(orders, folder, Inline(), show, Tally(count))
    tracemalloc.stop()
    again = folder.with_name("timed")
    start, clock = time.process_time(), time.perf_counter()
    orders = (make_order(number, again, 0.0) for number in range(count))
    run_orders(orders, again, Inline(), ignore, Tally(count))
    seconds, wall = time.process_time() - start, time.perf_counter() - clock
    clock = time.perf_counter()
    orders = (make_order(number, again, 0.0) for number in range(count))
    run_orders(orders, again, Inline(), ignore, Tally(count))
    size = sum(file.stat().st_size for file in (again / "jobs").iterdir())
    return {
        "cpu_ms_a_job": 1000 * seconds / count,
        "wall_ms_a_job": 1000 * wall / count,
        "kb_kept_at_a_tenth": kept[0] / 1000,
        "kb_kept_at_the_end": kept[-1] / 1000,
        "resume_ms_a_job": 1000 * (time.perf_counter() - clock) / count,
        "bytes_a_result": size / count,
    }


def start_workers(kind: str, workers: int) -> Executor:
    """That many, of this machine."""
    if kind == "local":
        return LocalExecutor(workers, load_stub)
    from rpo.bench.executors.ray import Needs, RayExecutor

    return RayExecutor(workers, load_stub, None, Needs())


def jobs_a_minute(kind: str, folder: Path, workers: int, count: int, seconds: float) -> float:
    """With that many workers, which have begun before the clock does."""
    executor = start_workers(kind, workers)
    warm = [make_order(number, folder / "warm", 0.5) for number in range(workers)]
    for order in warm:
        executor.submit(order)
    left = workers
    while left:
        left -= sum(heard.kind != "event" for heard in executor.hear(1))
    start = time.perf_counter()
    orders = [make_order(number, folder, seconds) for number in range(count)]
    run_orders(orders, folder, executor, ignore, Tally(count))
    return 60 * count / (time.perf_counter() - start)


def main(words: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cluster",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--executor", choices=("local", "ray"), default="local", help="of these")
    parser.add_argument("--pairs", type=int, default=20, help="jobs of the comparison")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each of these")
    given = parser.parse_args(words)
    found: dict[str, Any] = {"load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else 0}
    with tempfile.TemporaryDirectory() as folder:
        found |= runner_cost(Path(folder, "stubs"), given.jobs)
        for workers in (1, 2):
            place = Path(folder, f"workers-{workers}")
            rate = jobs_a_minute(given.executor, place, workers, given.pairs, given.seconds)
            found[f"jobs_a_minute_{workers}"] = rate
    found["speedup"] = found["jobs_a_minute_2"] / found["jobs_a_minute_1"]
    print(json.dumps({key: round(value, 2) for key, value in found.items()}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
