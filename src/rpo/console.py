"""What a person, or a script, sees of a job: consumers of its events."""

from __future__ import annotations

import json
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import FrameType, TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from rpo import events, job
from rpo.report import duration
from rpo.result import Run
from rpo.run import event_record
from rpo.subject import PhotoCheck


class TimeLeft(ProgressColumn):
    """Time left by the mean pace so far: validations in between then count, as they should."""

    def render(self, task: Task) -> Text:
        done = task.completed - task.fields.get("before", 0)
        if task.finished or done <= 0 or not task.total or not task.elapsed:
            return Text("")
        left = task.elapsed / done * (task.total - task.completed)
        return Text(f"{duration(left)} left", style="cyan")


class Bars(AbstractContextManager["Bars"]):
    """Progress bars on stderr, one line a validation; nothing moves where it is no terminal."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.progress = Progress(
            SpinnerColumn(finished_text="[green]✓" if _can_print("✓") else "[green]+"),
            TextColumn("{task.description:<11}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeLeft(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.tasks: dict[str, Any] = {}
        self.steps = self.resumed_at = 0

    def __enter__(self) -> Bars:
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()

    def say(self, text: str) -> None:
        """A line above the bars, in rich's markup."""
        self.progress.print(text, soft_wrap=True)

    def __call__(self, event: Any) -> None:
        if isinstance(event, job.Started):
            self._start(event)
        elif isinstance(event, events.Progress):
            self._bar(event.phase, event.done, event.total)
        elif isinstance(event, events.Labelled):
            self.say(
                f"[dim]{event.pairs} pairs labelled: the photo is preferred with probability "
                f"{event.mean_probability:.2f}[/]"
            )
        elif isinstance(event, events.StepDone):
            self._bar("training", event.step, self.steps)
        elif isinstance(event, events.Validated):
            self._validated(event)
        elif isinstance(event, events.Stopped) and event.reason == "patience":
            self.say(f"Stopped early at step {event.step}: the reward no longer rises.")

    def _start(self, event: job.Started) -> None:
        self.steps, self.resumed_at = event.steps, event.resumed_at or 0
        self.say(
            f"[bold]{escape(event.subject)}[/] from {event.photos} photos, "
            f"model {escape(event.model)}, into {escape(str(event.path))}"
        )
        if event.resumed_at is not None:
            self.say(f"Continuing after step {event.resumed_at}.")
        for name, prompts in (
            ("photos", (event.reference_prompt,)),
            ("training", event.training_prompts),
            ("validation", event.validation_prompts),
        ):
            self.say(f"[dim]{name} prompts: {escape('; '.join(prompts))}[/]")
        self.tasks["loading"] = self.progress.add_task("loading", total=None)

    def _bar(self, phase: str, done: int, total: int) -> None:
        if "loading" in self.tasks:
            self.progress.remove_task(self.tasks.pop("loading"))
        if phase not in self.tasks:
            # What a resumed run did in an earlier session says nothing of the pace now.
            before = self.resumed_at if phase == "training" else 0
            self.tasks[phase] = self.progress.add_task(phase, total=total, before=before)
        task = self.tasks[phase]
        if phase == "validation" and done == 0:
            self.progress.reset(task, total=total)
        self.progress.update(task, completed=done, total=total)

    def _validated(self, event: events.Validated) -> None:
        self._bar("training", event.step, self.steps)
        best = "  [green]best so far[/]" if event.improved else ""
        self.say(
            f"step {event.step:>4}  reward {event.reward:.3f}  image {event.image_alignment:.3f}"
            f"  text {event.text_alignment:.3f}{best}"
        )


class Quiet(AbstractContextManager["Quiet"]):
    """Says nothing."""

    def __exit__(self, *_: object) -> None: ...

    def say(self, text: str) -> None:
        """Nothing."""

    def __call__(self, event: Any) -> None: ...


class JsonLines(Quiet):
    """One JSON object an event on stdout."""

    def __call__(self, event: Any) -> None:
        sys.stdout.write(json.dumps(event_record(event), ensure_ascii=True) + "\n")
        sys.stdout.flush()


Display = Bars | Quiet


class StopOnSignal(AbstractContextManager["StopOnSignal"]):
    """Turns the first Ctrl-C or SIGTERM into `requested`; the second one interrupts at once."""

    def __init__(self, on_request: Callable[[], None]) -> None:
        self.requested = False
        self._on_request = on_request
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopOnSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        self._on_request()

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def resume_command(run: Run) -> str:
    """The command line that continues a run."""
    folder = run.folder.environment()["subject"]["folder"]
    noun = shlex.quote(run.config.noun)
    out = shlex.quote(str(run.path))
    return f"rpo train {shlex.quote(folder)} --noun {noun} --out {out} --resume"


def print_result(run: Run, console: Console | None = None) -> None:
    """The table of validations, and where everything is, on stdout."""
    console = console or Console(highlight=False)
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for name in ("step", "reward", "image alignment", "text alignment"):
        table.add_column(name, justify="right")
    table.add_column("")
    for point in run.history:
        table.add_row(
            str(point.step),
            f"{point.reward:.4f}",
            f"{point.image_alignment:.4f}",
            f"{point.text_alignment:.4f}",
            "chosen" if point.chosen else "",
            style="bold green" if point.chosen else "",
        )
    console.print()
    console.print(table)
    console.print()
    if run.best_step == 0:
        console.print("No step scored above the base model: best/ is the base model itself.")
    prompt = f"a {run.config.identifier} {run.config.noun} on the Moon"
    for name, value in (
        ("Overview", run.path / "images" / "overview.png"),
        ("Pictures", run.path / "images"),
        ("Model", run.best),
        ("Report", run.report),
        ("Draw", f'rpo generate {shlex.quote(str(run.path))} "{prompt}" -n 4'),
    ):
        console.print(f"{name:<9}{value}", soft_wrap=True, markup=False)


def print_checks(checks: Sequence[PhotoCheck]) -> None:
    """The verdict on each photo, as a table on stdout."""
    styles = {"ok": "green", "warning": "yellow", "rejected": "red"}
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for name in ("photo", "size", "", "remark"):
        table.add_column(name, overflow="fold")
    for item in checks:
        size = f"{item.size[0]} x {item.size[1]}" if item.size else ""
        mark = Text(item.status, style=styles[item.status])
        table.add_row(Text(item.path.name), size, mark, Text(item.message))
    Console(highlight=False).print(table)


def _can_print(text: str) -> bool:
    try:
        text.encode(sys.stderr.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
