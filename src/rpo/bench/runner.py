"""The runner: hands orders to an executor until all are done, and tells what comes of them.

It keeps nothing of a job that has ended but a count: what there is to know stands in the results
folder, whose lock its caller holds. So it can be killed at any time, and begins again anywhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from rpo.bench.executors.executor import Executor, Heard
from rpo.bench.order import Order, tidy
from rpo.bench.records import JobResult, is_done, write_result

ATTEMPTS = 3  # before a job whose workers are lost again and again counts as failed
BEAT = 0.25  # seconds between two looks at whether to stop


@dataclass
class Tally:
    """How far it is. `seconds` are of the jobs that this session has done, one by one."""

    total: int
    done: int = 0
    found: int = 0  # done by earlier sessions
    failed: int = 0
    seconds: float = 0.0
    began: float = field(default_factory=time.monotonic)
    under_way: dict[str, Order] = field(default_factory=dict)

    @property
    def left(self) -> float | None:
        """Seconds left, by the pace so far; None before a job is done."""
        mine = self.done - self.found + self.failed
        if not mine:
            return None
        rest = self.total - self.done - self.failed
        return (time.monotonic() - self.began) / mine * rest


Show = Callable[[Heard, Tally], None]
"""Called with all that is heard, and with kind "event" and an empty record for each order begun."""


def run_orders(
    orders: Iterable[Order],
    results: Path,
    executor: Executor,
    show: Show,
    tally: Tally,
    stopped: Callable[[], bool] = lambda: False,
) -> Tally:
    """Does all orders whose results are not there yet. The caller holds the folder's lock.

    stopped: once it is true, no order is begun, and those under way are told to save.
    """
    waiting, again, stopping = iter(orders), list[Order](), False
    try:
        while True:
            if stopped() and not stopping:
                stopping = True
                executor.stop()
            while not stopping and len(tally.under_way) < executor.slots:
                order = again.pop() if again else _next_missing(waiting, results, tally)
                if order is None:
                    break
                tally.under_way[order.job.id] = order
                executor.submit(order)
                show(Heard(order.job.id, "event"), tally)
            if not tally.under_way:
                return tally
            for heard in executor.hear(BEAT):
                order = tally.under_way[heard.id]
                heard = _counted(heard, order, results, tally, again)
                show(heard, tally)
    finally:
        executor.close()


def _next_missing(waiting: Iterator[Order], results: Path, tally: Tally) -> Order | None:
    for order in waiting:
        if not is_done(results, order.job.id):
            return order
        tidy(order)  # a worker may have been killed before it did
        tally.done += 1
        tally.found += 1
    return None


def _counted(heard: Heard, order: Order, results: Path, tally: Tally, again: list[Order]) -> Heard:
    """Books what was heard. A job lost too often becomes one that failed."""
    if heard.kind == "event":
        return heard
    del tally.under_way[heard.id]
    if heard.kind == "lost" and is_done(results, heard.id):  # it died after the last word
        heard = replace(heard, kind="done", text="")
    if heard.kind == "lost" and order.attempt < ATTEMPTS:
        again.append(replace(order, attempt=order.attempt + 1))
        return heard
    if heard.kind == "lost":
        text = f"{heard.text}, {ATTEMPTS} times"
        write_result(results, JobResult(order.job, "failed", text))
        heard = replace(heard, kind="failed", text=text)
    if heard.kind == "done":
        tally.done += 1
        tally.seconds += heard.seconds.get("total", 0.0)
    elif heard.kind == "failed":
        tally.failed += 1
    return heard
