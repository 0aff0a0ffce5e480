"""The `rpo` command. Thin: it turns flags into calls, and errors into one line and exit code 2."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer

from rpo.about import __version__
from rpo.cli.app import app_command
from rpo.cli.bench import batch, bench
from rpo.cli.check import check
from rpo.cli.evaluate import evaluate_command
from rpo.cli.export import export_command
from rpo.cli.generate import generate
from rpo.cli.output import LastingOutput
from rpo.cli.plan import plan
from rpo.cli.report import report
from rpo.cli.train import Interruption, demo, train
from rpo.errors import UserError, printable

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


app.command()(demo)
app.command()(train)
app.command()(generate)
app.command("export")(export_command)
app.command("evaluate")(evaluate_command)
app.command()(bench)
app.command()(batch)
app.command()(report)
app.command()(check)


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
app.command("app")(app_command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit code; errors go to stderr as one line."""
    try:
        command = typer.main.get_command(app)
        result = command(
            args=None if arguments is None else list(arguments),
            prog_name="rpo",
            standalone_mode=False,
        )
        if result == INTERRUPTED:  # typer's newer releases make that of a KeyboardInterrupt
            raise KeyboardInterrupt
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
    except Interruption as wish:
        print(printable(str(wish)), file=sys.stderr)
        return wish.code
    except OSError as error:
        return _fail(_told(error), WRONG_INPUT)


def _fail(message: str, code: int) -> int:
    print(f"error: {printable(' '.join(message.split()))}", file=sys.stderr)
    return code


_REMEDIES = {
    errno.ENAMETOOLONG: "shorten it",
    errno.ENOSPC: "free some space",
    errno.EROFS: "name another place, or copy it to one",
    errno.EACCES: "make it readable and writable, or name another",
    errno.EPERM: "make it readable and writable, or name another",
}


def _told(error: OSError) -> str:
    """What the system refused: the file, the reason and the remedy."""
    try:
        os.getcwd()
    except OSError:
        return "the current folder is gone; cd to another one"
    if error.errno is None or error.strerror is None:
        return str(error) or type(error).__name__
    place = f"{os.fsdecode(error.filename)}: " if error.filename else ""
    remedy = _REMEDIES.get(error.errno, "correct it, or name another")
    return f"{place}{error.strerror}; {remedy}"


def main() -> NoReturn:
    """The entry point.

    Exits with 0, or 2 for what the user can mend, 130 after Ctrl-C and 128 + its number after
    another signal; and with 1 where all is done but stdout could not take what was printed.
    """
    with LastingOutput() as output:
        code = run()
        if lost := output.lost():
            message = f"what was printed could not be written ({lost}); the work itself is done"
            code = code or _fail(message, 1)
    sys.exit(code)
