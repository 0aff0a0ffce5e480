"""What the trainings said of themselves: labels, margins, rewards. For who chooses settings."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

from rpo.bench.report.about import about
from rpo.bench.report.measured import Cell, Group, Measured
from rpo.report.tables import Column, Row, Table

Read = Callable[[Cell], float | None]

_COLUMNS: tuple[tuple[Column, Read], ...] = (
    (Column("label p", form=".2f"), lambda cell: cell.training.get("label_mean_probability")),
    (Column("margin m", form=".2f"), lambda cell: cell.training.get("last_margin")),
    (Column("highest reward"), lambda cell: max(point[1] for point in cell.curve)),
    (Column("its step", form=".0f"), lambda cell: max(cell.curve, key=lambda p: p[1])[0]),
)


def training_table(group: Group) -> Table | None:
    """A row for each row of the suite that trains, its means over all jobs; None without any."""
    lines: dict[str, Measured] = {}
    for line in group.lines.values():
        if any(cell.curve for cell in line.cells.values()) and (
            line.row not in lines or line.choose == "best"  # whose title is the row's own
        ):
            lines[line.row] = line
    if not lines:
        return None
    rows = []
    for line in lines.values():
        cells = [cell for cell in line.cells.values() if cell.curve]
        found = [[v for cell in cells if (v := read(cell)) is not None] for _, read in _COLUMNS]
        means = [fmean(values) if values else None for values in found]
        rows.append(Row((line.title, *means, len(cells))))
    return Table(
        "training",
        "What the trainings said",
        "p: how often the labels prefer the photo, in the mean. m = β (Δ_ref − Δ_gen), over the "
        "last steps, as many as lie between two validations. The highest reward of the validations "
        "is by the reward model; those of different λ or mean cannot be compared.",
        (Column("method", "text"), *(column for column, _ in _COLUMNS), Column("jobs")),
        tuple(rows),
        about(group, {place for line in lines.values() for place in line.cells}),
    )
