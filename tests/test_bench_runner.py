"""The runner: everything is done once, whatever dies meanwhile; and it takes little itself."""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from stubs import do_stub, load_stub, make_stub

from rpo.bench.executors.executor import Heard, Work, work_on
from rpo.bench.executors.local import LocalExecutor
from rpo.bench.order import Order
from rpo.bench.records import JobResult, read_results, write_result
from rpo.bench.runner import Tally, run_orders
from rpo.events import Progress

HERE = Path(__file__).parent


class Inline:
    """An executor without processes: does an order when it is asked what came of it."""

    slots = 3

    def __init__(self, work: Work) -> None:
        self.work, self.orders, self.most, self.stopping = work, list[Order](), 0, False

    def submit(self, order: Order) -> None:
        self.orders.append(order)
        self.most = max(self.most, len(self.orders))

    def hear(self, seconds: float) -> list[Heard]:
        heard: list[Heard] = []
        work_on(self.orders.pop(0), self.work, heard.append, lambda: self.stopping)
        return heard

    def stop(self) -> None:
        self.stopping = True

    def close(self) -> None: ...


def quick(order: Order, tell: Callable) -> JobResult:
    """No more than the result."""
    tell(Progress("training", 1, 1))
    result = JobResult(order.job, "done")
    write_result(Path(order.results), result)
    return result


def orders(results: Path, count: int, seconds: float = 0.0) -> list[Order]:
    return [make_stub(number, results, seconds) for number in range(count)]


def test_what_is_done_is_not_repeated(tmp_path: Path) -> None:
    write_result(tmp_path, JobResult(make_stub(1, tmp_path).job, "done"))
    heard: list[Heard] = []
    executor = Inline(quick)
    show = lambda one, tally: heard.append(one)  # noqa: E731
    tally = run_orders(orders(tmp_path, 5), tmp_path, executor, show, Tally(5))
    assert (tally.done, tally.found, tally.failed, executor.most) == (5, 1, 0, 3)
    assert [one.id for one in heard if one.kind == "done"] == [f"stub.{k}.0" for k in (0, 2, 3, 4)]
    assert tally.left == 0


def test_time_left_is_by_the_pace_of_this_session(tmp_path: Path) -> None:
    tally = Tally(10, done=6, found=2, failed=1, began=time.monotonic() - 50)
    assert tally.left == pytest.approx(50 / 5 * 3, abs=0.1)
    assert Tally(10, done=2, found=2).left is None


def test_once_stopped_nothing_begins_and_what_is_under_way_saves(tmp_path: Path) -> None:
    heard: list[Heard] = []
    stopped = lambda: any(one.kind == "done" for one in heard)  # noqa: E731
    show = lambda one, tally: heard.append(one)  # noqa: E731
    tally = run_orders(orders(tmp_path, 9), tmp_path, Inline(quick), show, Tally(9), stopped)
    assert tally.done == 1
    assert [one.kind for one in heard if one.kind != "event"] == ["done", "stopped", "stopped"]


def test_the_runners_own_cost_and_memory(tmp_path: Path) -> None:
    """1,000 jobs: at most 50 ms each, files included, and memory that does not grow with them."""

    def measure(count: int, results: Path) -> tuple[float, int]:
        waiting = (make_stub(number, results) for number in range(count))
        tracemalloc.start()
        start = time.process_time()
        run_orders(waiting, results, Inline(quick), lambda heard, tally: None, Tally(count))
        seconds = time.process_time() - start
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return seconds, kept

    measure(10, tmp_path / "first")  # imports
    seconds, kept = measure(1000, tmp_path / "many")
    assert seconds / 1000 < 0.05
    assert kept < 100_000
    assert sum(1 for _ in (tmp_path / "many" / "jobs").iterdir()) == 1000


def test_workers_that_die_are_replaced_and_their_jobs_done(tmp_path: Path) -> None:
    """Number 7 kills its worker once, 8 three times, and 9 fails by itself."""
    heard: list[Heard] = []
    show = lambda one, tally: heard.append(one)  # noqa: E731
    executor = LocalExecutor(2, load_stub)
    tally = run_orders(orders(tmp_path, 10)[5:], tmp_path, executor, show, Tally(5))
    assert (tally.done, tally.failed) == (3, 2)
    lost = Counter(one.id for one in heard if one.kind == "lost")
    assert lost == {"stub.7.0": 1, "stub.8.0": 2}
    found = {result.job.subject: result for result in read_results(tmp_path)}
    assert [found[name].status for name in "56789"] == ["done", "done", "done", "failed", "failed"]
    assert "died of signal 9; its memory may have run out, 3 times" in found["8"].error
    assert found["9"].error == "told to"


def test_local_workers_stop_within_a_job(tmp_path: Path) -> None:
    heard: list[Heard] = []

    def show(one: Heard, tally: Tally) -> None:
        heard.append(one)

    began = lambda: any(one.record for one in heard)  # noqa: E731
    executor = LocalExecutor(1, load_stub)
    tally = run_orders(orders(tmp_path, 2, 600.0), tmp_path, executor, show, Tally(2), began)
    assert (tally.done, tally.failed) == (0, 0)
    assert [one.kind for one in heard if one.kind != "event"] == ["stopped"]


SCRIPT = """
import sys
from pathlib import Path
from stubs import load_stub, make_stub
from rpo.bench.executors.local import LocalExecutor
from rpo.bench.runner import Tally, run_orders
from rpo.runs.locking import locked

if __name__ == "__main__":
    results = Path(sys.argv[1])
    with locked(results):
        orders = [make_stub(number + 100, results, 0.05) for number in range(40)]
        executor = LocalExecutor(2, load_stub)
        run_orders(orders, results, executor, lambda heard, tally: None, Tally(40))
"""


@pytest.mark.slow
def test_killed_at_ten_random_moments_nothing_is_lost_or_repeated(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    results, luck = tmp_path / "results", random.Random(0)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    done: dict[str, bytes] = {}
    for _ in range(10):
        runner = subprocess.Popen([sys.executable, str(script), str(results)], env=environment)
        deadline = time.monotonic() + 120
        while len(list(results.glob("jobs/*.json"))) == len(done) and time.monotonic() < deadline:
            time.sleep(0.02)  # until it has begun, so that it gets on
        time.sleep(luck.uniform(0, 0.3))
        os.kill(runner.pid, signal.SIGKILL)
        runner.wait()
        now = {file.name: file.read_bytes() for file in results.glob("jobs/*.json")}
        assert done.items() <= now.items()
        assert not [name for name in now if "failed" in name]
        done = now
    subprocess.run([sys.executable, str(script), str(results)], env=environment, check=True)
    assert len(list(read_results(results))) == 40
    begun = {file.stem: len(file.read_text()) for file in results.glob("runs/*.begun")}
    assert len(begun) == 40
    # only what was under way at a kill was begun again: two at most, each time
    assert sum(count - 1 for count in begun.values()) <= 10 * 2


def test_a_stub_is_what_it_says(tmp_path: Path) -> None:
    assert do_stub(make_stub(1, tmp_path), lambda event: None).status == "done"
