"""`rpo plan`: what a job would take, and settings that fit a card. Loads no weights."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rpo.cli.options import Method, Presets, Set
from rpo.errors import UserError, printable

if TYPE_CHECKING:
    from rpo.planning.estimate import Estimator
    from rpo.planning.plan import Plan
    from rpo.planning.rates import Rate

GB = 1e9


Options = tuple[str, str | None, list[str], list[str]]  # model, method, presets, settings


def plan(
    model: Annotated[
        str,
        typer.Option(
            help="Base model: emojiland, a folder, a hub id, or, before anything is downloaded, "
            "sd15, sd21, sdxl, sd35-medium or flux-dev."
        ),
    ],
    gpu_memory: Annotated[
        float | None,
        typer.Option(
            metavar="GB", help="Memory of the card to fit.", show_default="of the GPU here, if any"
        ),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help='Card to plan for, such as "RTX 3060"; gives memory and speed.',
            show_default="the GPU here, or one of that memory",
        ),
    ] = None,
    tflops: Annotated[
        float | None,
        typer.Option(
            help="Speed that the card sustains, in TFLOP/s, for the times.",
            show_default="a share of the maker's peak",
        ),
    ] = None,
    method: Method = None,
    preset: Presets = None,
    settings: Set = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    r"""Estimate a job's memory and time, and choose settings that fit a card.

    Only the shapes of the networks are read, nothing is downloaded or trained.
    Where the settings do not fit, these are changed, in this order, as far as
    it takes: pictures drawn at once, pairs at once, gradient checkpointing,
    offloading, of method online a tiny decoder, bfloat16, of online the
    drawings rewarded at once, LoRA, a base in 8 or 4 bits, an 8-bit
    optimiser, a lower rank. What --set gives stays as it is. GB are 10^9 bytes; a card sold
    as 8 GB has a little more. Where nothing fits, it says what is missing, and
    exits with 1. All figures are estimates.

    [bold]Examples[/]

    [cyan]rpo plan --model sd15 --gpu-memory 8[/]
    [cyan]rpo plan --model sdxl --gpu "RTX 4090" --set training.steps=1000[/]
    """
    from rich.console import Console

    from rpo.config import given, load_config
    from rpo.data.prompts import chosen_prompts
    from rpo.models.resolve import known_presets
    from rpo.planning.architectures import load_architecture
    from rpo.planning.estimate import Estimator
    from rpo.planning.plan import make_plan

    memory, rate = _card(gpu_memory, gpu, tflops)
    presets = known_presets()
    chosen: dict[str, Any] = {"known": presets, "model": model, "method": method}
    asked = given(preset, None, settings or (), **chosen)
    model = asked["model"]
    architecture = load_architecture(model, asked.get("reward.model", "auto"))
    names = list(preset or ())
    if architecture.hub_id and not presets.base_of(names):
        # No files are here by which load_config could know the family.
        names.insert(0, architecture.preset)
    config = load_config(names, None, settings or (), **chosen)
    lists = chosen_prompts(config)
    kind = "live" if config.subject_kind == "live" else "object"
    training, validation = (
        len(lists.prompts(split, kind, "dog", "[V]")) for split in ("training", "validation")
    )
    held = given(None, None, settings or ())
    with Console(stderr=True).status("measuring the networks' shapes"):
        estimator = Estimator(architecture, config, training, validation, memory is not None)
        made = make_plan(estimator, config, rate, memory and memory * GB, held)
    options = (architecture.hub_id or model, method, preset or [], settings or [])
    if as_json:
        typer.echo(json.dumps(as_record(made, estimator, rate, options), indent=2))
    else:
        print_plan(made, estimator, rate, options)
    if not made.fits:
        raise typer.Exit(1)


def _card(gpu_memory: float | None, gpu: str | None, tflops: float | None) -> tuple[Any, Rate]:
    """Memory in GB, None for the processor's own, and the speed. Raises UserError."""
    import torch

    from rpo.planning.rates import Rate, card_of_memory, find_card, measured_rate, rate_of

    for flag, value in (("--gpu-memory", gpu_memory), ("--tflops", tflops)):
        if value is not None and not 0 < value < 1e6:
            raise UserError(f"{flag} {value:g}: must be above 0; give what the card has, such as 8")
    card = find_card(gpu) if gpu else None
    here = torch.cuda.is_available() and gpu_memory is None and gpu is None
    if here:
        gpu_memory = torch.cuda.get_device_properties(0).total_memory / GB
    memory = gpu_memory or (card.memory if card else None)
    if tflops is not None:
        return memory, Rate(tflops * 1e12, tflops * 1e12, "as --tflops says")
    if memory is None:
        return None, measured_rate()
    if here and card is None:
        try:
            card = find_card(torch.cuda.get_device_name(0))
        except UserError:  # not in the table
            card = None
    return memory, rate_of(card or card_of_memory(memory))


