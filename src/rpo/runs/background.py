"""Work that goes on beside the caller's: writing weights while the next steps compute."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """A thread that does one piece of work at a time."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "rpo-background")
        self._work: Future[None] | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begins `work` once what was begun before is done; raises as `wait` does."""
        self.wait()
        self._work = self._thread.submit(work)

    def wait(self) -> None:
        """Returns when nothing is under way. Raises what the work raised, once."""
        work, self._work = self._work, None
        if work is not None:
            work.result()
