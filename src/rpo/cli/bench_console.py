"""What a person sees of a benchmark: a line a finished job, and beneath it what is under way."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rpo.bench.executors.executor import Heard
from rpo.bench.runner import Tally
from rpo.errors import printable
from rpo.report.page import duration

SHOWN = 20  # jobs under way that have a line of their own


class BenchConsole(AbstractContextManager["BenchConsole"]):
    """On stderr; where that is no terminal there are only the lines of jobs that have ended."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.live = Live(console=self.console, refresh_per_second=4, transient=True)
        self.now: dict[str, tuple[str, int, int]] = {}  # phase, done, total by job
        self.steps: dict[str, int] = {}

    def __enter__(self) -> BenchConsole:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.live.stop()

    def say(self, text: str) -> None:
        """A line above the table, in rich's markup."""
        self.console.print(text, soft_wrap=True)

    def __call__(self, heard: Heard, tally: Tally) -> None:
        if heard.kind == "event":
            self._follow(heard.id, heard.record)
        else:
            self.now.pop(heard.id, None)
            self.steps.pop(heard.id, None)
            self._told(heard, tally)
        if self.console.is_terminal:
            self.live.update(self.table(tally))

    def _follow(self, job: str, record: Mapping[str, Any]) -> None:
        event = record.get("event")
        if event is None:
            self.now[job] = ("loading", 0, 0)
        elif event == "started":
            self.steps[job] = record["steps"]
        elif event == "progress":
            self.now[job] = (record["phase"], record["done"], record["total"])
        elif event == "step":
            self.now[job] = ("training", record["step"], self.steps.get(job, 0))

    def _told(self, heard: Heard, tally: Tally) -> None:
        name, count = escape(printable(heard.id)), f"{tally.done} of {tally.total}"
        text = escape(printable(heard.text))
        if heard.kind == "done":
            took = duration(heard.seconds.get("total", 0.0))
            self.say(f"[green]done[/]    {name}  [dim]{took}; {count}{_left(tally)}[/]")
        elif heard.kind == "failed":
            self.say(f"[red]failed[/]  {name}: {text}")
        elif heard.kind == "lost":
            self.say(f"[yellow]lost[/]    {name}: {text}; it goes on with another worker")
        else:
            self.say(f"[yellow]saved[/]   {name}")

    def table(self, tally: Tally) -> Group:
        """The whole, and each job that is under way."""
        whole = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=max(tally.total, 1), completed=tally.done + tally.failed, width=28)
        failed = f", {tally.failed} failed" if tally.failed else ""
        whole.add_row(bar, f"{tally.done} of {tally.total} jobs{failed}{_left(tally)}")
        jobs = Table.grid(padding=(0, 2))
        for name, (phase, done, total) in list(self.now.items())[:SHOWN]:
            reached = f"{done} of {total}" if total else ""
            jobs.add_row(Text(printable(name)), phase, reached, style="dim")
        return Group(whole, jobs)


class QuietConsole(AbstractContextManager["QuietConsole"]):
    """Says nothing."""

    def __exit__(self, *_: object) -> None: ...

    def say(self, text: str) -> None:
        """Nothing."""

    def __call__(self, heard: Heard, tally: Tally) -> None: ...


class JsonConsole(QuietConsole):
    """One JSON object a line on stdout: each job's beginning ("begun"), its events, and its end."""

    def __call__(self, heard: Heard, tally: Tally) -> None:
        import json

        told: dict[str, Any] = {"event": "begun" if heard.kind == "event" else heard.kind}
        told |= heard.record
        told |= {"job": heard.id, "done": tally.done, "failed": tally.failed, "total": tally.total}
        told |= {"text": heard.text} if heard.text else {}
        sys.stdout.write(json.dumps(told, ensure_ascii=True) + "\n")
        sys.stdout.flush()


def _left(tally: Tally) -> str:
    return f", {duration(tally.left)} left" if tally.left else ""
