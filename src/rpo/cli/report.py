"""`rpo report`. Registered with the other commands by `rpo.cli.commands`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rpo.cli.output import print_path


def report(
    folder: Annotated[
        Path,
        typer.Argument(metavar="RESULTS", help="The results folder of `rpo bench`, or a run."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for it.", show_default="report/ in the results"),
    ] = None,
    subjects: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Whose photos stand beside the drawings, as of `rpo evaluate`.",
            show_default="emojiland, for its suites",
        ),
    ] = None,
) -> None:
    r"""Make tables and a page of a benchmark's results.

    report.html has the paper's tables, plots, the pictures, what failed, and
    what became of the paper's claims; tables.md and a CSV file for each table
    hold the figures. Of a run folder, its report.html is made anew.

    [bold]Examples[/]

    [cyan]rpo report results/emojiland[/]
    [cyan]rpo report results/dreambench --subjects dreambench --out report[/]
    [cyan]rpo report runs/photos-1[/]
    """
    from rpo.bench.report.write import write_report

    print_path(write_report(folder, out, subjects))
