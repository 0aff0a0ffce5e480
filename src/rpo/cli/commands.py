"""The `rpo` command. Thin: it turns flags into calls, and errors into one line and exit code 2."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from rpo.about import __version__
from rpo.cli.export import export_command
from rpo.cli.options import (
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
from rpo.cli.plan import plan
from rpo.config import SETTINGS, load_config
from rpo.data.bundled import bundled_names
from rpo.errors import UserError, printable
from rpo.events import Failed, Finished, Started
from rpo.models.resolve import known_presets

if TYPE_CHECKING:
    from rpo.data.subject import Subject

WRONG_INPUT, INTERRUPTED = 2, 130
# typer brings its own click along or uses the installed one: this finds the class in both.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rpo {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    r"""Teach a text-to-image model your subject from a handful of photos.

    Try it at once, offline, in a few minutes:

    [bold]rpo demo[/]
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), nl=False)


def _bundled() -> str:
    """The bundled subjects for a help text, where they are installed."""
    try:
        return f" One of {', '.join(bundled_names())}."
    except UserError:
        return ""


@app.command()
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


@app.command()
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
    [cyan]rpo train photos --noun dog --out runs/photos-1 --resume[/]
    """
    from rpo.data.subject import Subject, remark_on_folder

    presets = known_presets()
    chosen = load_config(preset, config, settings or (), known=presets, model=model, method=method)
    noun = noun or chosen.noun
    if not noun:
        raise UserError("--noun is missing; name what the photos show, such as --noun dog")
    # what is small for a photograph is large enough for Emojiland's 64 pixels
    small_below = 64 if chosen.model == "emojiland" else 256
    subject = Subject.from_folder(photos, noun, small_below=small_below)
    remarks = [
        f"{printable(item.path.name)}: {item.message}" for item in subject.checks if item.message
    ]
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
    }
    _run_job(subject, options, quiet, as_json, remarks)


@app.command()
def generate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help=r"What to draw, with \[V] dog in it.")
    ],
    n: Annotated[int, typer.Option("-n", help="Number of pictures.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the first; the next ones count up.")] = 0,
    steps: Annotated[
        int | None, typer.Option(help="Solver steps.", show_default="sampling.steps")
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(help="Guidance scale.", show_default="sampling.guidance_scale"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the PNGs.", show_default="images/generated in the run"),
    ] = None,
    device: DeviceFlag = None,
    unquantised: Annotated[
        bool,
        typer.Option(
            "--unquantised",
            help="On the base model's own weights, as exports; for a quantised run.",
        ),
    ] = False,
) -> None:
    r"""Draw pictures with a run's chosen weights.

    Prints the path of each PNG. The settings travel in the PNG's text, nothing
    is overwritten, and a seed always gives the same picture.

    [bold]Examples[/]

    [cyan]rpo generate runs/photos-1 "a \[V] dog on the Moon" -n 4 --seed 0[/]
    [cyan]rpo generate runs/photos-1 "a green \[V] dog" --guidance 5 --out pictures[/]
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    from rpo.runs.folder import check_writable, expanded
    from rpo.runs.pictures import save_generated
    from rpo.runs.result import Run, load_run

    result = Run(load_run(run).path, device, unquantised)
    folder = expanded(out) if out else result.path / "images" / "generated"
    check_writable(folder)
    name = f"{result.config.identifier} {result.config.noun}"
    messages = Console(stderr=True, highlight=False)
    if result.config.identifier not in prompt:
        messages.print(f'Note: the prompt does not hold "{name}".', markup=False)
    bars = Progress(
        TextColumn("drawing"),
        BarColumn(),
        console=messages,
        disable=not messages.is_terminal,
        transient=True,
    )
    with bars:
        task = bars.add_task("drawing", total=None)
        pictures = result.generate(
            prompt,
            n,
            seed,
            steps=steps,
            guidance_scale=guidance,
            on_step=lambda done, total: bars.update(task, completed=done, total=total),
        )
    texts = [result.settings(prompt, seed + i, steps, guidance) for i in range(n)]
    for path in save_generated(pictures, folder, prompt, texts):
        typer.echo(str(path))


app.command("export")(export_command)


