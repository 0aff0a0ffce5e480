"""One session of a benchmark or a batch: a suite, its results folder, an executor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rpo.bench.executors.executor import Executor
from rpo.bench.order import make_order, make_orders, models_of
from rpo.bench.records import JOBS, SUITE
from rpo.bench.runner import Show, Tally, run_orders
from rpo.bench.suite import BenchSuite, read_suite, to_toml
from rpo.bench.union import union
from rpo.errors import UserError
from rpo.evaluation.judges import read_head
from rpo.models.resolve import Kind, resolve_models
from rpo.replacing import remove_leftovers, replacing
from rpo.runs.folder import check_writable
from rpo.runs.locking import LOCK, locked


def run_suite(
    suite: BenchSuite,
    results: Path,
    executor: Callable[[], Executor],
    show: Show,
    stopped: Callable[[], bool] = lambda: False,
) -> Tally:
    """Does what is missing of a suite. Call it again to go on: nothing that is done is repeated.

    executor: begun once all is checked. show: called with all that comes. stopped: asked four times
    a second; once true, what is under way is saved. UserError, before anything is written, for a
    folder that is another's or in use, and for models that are not there.
    """
    results = results.absolute()
    whole = _joined(suite, results)
    check_models(suite, results)
    check_writable(results)
    with locked(results):
        remove_leftovers(results / JOBS)  # those of a run it sees to itself
        with replacing(results / SUITE) as temporary:
            temporary.write_text(to_toml(whole), encoding="utf-8", newline="\n")
        tally = Tally(len(suite))
        return run_orders(make_orders(suite, results), results, executor(), show, tally, stopped)


def _joined(suite: BenchSuite, results: Path) -> BenchSuite:
    """The suite with what the folder was asked for before."""
    if (results / SUITE).is_file():
        return union(read_suite(results / SUITE), suite, results)
    if results.exists() and not results.is_dir():
        raise UserError(f"--out {results}: a file; name a folder")
    if results.is_dir() and any(entry.name != LOCK for entry in results.iterdir()):
        raise UserError(f"--out {results}: holds other files; name a new or an empty folder")
    return suite


def check_models(suite: BenchSuite, results: Path) -> None:
    """Raises UserError for a model that is not here, before the first job begins."""
    wanted: dict[tuple[str, Kind], None] = {}
    for row in suite.rows:
        order = make_order(suite, results, row, suite.entries[0], suite.seeds[0])
        wanted |= dict.fromkeys(models_of(order))
    resolve_models(list(wanted))
    if head := suite.judges.get("aesthetic"):
        read_head(Path(head))
