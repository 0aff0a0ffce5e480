"""`rpo evaluate`, and its tables. Registered with the other commands by `rpo.cli.commands`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from rpo.cli.options import DeviceFlag, JsonFlag


def evaluate_command(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN|MODEL",
            help="Run folders, and at most one base model (emojiland, a folder, a .safetensors "
            "file or a hub id), which is told the plain noun.",
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Pictures of any system instead, named SUBJECT/PROMPTNUMBER-K.png.",
        ),
    ] = None,
    subjects: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="The subjects' photos: emojiland, DreamBench's folder, or one with a "
            "subjects.toml. A model without runs draws them all; of runs: among whose photos a "
            "drawing has to find its own.",
            show_default="emojiland for its model",
        ),
    ] = None,
    images_per_prompt: Annotated[
        int | None,
        typer.Option(
            "--images-per-prompt",
            help="Pictures of each test prompt.",
            show_default="4; of --images the highest K",
        ),
    ] = None,
    ip_adapter: Annotated[
        Path | None,
        typer.Option(
            "--ip-adapter",
            metavar="FILE|FOLDER",
            help="One more row: MODEL with this IP-Adapter, which sees the subject's photos. "
            "A .safetensors file beside its image_encoder folder.",
        ),
    ] = None,
    ip_adapter_scale: Annotated[
        float | None,
        typer.Option(
            "--ip-adapter-scale",
            metavar="0..1",
            help="How much the photos say beside the prompt.",
            show_default="0.5",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change how MODEL draws, such as sampling.steps=20.",
        ),
    ] = None,
    dino: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="The judge of likeness: emojiland, a folder or a hub id.",
            show_default="facebook/dino-vits16, or emojiland for its own",
        ),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="The judge of CLIP-I and CLIP-T.",
            show_default="openai/clip-vit-base-patch32, or emojiland for its own",
        ),
    ] = None,
    aesthetic: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="LAION's aesthetic head, a .safetensors file."),
    ] = None,
    aesthetic_clip: Annotated[
        str, typer.Option(metavar="MODEL", help="The CLIP model that the head was fitted to.")
    ] = "openai/clip-vit-large-patch14",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to make.", show_default="evaluations/NAME-N in this directory"),
    ] = None,
    device: DeviceFlag = None,
    as_json: JsonFlag = False,
) -> None:
    r"""Measure what runs, a base model or IP-Adapter draw, or any system's pictures.

    Draws the test prompts, and prints for each system DINO, CLIP-I, CLIP-T,
    λ-harmonic, identity rank, diversity and class drift with intervals. All
    figures, by prompt, skill, subject and picture, go into evaluation.json
    in one new folder, the pictures beside it.

    [bold]Examples[/]

    [cyan]rpo evaluate runs/photos-1[/]
    [cyan]rpo evaluate runs/dog-1 runs/dog-2 --images-per-prompt 1[/]
    [cyan]rpo evaluate runs/dog-1 emojiland[/]
    [cyan]rpo evaluate emojiland --subjects emojiland --images-per-prompt 1[/]
    [cyan]rpo evaluate stable-diffusion-v1-5 --subjects dreambench --ip-adapter ip-adapter/models[/]
    [cyan]rpo evaluate --images pictures --subjects dreambench[/]
    """
    from rpo.evaluation.evaluate import FILE, evaluate

    messages = Console(stderr=True, highlight=False)
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=messages,
        disable=not messages.is_terminal,
        transient=True,
    )
    with bars:
        task = bars.add_task("loading", total=None)
        found = evaluate(
            runs or (),
            images=images,
            subjects=subjects,
            images_per_prompt=images_per_prompt,
            ip_adapter=ip_adapter,
            ip_adapter_scale=ip_adapter_scale,
            settings=settings or (),
            dino=dino,
            clip=clip,
            aesthetic=aesthetic,
            aesthetic_clip=aesthetic_clip,
            out=out,
            device=device,
            on_progress=lambda label, done, total: bars.update(
                task, description=label, completed=done, total=total
            ),
        )
    file = found.path / FILE
    if as_json:
        typer.echo(file.read_text(encoding="utf-8"), nl=False)
        return
    print_evaluation(found.data)
    print(f"\nAll figures: {file}")


def print_evaluation(data: Mapping[str, Any]) -> None:
    """A table for each system, one for runs taken together, and paired differences, on stdout."""
    console = Console(highlight=False)
    for system in [*data["systems"], *data["together"]]:
        _print_system(console, data, system)
    for difference in data["differences"]:
        table = _table("", "difference", "95 % interval")
        for name, told in difference["metrics"].items():
            table.add_row(_title(name), f"{told['mean']:+.3f}", _interval(told, "+.3f"))
        console.print(
            f"\n{difference['first']} − {difference['second']}", markup=False, soft_wrap=True
        )
        console.print(table)


def _print_system(console: Console, data: Mapping[str, Any], system: Mapping[str, Any]) -> None:
    from rpo.evaluation.metrics import METRICS
    from rpo.report.evaluated import provenance, subjects_of

    photos = system.get("photos", {})
    table = _table("", "", "mean", "95 % interval", "n", "real photos")
    for name, metric in METRICS.items():
        told = system["overall"].get(name)
        cells = ["–", "", ""]
        if told:
            cells = [f"{told['mean']:.3f}", _interval(told, ".3f"), str(told["n"])]
        arrow = {"higher": "↑", "lower": "↓"}[metric.better]
        table.add_row(_title(name), arrow, *cells, f"{photos[name]:.3f}" if name in photos else "–")
    say = lambda text: console.print(text, markup=False, soft_wrap=True)  # noqa: E731
    say(f"\n{system['name']}: {subjects_of(system)}")
    console.print(table)
    if len(system["subjects"]) == 1:
        drift = " (class drift: pictures)" if "class" in system else ""
        say(f"n: prompts of this one subject{drift}, no sample of subjects")
    for what, which in provenance(data, system):
        say(f"{what:<15}{which}")
    for line in system.get("missing", ()):
        console.print(Text(f"missing or left out: {line}", style="yellow"), soft_wrap=True)


def _interval(told: Mapping[str, Any], form: str) -> str:
    return "" if told["low"] is None else f"[{told['low']:{form}}, {told['high']:{form}}]"


def _title(name: str) -> str:
    from rpo.evaluation.metrics import METRICS

    return METRICS[name].title


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for place, name in enumerate(columns):
        table.add_column(name, justify="right" if place else "left", no_wrap=True)
    return table
