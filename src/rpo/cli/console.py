"""What a person, or a script, sees of a job: consumers of its events."""

from __future__ import annotations

import json
import os
import shlex
import sys
from contextlib import AbstractContextManager
from types import TracebackType
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
from rich.text import Text

from rpo import events
from rpo.data.prompts import photo_texts
from rpo.errors import printable
from rpo.report.page import duration
from rpo.runs.result import Run


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
            SpinnerColumn(
                "dots" if _can_print("⠋") else "line",
                finished_text="[green]✓" if _can_print("✓") else "[green]+",
            ),
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
        self.selects = True  # whether the reward chooses the step

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
        if isinstance(event, events.Started):
            self._start(event)
        elif isinstance(event, events.Progress):
            self._bar(event.phase, event.done, event.total)
        elif isinstance(event, events.Notice):
            self.say(f"[yellow]{_shown(event.message[:1].upper() + event.message[1:])}.[/]")
        elif isinstance(event, events.Labelled):
            self.say(
                f"[dim]{event.pairs} pairs labelled: the photo is preferred with probability "
                f"{event.mean_probability:.2f}[/]"
            )
        elif isinstance(event, events.StepDone):
            self._bar("training", event.step, self.steps)
        elif isinstance(event, events.Validated):
            self._validated(event)
        elif isinstance(event, events.Redrawn):
            self.say(f"On the base model's own weights the reward is {event.reward:.3f}.")
        elif isinstance(event, events.Stopped) and event.reason == "patience":
            self.say(f"Stopped early at step {event.step}: the reward no longer rises.")

    def _start(self, event: events.Started) -> None:
        self.steps, self.resumed_at = event.steps, event.resumed_at or 0
        self.selects = event.keep == "best"
        self.say(
            f"[bold]{_shown(event.subject)}[/] from {event.photos} photos, "
            f"model {_shown(event.model)}, into {_shown(event.path)}"
        )
        if event.resumed_at is not None:
            self.say(f"Continuing after step {event.resumed_at}.")
        for name, prompts in (
            ("photos", photo_texts(event.photo_prompts, event.reference_prompt)),
            ("training", event.training_prompts),
            ("validation", event.validation_prompts),
        ):
            self.say(f"[dim]{name} prompts: {_shown('; '.join(prompts))}[/]")
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
        best = "  [green]best so far[/]" if event.improved and self.selects else ""
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
        sys.stdout.write(json.dumps(events.to_record(event), ensure_ascii=True) + "\n")
        sys.stdout.flush()


Display = Bars | Quiet


def resume_command(run: Run) -> str:
    """The command line that continues a run."""
    folder = run.folder.environment()["subject"]["folder"]
    noun = shlex.quote(run.config.noun)
    out = shlex.quote(str(run.path))
    return f"rpo train {shlex.quote(folder)} --noun {noun} --out {out} --resume"


def _shown(text: str | os.PathLike[str]) -> str:
    """A stranger's text within rich's markup."""
    return escape(printable(text))


def _can_print(text: str) -> bool:
    try:
        text.encode(sys.stderr.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
