"""Output that ends no job: what stdout or stderr cannot take is escaped, or dropped."""

from __future__ import annotations

import errno
import io
import os
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from rpo.errors import printable


class _LastingBytes(io.RawIOBase):
    """Bytes go to `raw` until it fails; all that follow are dropped.

    A text stream writes into it directly. A BufferedWriter between the two would refuse what a
    signal's handler prints while a write is under way.
    """

    def __init__(self, raw: Any) -> None:
        self.raw = raw
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """All of the bytes, written or dropped; raises nothing of the system's."""
        rest = memoryview(data)
        size = rest.nbytes
        try:
            while rest and self.error is None:
                count = self.raw.write(rest)
                if count is None:  # a pipe that does not block, and is full
                    time.sleep(0.01)
                else:
                    rest = rest[count:]
        except OSError as error:
            self.error = error
        return size

    def writable(self) -> bool:
        """Always."""
        return True

    def fileno(self) -> int:
        """The real stream's."""
        return self.raw.fileno()

    def isatty(self) -> bool:
        """Whether the real stream is a terminal."""
        return self.raw.isatty()


class LastingOutput(AbstractContextManager["LastingOutput"]):
    """While it lasts, printing never raises.

    A letter that the encoding lacks is written as an escape. Once a write has failed, because the
    reader of a pipe has left, the disk is full or the terminal was closed, the rest is dropped.
    """

    def __enter__(self) -> LastingOutput:
        self._before = sys.stdout, sys.stderr
        self._raw: dict[str, _LastingBytes] = {}
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is None:  # closed before the process began
                setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
            elif isinstance(stream, io.TextIOWrapper):
                raw: Any = _LastingBytes(getattr(stream.buffer, "raw", stream.buffer))
                self._raw[name] = raw
                lasting = io.TextIOWrapper(
                    raw,
                    encoding=stream.encoding,
                    errors="backslashreplace",
                    line_buffering=stream.line_buffering,
                    write_through=stream.write_through,
                )
                setattr(sys, name, lasting)
        return self

    def lost(self) -> str | None:
        """Why a part of stdout is lost; None where it is not, or where its reader has left."""
        sys.stdout.flush()
        raw = self._raw.get("stdout")
        error = raw.error if raw else None
        if error is None or isinstance(error, BrokenPipeError):
            return None
        if os.name == "nt" and error.errno == errno.EINVAL:  # a broken pipe on Windows
            return None
        return error.strerror or str(error)

    def __exit__(self, *_: object) -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = self._before


def print_path(path: Path) -> None:
    """A path as a line of stdout: escaped where that is a terminal, as it is for a script."""
    print(printable(path) if sys.stdout.isatty() else path)
