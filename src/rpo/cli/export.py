"""`rpo export`. Registered with the other commands by `rpo.cli.commands`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rpo.cli.output import print_path
from rpo.exports.export import DTYPES, FORMATS


def export_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    to: Annotated[
        str,
        typer.Option(
            metavar="FORMAT",
            help="; ".join(f"{name}: {meaning}" for name, meaning in FORMATS.items()) + ".",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to make.", show_default="export/FORMAT in the run"),
    ] = None,
    dtype: Annotated[
        str, typer.Option(help=f"Precision: {', '.join(DTYPES)}. fp32 is as trained.")
    ] = "fp32",
    push: Annotated[
        str | None,
        typer.Option(
            metavar="ORG/NAME",
            help="Also upload it to a new, private repository on the Hugging Face hub.",
        ),
    ] = None,
) -> None:
    r"""Write a run's chosen weights for another tool.

    Makes one folder, with a README.md that says how to draw with it, and
    prints its path. Nothing is overwritten, and nothing leaves this machine
    without --push.

    [bold]Examples[/]

    [cyan]rpo export runs/photos-1 --to diffusers --dtype fp16[/]
    [cyan]rpo export runs/photos-1 --to kohya --out for-a1111[/]
    [cyan]rpo export runs/photos-1 --to comfyui --dtype bf16[/]
    [cyan]rpo export runs/photos-1 --to lora --push me/my-dog[/]
    """
    from rpo.exports import export
    from rpo.runs.result import load_run

    opened = load_run(run)
    export.check(opened, to, out, dtype)
    if push is not None:
        export.check_push(push)  # before minutes of work
    folder = export.export(opened, to, out, dtype)
    print_path(folder)
    if push is not None:
        typer.echo(export.push(folder, push))
