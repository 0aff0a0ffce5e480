"""One way to keep the libraries' own messages off the screen: the caller prints."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Mute:
    """What the libraries were set to when the first of those who are inside came in.

    Several threads may be inside; the last one out puts everything back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before: dict[str, tuple[Any, int, bool]] = {}
        self._warnings = warnings.catch_warnings()

    def enter(self) -> None:
        import transformers  # noqa: F401 # its settings are there to be changed

        with self._lock:
            if not self._inside:
                self._warnings = warnings.catch_warnings()
                self._warnings.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1
            # diffusers may have been imported since the last one came in.
            for name in {"transformers", "diffusers"} & sys.modules.keys() - self._before.keys():
                log = sys.modules[name].utils.logging
                self._before[name] = (log, log.get_verbosity(), log.is_progress_bar_enabled())
                log.set_verbosity_error()
                log.disable_progress_bar()

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside:
                return
            for log, verbosity, bar in self._before.values():
                log.set_verbosity(verbosity)
                if bar:
                    log.enable_progress_bar()
            self._before.clear()
            self._warnings.__exit__(None, None, None)


_mute = _Mute()


@contextmanager
def quiet() -> Iterator[None]:
    """Mutes the advice, warnings and progress bars of transformers and diffusers.

    Their settings are put back afterwards. diffusers is muted where it is imported already:
    encoders do without it, and importing it takes seconds.
    """
    _mute.enter()
    try:
        yield
    finally:
        _mute.leave()