@app.command()
def check(
    photos: PhotosArgument,
    sheet: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Also write a contact sheet with the crops."),
    ] = None,
) -> None:
    r"""Show which photos would be used, and what is wrong with others.

    Exits with 2 where `rpo train` would refuse the folder.

    [bold]Examples[/]

    [cyan]rpo check photos[/]
    [cyan]rpo check photos --sheet sheet.png[/]
    """
    from rpo.cli.tables import print_checks
    from rpo.data.contact_sheet import contact_sheet
    from rpo.data.subject import MIN_PHOTOS, check_folder

    if sheet is not None:
        _check_new_png(sheet)
    checks = check_folder(photos)
    print_checks(checks)
    if sheet is not None:
        try:
            contact_sheet(checks).save(sheet, format="PNG")
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"--sheet {sheet}: cannot be written ({reason})") from None
        typer.echo(f"\nContact sheet: {sheet}")
    rejected = [item for item in checks if item.status == "rejected"]
    if rejected:
        count = f"{len(rejected)} of {len(checks)} photos"
        raise UserError(f"{photos}: {count} cannot be used; repair or remove them")
    usable = sum(item.status != "ignored" for item in checks)
    if usable < MIN_PHOTOS:
        raise UserError(f"{photos}: only {usable} photo; add more, best are 4 to 6")


@app.command()
def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    r"""Show versions, devices, installed models and their cache.

    [bold]Examples[/]

    [cyan]rpo info[/]
    [cyan]rpo info --json[/]
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    from rpo.cli.tables import print_info
    from rpo.models.resolve import installed_models
    from rpo.runs.environment import hardware, versions

    models: list[dict[str, Any]] = [
        {"name": m.name, "kind": m.kind, "path": str(m.path), "bytes": m.size}
        for m in installed_models()
    ]
    machine = hardware()
    if as_json:
        found = {"versions": versions(), "hardware": machine, "models": models}
        typer.echo(json.dumps(found | {"cache": str(HF_HUB_CACHE)}, indent=2))
        return
    print_info(versions(), machine, models, str(HF_HUB_CACHE))


@app.command("settings")
def list_settings() -> None:
    r"""List every setting: its name, its default and what it is for.

    [bold]Examples[/]

    [cyan]rpo settings[/]
    [cyan]rpo train photos --noun dog --set training.steps=200[/]
    """
    from rpo.cli.tables import print_settings

    print_settings()


@app.command("methods")
def list_methods() -> None:
    r"""List the methods: what each learns, what it costs, and where it was published.

    [bold]Examples[/]

    [cyan]rpo methods[/]
    [cyan]rpo train photos --noun dog --method dreambooth[/]
    """
    from rpo.cli.tables import print_methods

    print_methods()


app.command()(plan)


# --- helpers -----------------------------------------------------------------------------


def _run_job(
    subject: Subject,
    options: dict[str, Any],
    quiet: bool,
    as_json: bool,
    remarks: Sequence[str] = (),
) -> None:
    """Consumes the job's events; on Ctrl-C or SIGTERM saves and says how to go on."""
    if quiet and as_json:
        raise UserError("--quiet and --json exclude each other; give one")
    from rich.markup import escape

    from rpo import api
    from rpo.cli import console
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
                        display.say(f"[yellow]warning:[/] {escape(remark)}")
                if stop.requested and not isinstance(event, Finished | Failed):
                    events.close()  # saves last/
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            message = "Interrupted; nothing was written."
            if path is not None and (path / "environment.json").exists():
                message = f"Interrupted. To continue: {console.resume_command(Run(path))}"
            raise _Interrupted(message) from None
    assert path is not None
    if quiet:
        typer.echo(str(path))
    elif not as_json:
        print_result(Run(path))


class _Interrupted(Exception):
    """Ctrl-C, with what to tell the user."""


def _check_new_png(sheet: Path) -> None:
    if sheet.suffix.lower() != ".png":
        raise UserError(f"--sheet {sheet}: name a file that ends in .png")
    try:
        if sheet.exists() or sheet.is_symlink():
            raise UserError(f"--sheet {sheet}: exists already; name another file")
        if not sheet.absolute().parent.is_dir():
            raise UserError(f"--sheet {sheet}: its folder does not exist; make it first")
    except OSError as error:
        raise UserError(f"--sheet {sheet}: {error.strerror}; name another file") from None


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code; errors go to stderr as one line."""
    try:
        command = typer.main.get_command(app)
        result = command(
            args=None if arguments is None else list(arguments),
            prog_name="rpo",
            standalone_mode=False,
        )
        return result if isinstance(result, int) else 0
    except UserError as error:
        return _fail(str(error), WRONG_INPUT)
    except _UsageError as error:
        text = error.format_message() if hasattr(error, "format_message") else str(error)
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "rpo"
        return _fail(f"{text.rstrip('.')}; see {path} --help", WRONG_INPUT)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", INTERRUPTED)
    except _Interrupted as message:
        print(message, file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader, such as head, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _fail(message: str, code: int) -> int:
    print(f"error: {printable(' '.join(message.split()))}", file=sys.stderr)
    return code


def main() -> NoReturn:
    """The entry point."""
    for stream in (sys.stdout, sys.stderr):  # a letter that the terminal lacks ends no job
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run())
