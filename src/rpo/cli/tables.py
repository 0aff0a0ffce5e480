"""What commands print on stdout: the validations of a run, photos, settings, the machine."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rpo.config import METHODS, SETTINGS, PhotosConfig, load_config
from rpo.errors import printable
from rpo.models.resolve import known_presets

if TYPE_CHECKING:
    from rpo.data.subject import PhotoCheck
    from rpo.runs.result import Run


def print_result(run: Run, console: Console | None = None) -> None:
    """The table of validations, and where everything is, on stdout."""
    console = console or Console(highlight=False)
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for name in ("step", "reward", "image alignment", "text alignment"):
        table.add_column(name, justify="right")
    table.add_column("")
    for point in run.history:
        table.add_row(
            str(point.step),
            f"{point.reward:.4f}",
            f"{point.image_alignment:.4f}",
            f"{point.text_alignment:.4f}",
            "chosen" if point.chosen else "",
            style="bold green" if point.chosen else "",
        )
    console.print()
    console.print(table)
    console.print()
    if run.best_step == 0:
        console.print("No step scored above the base model: best/ is the base model itself.")
    prompt = f"a {run.config.identifier} {run.config.noun} on the Moon"
    for name, value in (
        ("Overview", run.path / "images" / "overview.png"),
        ("Pictures", run.path / "images"),
        ("Model", run.best),
        ("Report", run.report),
        ("Draw", f'rpo generate {shlex.quote(str(run.path))} "{prompt}" -n 4'),
    ):
        console.print(f"{name:<9}{printable(str(value))}", soft_wrap=True, markup=False)


def print_checks(checks: Sequence[PhotoCheck], settings: PhotosConfig | None = None) -> None:
    """The verdict on each photo, as a table on stdout; what lies beside it, where something does.

    settings: those that the photos were checked with.
    """
    from rpo.data.beside import described
    from rpo.data.subject import remark_on_folder

    styles = {"ok": "green", "warning": "yellow", "rejected": "red", "ignored": "dim"}
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    more = [described(item.beside, settings or PhotosConfig()) for item in checks]
    names = [name for name in ("crop", "mask", "caption") if any(name in each for each in more)]
    for name in ("photo", "size", "", *names, "remark"):
        table.add_column(name, overflow="fold")
    for item, beside in zip(checks, more, strict=True):
        size = f"{item.size[0]} x {item.size[1]}" if item.size else ""
        mark = Text(item.status, style=styles[item.status])
        told = [beside.get(name, "") if item.square else "" for name in names]
        cells = [Text(printable(text)) for text in (item.path.name, *told, item.message)]
        table.add_row(cells[0], size, mark, *cells[1:])
    console = Console(highlight=False)
    console.print(table)
    if remark_on_all := remark_on_folder(checks):
        text = f"\nAll together: {printable(remark_on_all)}."
        console.print(text, soft_wrap=True, markup=False)


def print_settings() -> None:
    """Every setting with its default and its help; then what each preset changes."""
    console = Console(highlight=False)
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("setting", no_wrap=True)
    table.add_column("default", no_wrap=True)
    table.add_column("what it is for")
    for key, setting in SETTINGS.items():
        choices = f" One of {', '.join(setting.choices)}." if setting.choices else ""
        default = str(setting.default) or '""'
        table.add_row(Text(key), Text(default), Text(setting.help + choices))
    console.print(table)
    presets = known_presets()
    for name, text in presets.help.items():
        console.print(f"\n--preset {name}: {text}", markup=False, soft_wrap=True)
        for section, values in presets.settings[name].items():
            if not isinstance(values, Mapping):
                console.print(f"  {section} = {values}", markup=False)
                continue
            for key, value in values.items():
                console.print(f"  {section}.{key} = {value}", markup=False)


def print_methods() -> None:
    """Every method: its learners, its cost with the paper's settings, what it learns, its paper."""

    console = Console(highlight=False)
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("method", no_wrap=True)
    table.add_column("what learns")
    for name in ("learning", "base", "texts"):
        table.add_column(name, justify="right")
    table.add_column("drawn before")
    for name, facts in METHODS.items():
        config = load_config("paper", method=name)
        passes = METHODS[config.method].passes(config)
        rows = (f"{n:g}" for n in (passes.learning, passes.base, passes.texts))
        drawn = [f"{passes.drawn} a prompt"] if passes.drawn else []
        drawn += [f"{passes.class_pictures} of the class"] if passes.class_pictures else []
        cells = (name, ", ".join(facts.learners), *rows, ", ".join(drawn) or "nothing")
        table.add_row(*map(Text, cells))
    console.print(table)
    console.print(
        "\nRows that one photo of a step sends through what learns, the frozen base model and the "
        "text\nencoders; pictures that the base model draws before. With the preset paper.",
        markup=False,
        soft_wrap=True,
    )
    for name, facts in METHODS.items():
        console.print(f"\n{name}: {facts.title} ({facts.paper})", markup=False, soft_wrap=True)
        console.print(f"  {facts.learns}", markup=False, soft_wrap=True)


def print_info(
    versions: Mapping[str, str | None],
    machine: Mapping[str, Any],
    models: Sequence[Mapping[str, Any]],
    cache: str,
) -> None:
    """Versions, hardware and models, a line each."""
    rows: list[tuple[str, str]] = [(k, v or "not installed") for k, v in versions.items()]
    rows += [("system", machine["system"])]
    rows += [("processor", f"{machine['processor']}, {machine['cores']} cores")]
    rows += [("memory", f"{machine['memory_gb']} GB")] if machine["memory_gb"] else []
    rows += [("accelerator", item["name"]) for item in machine["accelerators"]]
    rows += [] if machine["accelerators"] else [("accelerator", "none; training uses the CPU")]
    rows += [(m["kind"], f"{m['name']} ({m['bytes'] / 1e6:.1f} MB) {m['path']}") for m in models]
    rows += [] if models else [("models", "none installed")]
    rows += [("model cache", cache)]
    for name, value in rows:
        print(f"{name:<18}{printable(value)}")
