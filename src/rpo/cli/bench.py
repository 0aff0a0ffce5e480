"""`rpo bench` and `rpo batch`: many jobs, here or on a cluster, until done or interrupted."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rpo.cli.options import JsonFlag, Method, Presets, QuietFlag, Seed, Set
from rpo.config import load_config
from rpo.errors import UserError
from rpo.models.resolve import known_presets

if TYPE_CHECKING:
    from rpo.bench.executors.executor import Executor
    from rpo.bench.suite import BenchSuite

Results = Annotated[
    Path | None,
    typer.Option(help="Results folder; one that is there is completed.", show_default="by name"),
]
Jobs = Annotated[
    int,
    typer.Option(
        "--jobs",
        "-j",
        min=0,
        help="Jobs at once. They share the cores.",
        show_default="1; with ray what the cluster has room for",
    ),
]
Where = Annotated[str, typer.Option("--executor", help="local, or ray for a cluster.")]
Address = Annotated[
    str | None,
    typer.Option(help="Of the Ray cluster; auto finds it.", show_default="one on this machine"),
]
Cpus = Annotated[float, typer.Option(min=0, help="With ray: CPUs of each job.")]
Gpus = Annotated[float, typer.Option(min=0, help="With ray: GPUs of each job, 0.5 for half a one.")]
Memory = Annotated[float, typer.Option(min=0, help="With ray: memory of each job in GB.")]


def bench(
    suite: Annotated[
        str, typer.Argument(metavar="SUITE", help="A suite's TOML file, or one that ships.")
    ],
    out: Results = None,
    subjects: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="The subjects' photos, in the suite's place."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="The base model, in the suite's place.")] = None,
    small: Annotated[
        bool, typer.Option("--small", help="The suite's small version, to try it out.")
    ] = False,
    rows: Annotated[
        list[str] | None,
        typer.Option("--row", metavar="ROW", help="Only this row; repeat it for more."),
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option("--name", metavar="SUBJECT", help="Only this subject; repeat it for more."),
    ] = None,
    seeds: Annotated[
        list[int] | None,
        typer.Option(
            "--seed", min=0, metavar="N", help="This seed, not the suite's; repeat it for more."
        ),
    ] = None,
    held_out: Annotated[
        bool,
        typer.Option("--held-out", help="Without the subjects on which settings were chosen."),
    ] = False,
    settings: Set = None,
    jobs: Jobs = 0,
    executor: Where = "local",
    address: Address = None,
    cpus: Cpus = 1,
    gpus: Gpus = 0,
    memory: Memory = 0,
    quiet: QuietFlag = False,
    as_json: JsonFlag = False,
) -> None:
    r"""Compare methods: every subject by every row of a suite, under every seed.

    Each job is independent. What is done is not repeated: Ctrl-C saves, and
    the same command goes on; one with other rows, names or seeds adds to the
    same results. `rpo report` makes tables of them.

    [bold]Examples[/]

    [cyan]rpo bench emojiland --small[/]
    [cyan]rpo bench emojiland --jobs 4 --out results/emojiland[/]
    [cyan]rpo bench emojiland --held-out --row base --row rpo --seed 0[/]
    [cyan]rpo bench dreambench --subjects dreambench --model models/sd15 --executor ray[/]
    """
    from rpo.bench.suite import find_suite, read_suite

    file = find_suite(suite)
    found = read_suite(
        file,
        small=small,
        subjects=subjects,
        model=model,
        rows=rows or (),
        names=names or (),
        seeds=seeds or (),
        held_out=held_out,
        settings=settings or (),
    )
    default = Path("results") / (found.name + ("-small" if small else ""))
    begin = _executor(executor, jobs, address, cpus, gpus, memory)
    _run(found, out or default, begin, quiet, as_json)


def batch(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="It holds a folder of photos a subject.")
    ],
    noun: Annotated[str, typer.Option(help="What the photos of all of them show.")] = "",
    noun_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help='What those of each show: rex = "dog".'),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The base model.", show_default="emojiland")
    ] = None,
    method: Method = None,
    preset: Presets = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="Settings, as a run's config.toml.")
    ] = None,
    settings: Set = None,
    seed: Seed = None,
    keep: Annotated[
        str, typer.Option(help="Of each run: report, best (and its weights) or all.")
    ] = "best",
    out: Results = None,
    jobs: Jobs = 0,
    executor: Where = "local",
    address: Address = None,
    cpus: Cpus = 1,
    gpus: Gpus = 0,
    memory: Memory = 0,
    quiet: QuietFlag = False,
    as_json: JsonFlag = False,
) -> None:
    r"""Teach a model of its own to each of many subjects.

    The models lie in OUT/runs/batch.NAME.SEED/best. Ctrl-C saves, and the same
    command goes on.

    [bold]Examples[/]

    [cyan]rpo batch customers --noun dog --preset lora[/]
    [cyan]rpo batch customers --noun-file nouns.toml --jobs 4 --out results/customers[/]
    """
    from rpo.bench.batch import batch_suite
    from rpo.bench.suite import KEEP

    if keep not in KEEP:
        raise UserError(f"--keep must be one of {', '.join(KEEP)}, not {keep}")
    chosen = load_config(
        preset,
        config,
        settings or (),
        known=known_presets(),
        model=model,
        method=method,
        seed=seed,
    )
    found = batch_suite(folder, replace(chosen, noun=""), noun or chosen.noun, noun_file, keep)
    begin = _executor(executor, jobs, address, cpus, gpus, memory)
    _run(found, out or Path("results") / "batch", begin, quiet, as_json)


def _executor(
    name: str, jobs: int, address: str | None, cpus: float, gpus: float, memory: float
) -> Callable[[], Executor]:
    """What begins the executor once all else is known to be right."""
    from rpo.bench.executors.executor import load_work

    if name == "local":
        if address or gpus or memory:
            raise UserError("--address, --gpus and --memory are of --executor ray; add that")
        from rpo.bench.executors.local import LocalExecutor

        return lambda: LocalExecutor(jobs or 1, load_work)
    if name == "ray":
        from rpo.bench.executors.ray import Needs, RayExecutor, require_ray

        require_ray()
        return lambda: RayExecutor(jobs, load_work, address, Needs(cpus, gpus, memory))
    raise UserError(f"--executor must be local or ray, not {name}")


def _run(
    suite: BenchSuite,
    out: Path,
    executor: Callable[[], Executor],
    quiet: bool,
    as_json: bool,
) -> None:
    if quiet and as_json:
        raise UserError("--quiet and --json exclude each other; give one")
    from rpo.bench.session import run_suite
    from rpo.cli.bench_console import BenchConsole, JsonConsole, QuietConsole
    from rpo.cli.output import print_path
    from rpo.cli.signals import StopOnSignal
    from rpo.cli.train import Interruption
    from rpo.runs.folder import expanded

    console: Any = QuietConsole() if quiet else JsonConsole() if as_json else BenchConsole()
    results = expanded(out)
    request = lambda: console.say("Stopping and saving. Ctrl-C again stops at once.")  # noqa: E731
    with console, StopOnSignal(request) as stop:
        try:
            tally = run_suite(suite, results, executor, console, lambda: stop.requested)
        except KeyboardInterrupt:
            raise Interruption(_GO_ON, 128 + stop.number) from None
    if stop.requested and tally.done + tally.failed < tally.total:
        raise Interruption(
            f"{tally.done} of {tally.total} jobs are done. {_GO_ON}", 128 + stop.number
        )
    if quiet:
        print_path(results)
    elif not as_json:
        typer.echo(f"{tally.done} of {tally.total} jobs are done, in {os.fspath(results)}")
    if tally.failed:
        raise UserError(
            f"{tally.failed} jobs failed, as {results / 'jobs'}{os.sep}*.failed.json tell; mend "
            "what they name and run the same command again"
        )


_GO_ON = "Interrupted. The same command goes on."
