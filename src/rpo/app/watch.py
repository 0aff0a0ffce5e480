"""What the page knows of a job at work: a consumer of the events that its files hold.

A run's metrics.jsonl has all that is kept; what the job's process says besides, how far a phase is,
the queue keeps. A run that was started elsewhere has the former alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rpo.events import (
    Event,
    Failed,
    Finished,
    Interrupted,
    Labelled,
    Notice,
    PhaseDone,
    Progress,
    Started,
    StepDone,
    Stopped,
    Validated,
    from_record,
)
from rpo.runs.folder import METRICS
from rpo.runs.result import Validation

_AT_ONCE = 4_000_000  # bytes that one reading takes


class Follower:
    """Reads a growing file of events: each call gives what is new, complete lines alone."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._place: tuple[int, int] = (0, 0)  # the file's number, bytes read of it
        self.anew = False  # whether the last call found another file, and began at its start

    def events(self) -> Iterator[Event]:
        """The new events. Lines that hold none, as of another version, are passed over."""
        self.anew = False
        try:
            descriptor = os.open(self.file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        except OSError:
            return
        with open(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            number, done = self._place
            if number != found.st_ino or found.st_size < done:
                self.anew, done = True, 0
            file.seek(done)
            data = file.read(_AT_ONCE)
        end = data.rfind(b"\n") + 1
        self._place = found.st_ino, done + end
        for line in data[:end].splitlines():
            try:
                record = json.loads(line)
                yield from_record(record)
            except (ValueError, TypeError, AttributeError, RecursionError):
                continue


@dataclass
class Course:
    """A job's course so far.

    Attributes:
        phase: what it is at: loading, sampling, labelling, training or validation.
        done, total: pieces of the phase's work; total is 0 where it is not known.
        began: when the phase began, and how much of it was done then: for the pace.
        step, steps: gradient steps done and wanted.
        ended: whether the session is over.
    """

    started: Started | None = None
    phase: str = "loading"
    done: int = 0
    total: int = 0
    began: tuple[float, int] = (0.0, 0)
    step: int = 0
    steps: int = 0
    last: float = 0.0  # time of the last event
    ended: bool = False
    stopped_early: bool = False
    labelled: Labelled | None = None
    notices: list[str] = field(default_factory=list)
    validations: dict[int, Validated] = field(default_factory=dict)

    @property
    def chosen(self) -> int | None:
        """The step that is the result so far."""
        if self.started is not None and self.started.keep == "last" and self.validations:
            return max(self.validations)
        return max((s for s, v in self.validations.items() if v.improved), default=None)

    @property
    def history(self) -> tuple[Validation, ...]:
        """The validations in order, the best one so far marked."""
        return tuple(
            Validation(step, v.reward, v.image_alignment, v.text_alignment, step == self.chosen)
            for step, v in sorted(self.validations.items())
        )

    def seconds_left(self, now: float) -> float | None:
        """Of the phase, by its mean pace so far; None while that is not known."""
        since, before = self.began
        done = self.done - before
        if self.ended or not self.total or done <= 0 or now <= since or self.done >= self.total:
            return None
        return max(0.0, (self.last - since) / done * (self.total - self.done) - (now - self.last))

    def take(self, event: Event) -> None:
        """Goes on by one event."""
        if isinstance(event, Started):
            self.started, self.steps, self.ended = event, event.steps, False
            self._enter("loading", event.time)
        elif isinstance(event, Progress):
            if event.phase == "validation":
                return  # its steps are the training's
            self._enter(event.phase, event.time, event.done)
            self.done, self.total = event.done, event.total
        elif isinstance(event, StepDone):
            self._enter("training", event.time, event.step - 1)
            self.step = self.done = event.step
            self.total = self.steps
        elif isinstance(event, Validated):
            self._enter("training", event.time, event.step)
            self.total = self.steps
            self.validations[event.step] = event
        elif isinstance(event, Labelled):
            self.labelled = event
        elif isinstance(event, Notice) and event.message not in self.notices:
            self.notices.append(event.message)
        elif isinstance(event, Stopped):
            self.stopped_early = event.reason == "patience"
        elif isinstance(event, (Finished, Interrupted, Failed, PhaseDone)):
            self.ended = True
        self.last = max(self.last, event.time)

    def _enter(self, phase: str, now: float, done: int = 0) -> None:
        if phase != self.phase or not self.began[0]:
            self.phase, self.began, self.done, self.total = phase, (now, done), done, 0


class Watch:
    """One run, watched: `course` reads what is new and gives the whole."""

    def __init__(self, run: Path, said: Path) -> None:
        """said: the file of what the job's process says, which may never be."""
        self._kept, self._said = Follower(run / METRICS), Follower(said)
        self._course = Course()
        self._live = Course()  # by what the process says: the phases

    def course(self) -> Course:
        """The course up to now."""
        events = list(self._kept.events())
        if self._kept.anew:  # a resumed run goes back to its checkpoint
            self._course = Course()
        for event in events:
            self._course.take(event)
        said = list(self._said.events())
        if self._said.anew:
            self._live = Course()
        for event in said:
            self._live.take(event)
        course, live = self._course, self._live
        if live.last < course.last or live.started is None:
            return course
        live.validations = course.validations | live.validations
        live.labelled = live.labelled or course.labelled
        live.step = max(live.step, course.step if live.started.resumed_at else 0)
        return live
