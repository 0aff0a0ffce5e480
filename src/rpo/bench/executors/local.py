"""Jobs in processes of this machine, which share its cores."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import connection, get_context
from typing import Any

from rpo.bench.executors.executor import Heard, StopWork, Work, work_on
from rpo.bench.order import Order

_STOP = "stop"


class LocalExecutor:
    """`slots` worker processes, each with its share of the cores, one order at a time each.

    A worker loads what jobs have in common once. One that dies is replaced by a new one.
    """

    def __init__(self, slots: int, work: Callable[[], Work]) -> None:
        """work: gives what does an order; called in each worker, so that this process is light."""
        self.slots, self._work = slots, work
        self._context = get_context("spawn")  # a fork would copy threads' locks
        self._idle: list[_Worker] = []
        self._busy: dict[Any, _Worker] = {}  # by its end of the pipe
        self._stopping = False

    def submit(self, order: Order) -> None:
        """Begins an order in an idle worker, or in a new one."""
        worker = self._idle.pop() if self._idle else _Worker(self._context, self._work, self.slots)
        self._busy[worker.pipe] = worker
        worker.order = order
        with suppress(OSError):  # a dead one is heard of as such
            worker.pipe.send(order)

    def hear(self, seconds: float) -> list[Heard]:
        """All that waits to be read; each worker's death is told after what it had sent."""
        found = []
        for pipe in connection.wait(list(self._busy), seconds):
            worker = self._busy[pipe]
            try:
                heard = worker.pipe.recv()
            except (EOFError, OSError):
                heard = worker.epitaph()
            found.append(heard)
            if heard.kind != "event":
                del self._busy[pipe]
                if heard.kind != "lost":
                    self._idle.append(worker)
        return found

    def stop(self) -> None:
        """A worker asks for this at each event of its job."""
        for worker in self._busy.values():
            with suppress(OSError):
                worker.pipe.send(_STOP)

    def close(self) -> None:
        """Idle workers end as their pipe closes; busy ones are killed."""
        for worker in self._busy.values():
            worker.process.kill()
        for worker in (*self._idle, *self._busy.values()):
            worker.pipe.close()
            worker.process.join(5)
        self._idle, self._busy = [], {}


class _Worker:
    """A process, our end of its pipe, and its order."""

    def __init__(self, context: Any, work: Callable[[], Work], slots: int) -> None:
        self.pipe, theirs = context.Pipe()
        self.order: Order | None = None
        threads = max(1, (os.cpu_count() or 1) // slots)
        self.process = context.Process(target=_serve, args=(theirs, work, threads), daemon=True)
        self.process.start()
        theirs.close()  # so that its death closes the pipe

    def epitaph(self) -> Heard:
        """What is known of a dead worker."""
        self.process.join(5)
        self.pipe.close()
        code = self.process.exitcode
        assert self.order is not None
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        hint = "; its memory may have run out" if code == -signal.SIGKILL else ""
        return Heard(self.order.job.id, "lost", text=f"the worker died of {how}{hint}")


def _serve(pipe: Any, work: Callable[[], Work], threads: int) -> None:
    """A worker's life: until the runner's end of the pipe is closed."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # they reach the whole group: the runner tells
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    # read by PyTorch when the work imports it
    os.environ["OMP_NUM_THREADS"] = str(min(threads, int(os.environ.get("OMP_NUM_THREADS", 1024))))
    do = work()

    def send(heard: Heard) -> None:
        try:
            pipe.send(heard)
        except OSError:  # the runner is gone: its job did not fail, and the next runner goes on
            raise StopWork from None

    def stopped() -> bool:
        try:
            return pipe.poll() and pipe.recv() == _STOP
        except (EOFError, OSError):
            return True

    with suppress(EOFError, OSError, StopWork):
        while True:
            order = pipe.recv()
            if order == _STOP:  # it came when the order was done already
                continue
            work_on(order, do, send, stopped)
