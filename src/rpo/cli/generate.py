"""`rpo generate`: pictures with a run's chosen weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rpo.cli.options import DeviceFlag
from rpo.cli.output import print_path
from rpo.errors import printable


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
        messages.print(f'Note: the prompt does not hold "{printable(name)}".', markup=False)
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
        print_path(path)
