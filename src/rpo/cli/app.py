"""`rpo app`: the page in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def app_command(
    runs: Annotated[
        Path, typer.Argument(metavar="[RUNS]", help="Folder of the runs.", show_default="runs")
    ] = Path("runs"),
    host: Annotated[
        str,
        typer.Option(help="Address to answer on; another than this machine's own needs the link."),
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, show_default="the first free one from 7860"),
    ] = None,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")
    ] = True,
) -> None:
    r"""Open the page: photos in, your subject everywhere, in the browser.

    Teach, draw, compare and export without a command line. Nothing leaves this
    machine. Jobs go on when the page is closed, and when this command is
    stopped by Ctrl-C. With another --host the page opens only by the link that
    is printed: whoever has it may use this machine.

    [bold]Examples[/]

    [cyan]rpo app[/]
    [cyan]rpo app my-runs --port 8000 --no-browser[/]
    [cyan]rpo app --host 0.0.0.0[/]
    """
    from rpo.app.server import serve

    def ready(link: str) -> None:
        typer.echo(f"Ready: {link}")
        if browser:
            import webbrowser

            webbrowser.open(link)

    serve(runs, host, port, ready)