def as_record(
    made: Plan,
    estimator: Estimator,
    rate: Rate,
    options: Options,
) -> dict[str, Any]:
    """Everything about a plan as plain values; memory in bytes."""
    from rpo.planning.plan import command

    return {
        "model": estimator.shape.name,
        "resolution": estimator.picture[1],
        "parameters": estimator.parts(),
        "gpu_memory": made.limit,
        "fits": made.fits,
        "peak": made.peak,
        "missing": max(0, round(made.peak - (made.limit or made.peak))),
        "seconds": round(made.seconds, 1),
        "speed": {"fp32": rate.fp32, "half": rate.half, "source": rate.source},
        "as_given": [asdict(phase) for phase in made.wanted],
        "phases": [asdict(phase) for phase in made.phases],
        "changes": [
            {
                "what": change.text,
                "settings": {key: after for key, _, after in change.settings},
                "phase": change.phase,
                "saved": change.saved,
            }
            for change in made.changes
        ],
        "settings": made.settings(),
        "command": command(made, *options) if made.fits else None,
    }


def print_plan(
    made: Plan,
    estimator: Estimator,
    rate: Rate,
    options: Options,
) -> None:
    """The phases as a table, the changes, and the command line to paste."""
    from rich.console import Console
    from rich.table import Table

    from rpo.planning.plan import command
    from rpo.report.page import duration, memory

    console = Console(highlight=False)

    def say(text: str = "", style: str | None = None) -> None:
        console.print(text, style=style, markup=False, soft_wrap=True)

    parts = ", ".join(
        f"{name.replace('_', ' ')} {_count(n)}" for name, n in estimator.parts().items()
    )
    say(f"{printable(estimator.shape.name)}, {estimator.picture[1]} pixels: {parts}\n")
    columns = ["as given"] if made.changes else []
    columns += ["weights", "activations", "peak", "time"]
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("phase")
    for name in columns:
        table.add_column(name, justify="right")
    for before, phase in zip(made.wanted, made.phases, strict=True):
        sizes = [phase.weights, phase.activations, phase.peak]
        values = [memory(size / 1e6) for size in ([before.peak] if made.changes else []) + sizes]
        full = made.limit is not None and phase.peak > made.limit
        table.add_row(phase.name, *values, duration(phase.seconds), style="red" if full else None)
    console.print(table)
    total = duration(made.seconds)
    say(f"\nAll of it takes about {total}, {rate.source}. All figures are estimates.")
    if made.changes:
        say("\nChanged, for the memory:")
    for change in made.changes:
        now = " ".join(f"{key}={after}" for key, _, after in change.settings)
        saved = f"{memory(change.saved / 1e6)} less in {change.phase}"
        say(f"  {now}: {change.text}, {saved}")
    if not made.fits:
        assert made.limit is not None
        fullest = max(made.phases, key=lambda phase: phase.peak)
        say(
            f"\nDoes not fit into {made.limit / GB:g} GB: {fullest.name} needs at least "
            f"{memory(made.peak / 1e6)}, {memory((made.peak - made.limit) / 1e6)} more. A lower "
            "resolution helps the activations.",
            "red",
        )
        return
    if made.limit is not None:
        left = memory((made.limit - made.peak) / 1e6)
        say(f"\nFits into {made.limit / GB:g} GB with {left} left:")
    else:
        say("\nName a card by --gpu-memory or --gpu to have settings chosen for it. As given:")
    say(f"\n{printable(command(made, *options))}", "cyan")
    if made.settings().get("training.weights") == "lora":
        say("\nAn adapter wants a larger training.learning_rate than all weights: try 1e-4.")


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.2f}B" if parameters >= 1e9 else f"{parameters / 1e6:.1f}M"
