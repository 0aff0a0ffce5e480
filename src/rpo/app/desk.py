"""What the three tabs share: the folder, the queue, and what is known of its runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rpo.app import pieces
from rpo.app.drawing import Drawer
from rpo.app.home import AGAIN, Home
from rpo.app.jobs import Queue
from rpo.app.plans import Plans
from rpo.app.watch import Course, Watch
from rpo.errors import UserError
from rpo.replacing import naming_full_disk

_MOST = 64  # runs that are watched at once


@dataclass
class Desk:
    """Everything that the page's handlers work with; one for all browsers."""

    home: Home
    queue: Queue
    plans: Plans = field(default_factory=Plans)
    drawer: Drawer = field(default_factory=Drawer)
    _watches: dict[str, Watch] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def course(self, name: str) -> Course:
        """A run's course up to now. Raises UserError for a name that is none."""
        path = self.home.place(name)
        with self._lock:
            if len(self._watches) > _MOST:
                self._watches.clear()
            if name not in self._watches:
                self._watches[name] = Watch(path, self.queue.file(name, "events"))
            return self._watches[name].course()

    def close(self) -> None:
        """Ends what only the page needs; jobs go on."""
        self.plans.close()
        self.drawer.close()


def told(handler: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
    """What a handler gives, and a UserError's message in place of raising it."""
    try:
        with naming_full_disk(Path("The runs' folder"), AGAIN):
            return handler(*arguments), ""
    except UserError as error:
        return None, str(error)
    except OSError as error:
        return None, error.strerror or type(error).__name__


def told_in_time(meanwhile: str, handler: Callable[..., str], *arguments: Any) -> Iterator[str]:
    """A line for as long as a handler works; then the HTML that it gives, or its problem."""
    yield pieces.note(meanwhile)
    found, problem = told(handler, *arguments)
    yield found or pieces.problem(problem)
