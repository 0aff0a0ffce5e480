"""`rpo train` and `rpo demo`: a job's events, consumed to its end or to the user's interrupt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rpo.cli.options import (
    CropFlag,
    DeviceFlag,
    JsonFlag,
    Method,
    Out,
    PhotosArgument,
    Presets,
    QuietFlag,
    Seed,
    Set,
)
from rpo.config import SETTINGS, load_config
from rpo.data.bundled import bundled_names
from rpo.errors import UserError, printable
from rpo.events import Failed, Finished, Interrupted, Started
from rpo.models.resolve import known_presets

if TYPE_CHECKING:
    from rpo.data.subject import Subject


def _bundled() -> str:
    """The bundled subjects for a help text, where they are installed."""
    try:
        return f" One of {', '.join(bundled_names())}."
    except UserError:
        return ""


def demo(
    subject: Annotated[
        str | None, typer.Option(help=f"A bundled subject.{_bundled()}", show_default="dog")
    ] = None,
    method: Method = None,
    preset: Presets = None,
    out: Out = None,
    seed: Seed = None,
    settings: Set = None,
    quiet: QuietFlag = False,
    as_json: JsonFlag = False,
) -> None:
    r"""Run the whole job on a bundled subject, offline.

    Draws training pictures, labels them, trains, keeps the best step, and ends
    with a table and the place of the pictures and the report.
    Takes a few minutes on a laptop.

    [bold]Examples[/]

    [cyan]rpo demo[/]
    [cyan]rpo demo --subject cat --seed 1 --out my-cat[/]
    [cyan]rpo demo --method dreambooth --preset lora[/]
    """
    from rpo.data.bundled import bundled_subject

    photos = bundled_subject(subject or "")
    options = {
        "model": "emojiland",
        "method": method,
        "preset": preset,
        "out": out,
        "seed": seed,
        "settings": settings or (),
    }
    _run_job(photos, options, quiet, as_json)


def train(
    photos: PhotosArgument,
    noun: Annotated[
        str | None,
        typer.Option(help=f"{SETTINGS['noun'].help} Required, here or in --config."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help=SETTINGS["model"].help, show_default="emojiland"),
    ] = None,
    method: Method = None,
    preset: Presets = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help="Settings, as the config.toml of a run."),
    ] = None,
    crop: CropFlag = None,
    settings: Set = None,
    out: Out = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted run exactly.")
    ] = False,
    seed: Seed = None,
    device: DeviceFlag = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also log to tensorboard/ in the run folder.")
    ] = False,
    quiet: QuietFlag = False,
    as_json: JsonFlag = False,
) -> None:
    r"""Teach a model the subject of your photos.

    Everything goes into one new folder: best/ is a diffusers pipeline, and
    report.html shows what was learned.
    Ctrl-C stops cleanly; the same command with --out and --resume goes on.

    [bold]Examples[/]

    [cyan]rpo train photos --noun dog[/]
    [cyan]rpo train photos --noun dog --preset paper --model models/sd15[/]
    [cyan]rpo train photos --noun dog --method dreambooth --preset lora --preset early-stop[/]
    [cyan]rpo train photos --noun dog --preset early-stop --set training.steps=200[/]
    [cyan]rpo train photos --noun dog --config runs/photos-1/config.toml --seed 1[/]
    [cyan]rpo train photos.zip --noun dog --crop none[/]
    [cyan]rpo train photos --noun dog --out runs/photos-1 --resume[/]
    """
    from rpo.data.subject import Subject, remark_on_folder

    cropped = None if crop is None else {"crop": crop}
    fields: dict[str, Any] = {"model": model, "method": method, "photos": cropped}
    chosen = load_config(preset, config, settings or (), known=known_presets(), **fields)
    noun = noun or chosen.noun
    if not noun:
        raise UserError("--noun is missing; name what the photos show, such as --noun dog")
    # what is small for a photograph is large enough for Emojiland's 64 pixels
    small_below = 64 if chosen.model == "emojiland" else 256
    # which crop a run that goes on has, its own settings say
    asked = None if resume else chosen.photos
    subject = Subject.from_folder(photos, noun, small_below=small_below, settings=asked)
    remarks = [f"{item.path.name}: {item.message}" for item in subject.checks if item.message]
    if remark := remark_on_folder(subject.checks):
        remarks.append(remark)
    options = {
        "model": model,
        "method": method,
        "preset": preset,
        "config": config,
        "settings": settings or (),
        "out": out,
        "resume": resume,
        "seed": seed,
        "device": device,
        "tensorboard": tensorboard,
        "photos": cropped,
    }
    _run_job(subject, options, quiet, as_json, remarks)


class Interruption(Exception):
    """A signal ended the job: what to tell the user, and the exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def _run_job(
    subject: Subject,
    options: dict[str, Any],
    quiet: bool,
    as_json: bool,
    remarks: Sequence[str] = (),
) -> None:
    """Consumes the job's events; on Ctrl-C, SIGTERM or SIGHUP saves and says how to go on."""
    if quiet and as_json:
        raise UserError("--quiet and --json exclude each other; give one")
    from rich.markup import escape

    from rpo import api
    from rpo.cli import console
    from rpo.cli.output import print_path
    from rpo.cli.signals import StopOnSignal
    from rpo.cli.tables import print_result
    from rpo.runs.result import Run

    display: console.Display
    display = console.Quiet() if quiet else console.JsonLines() if as_json else console.Bars()
    path: Path | None = None
    request = lambda: display.say("Stopping and saving. Ctrl-C again stops at once.")  # noqa: E731
    with display, StopOnSignal(request) as stop:
        events = api.iterate(subject, **options)
        try:
            for event in events:
                if isinstance(event, Started):
                    path = event.path
                display(event)
                if isinstance(event, Started):
                    for remark in remarks:
                        display.say(f"[yellow]warning:[/] {escape(printable(remark))}")
                if stop.requested and not isinstance(event, Finished | Failed | Interrupted):
                    display(events.throw(KeyboardInterrupt()))  # saves last/
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            message = "Interrupted; nothing was written."
            if path is not None and (path / "environment.json").exists():
                message = f"Interrupted. To continue: {console.resume_command(Run(path))}"
            raise Interruption(message, 128 + stop.number) from None
    assert path is not None
    if quiet:
        print_path(path)
    elif not as_json:
        print_result(Run(path))
