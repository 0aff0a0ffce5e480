"""Ctrl-C, SIGTERM and SIGHUP as a wish to stop between two events, not in the middle of one."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from types import FrameType
from typing import Any, NoReturn

# SIGHUP comes when the terminal is closed. Windows has none.
SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


def interrupt(number: int, frame: FrameType | None) -> NoReturn:
    """KeyboardInterrupt; amid an import the end of the process, as extensions swallow that there.

    Or they break by it: "cannot load module more than once per process". Nothing needs saving then
    that a SIGKILL would not leave whole as well.
    """
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            with suppress(OSError):
                shown_cursor = b"\x1b[?25h" if os.isatty(2) else b""  # the bars hide it
                os.write(2, shown_cursor + b"error: interrupted\n")
            os._exit(128 + number)
        frame = frame.f_back
    raise KeyboardInterrupt


class StopOnSignal(AbstractContextManager["StopOnSignal"]):
    """Turns the first signal into `requested`; the second one interrupts at once.

    Attributes:
        number: of the first signal; SIGINT's until then.
    """

    def __init__(self, on_request: Callable[[], None]) -> None:
        self.requested, self.number = False, int(signal.SIGINT)
        self._on_request = on_request
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopOnSignal:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if number != signal.SIGINT and signal.getsignal(number) is signal.SIG_IGN:
                    continue  # as nohup asks
                self._before[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            interrupt(number, frame)
        self.requested, self.number = True, number
        self._on_request()

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
