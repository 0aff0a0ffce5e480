"""What becomes of a job's events: each has its number and time, and is written where it is kept."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from rpo.events import Drawn, Progress, to_record
from rpo.runs.folder import RunFolder


class Log:
    """The events of one run: numbered over its sessions, written to its folder and TensorBoard."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.number = 0  # of the next event
        self.writer: Any = None  # of TensorBoard, if that is wanted

    def go_on(self, records: Iterable[Mapping[str, Any]], finished: bool) -> None:
        """Counts on after a run's records; Finished itself is in no file."""
        self.number = max((r.get("number", -1) for r in records), default=-1) + 1 + finished

    def stamp(self, event: Any) -> Any:
        """The event with the run's name, its number and its time, unless it has them."""
        if event.number >= 0:
            return event
        number, self.number = self.number, self.number + 1
        return replace(event, run=self.run, number=number, time=time.time())

    def write(self, folder: RunFolder, event: Any, pictures: str = "") -> Any:
        """Writes an event, its pictures to images/<pictures>, and returns it stamped.

        Progress and Drawn are in no file.
        """
        if getattr(event, "images", None) is not None:
            files = folder.save_images(pictures, event.images, event.prompts)
            event = replace(event, files=tuple(files))
        event = self.stamp(event)
        if isinstance(event, (Progress, Drawn)):
            return event
        record = to_record(event)
        folder.record(record)
        if self.writer:
            step = record.get("step", 0)
            for key, value in record.items():
                if isinstance(value, float) and key != "time":
                    self.writer.add_scalar(f"{record['event']}/{key}", value, step)
        return event

    def close(self) -> None:
        """Closes TensorBoard's file."""
        if self.writer:
            self.writer.close()
