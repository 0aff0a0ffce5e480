"""The seam between the runner and whoever does the jobs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from rpo.bench.order import Order
from rpo.bench.records import JobResult
from rpo.events import Event, Progress, StepDone, to_record

QUIET = 0.5  # seconds between two reports of mere progress


@dataclass(frozen=True)
class Heard:
    """What came of one job.

    Attributes:
        id: the job's.
        kind: "event" (record: as `rpo.events.to_record` gives it), "done", "failed", "stopped" for
            one that was told to and has saved, or "lost" with the worker that did it.
        text: why, where it failed or was lost.
        seconds: by phase, of one that has ended.
    """

    id: str
    kind: Literal["event", "done", "failed", "stopped", "lost"]
    record: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)


class Executor(Protocol):
    """Does orders, some at once. What it does besides is nobody's concern."""

    @property
    def slots(self) -> int:
        """How many orders it does at once."""

    def submit(self, order: Order) -> None:
        """Begins an order; there are never more than `slots` under way."""

    def hear(self, seconds: float) -> list[Heard]:
        """What has come since; waits that long for something. Every order ends exactly once."""

    def stop(self) -> None:
        """Tells all that are under way to save and stop. They are heard of still."""

    def close(self) -> None:
        """Ends whatever is left, at once, and gives back what was taken."""


class StopWork(BaseException):
    """Raised by a worker's `tell` once it was told to stop."""


Work = Callable[[Order, Callable[[Event], None]], JobResult]


def load_work() -> Work:
    """What does real jobs; imported by the workers alone."""
    from rpo.bench.work import do_job

    return do_job


def work_on(
    order: Order, work: Work, send: Callable[[Heard], None], stop: Callable[[], bool]
) -> None:
    """A worker's part: does one order, and sends what comes of it.

    stop: whether it is to stop; asked at every event.
    """
    last = 0.0

    def tell(event: Event) -> None:
        nonlocal last
        if stop():
            raise StopWork
        now = time.monotonic()
        if isinstance(event, Progress | StepDone) and now - last < QUIET:
            return
        last = now
        send(Heard(order.job.id, "event", record=to_record(event)))

    try:
        result = work(order, tell)
    except (StopWork, KeyboardInterrupt):
        send(Heard(order.job.id, "stopped"))
        return
    send(Heard(order.job.id, result.status, text=result.error, seconds=dict(result.seconds)))
