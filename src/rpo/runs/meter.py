"""What each phase of a run cost, in time and memory; and the word for memory that ran out."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rpo.errors import UserError
from rpo.events import Drawn, Event, Labelled, StepDone

# What PyTorch says on CUDA and MPS, and on the CPU of Linux, macOS and Windows.
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


@contextmanager
def naming_exhausted_memory() -> Iterator[None]:
    """Makes memory that ran out, of the machine or of its GPU, a UserError with the remedy."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        import torch

        exhausted = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if exhausted or any(words in str(error).lower() for words in _OUT_OF_MEMORY):
            raise UserError(
                "the memory ran out; lower sampling.batch_size or validation.batch_size (a run "
                "may be resumed with others), or, for a new run, training.batch_size or resolution"
            ) from error
        raise


@dataclass
class Cost:
    """What a phase took: seconds; peak memory in MB of the process and of the GPU."""

    seconds: float = 0.0
    memory_mb: float | None = None
    gpu_memory_mb: float | None = None

    def add(self, seconds: float, memory_mb: float | None, gpu_memory_mb: float | None) -> None:
        """Times add up; of peaks the highest stays."""
        self.seconds += seconds
        self.memory_mb = _highest(self.memory_mb, memory_mb)
        self.gpu_memory_mb = _highest(self.gpu_memory_mb, gpu_memory_mb)


def _highest(a: float | None, b: float | None) -> float | None:
    known = [value for value in (a, b) if value is not None]
    return max(known) if known else None


@dataclass
class Stretch:
    """A measured piece of work and the phase that it is booked to."""

    phase: str


@dataclass
class Meter:
    """Books wall-clock time and peak memory to phases that take turns.

    A process's high-water mark never falls, and resetting it would mislead whoever measures
    the process from outside. So a stretch is charged with the mark where it raised it, and
    with the memory in use at its end where it did not.
    """

    costs: dict[str, Cost] = field(default_factory=dict)
    _mark: float = field(default_factory=lambda: _high_water() or 0.0)

    @contextmanager
    def stretch(self, phase: str) -> Iterator[Stretch]:
        """Measures the enclosed work; its phase may be corrected while it runs."""
        stretch = Stretch(phase)
        start = time.perf_counter()
        try:
            yield stretch
        finally:
            seconds = time.perf_counter() - start
            mark = _high_water()
            memory = mark if mark is not None and mark > self._mark else _resident()
            self._mark = max(self._mark, mark or 0.0)
            self.costs.setdefault(stretch.phase, Cost()).add(seconds, memory, _gpu_peak())

    def timed(self, events: Iterable[Event]) -> Iterator[Event]:
        """The events, the work before each booked to its phase."""
        iterator = iter(events)
        while True:
            with self.stretch("training") as stretch:
                event = next(iterator, None)
                if event is None:
                    return
                stretch.phase = _phase_of(event)
            yield event


def _phase_of(event: Event) -> str:
    """The phase that the work before an event belongs to."""
    names = {Labelled: "labelling", Drawn: "sampling", StepDone: "training"}
    return names.get(type(event), getattr(event, "phase", "validation"))


def _high_water() -> float | None:
    """The process's peak resident memory so far, in MB."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e6 / 1024)


def _resident() -> float | None:
    """The process's resident memory now, in MB."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    except (OSError, ValueError, AttributeError):
        return None


def _gpu_peak() -> float | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    peak = torch.cuda.max_memory_allocated() / 1e6
    torch.cuda.reset_peak_memory_stats()
    return peak
