"""One model of a table, and what it looks like as Markdown, CSV and HTML.

A cell is text, a number, an `Interval`, or None where there is nothing. Text may be anybody's: each
renderer escapes it.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Literal

from rpo.errors import printable
from rpo.evaluation.statistics import Interval
from rpo.report import page

Value = str | int | float | Interval | None
MINUS, NOTHING = "\N{MINUS SIGN}", "–"


@dataclass(frozen=True)
class Column:
    """form: of its floats, as `format` takes it. published: not measured here, which it says."""

    title: str
    kind: Literal["text", "number"] = "number"
    form: str = ".3f"
    published: bool = False

    @property
    def heading(self) -> str:
        """The title, and what it is not."""
        return f"{self.title} (published, not measured here)" if self.published else self.title


@dataclass(frozen=True)
class Row:
    """One value a column. strong: the places of those that stand out. chosen: the row does."""

    values: tuple[Value, ...]
    strong: frozenset[int] = frozenset()
    chosen: bool = False


@dataclass(frozen=True)
class Table:
    """A table with what it says and what it cannot be read without.

    name: of its file. about: what its figures cannot be compared without, (what, which). notes:
    sentences below it, such as what failed.
    """

    name: str
    title: str
    intro: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    about: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def cell_text(value: Value, form: str) -> str:
    """A cell in plain text: "0.652 [0.610, 0.694]"."""
    if value is None:
        return NOTHING
    if isinstance(value, Interval):
        low, high = (_number(v, form) for v in (value.low, value.high))
        return f"{_number(value.mean, form)} [{low}, {high}]"
    if isinstance(value, float):
        return _number(value, form)
    return printable(str(value))


def _number(value: float, form: str) -> str:
    text = format(value, form)
    if not text.strip("+-0."):  # that it is a little below 0 is not told by three digits
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


# --- Markdown ----------------------------------------------------------------------------


def to_markdown(table: Table, level: int = 2) -> str:
    """The table under its heading, of GitHub's Markdown."""
    lines = [f"{'#' * level} {plain_markdown(table.title)}", ""]
    lines += [plain_markdown(table.intro), ""] if table.intro else []
    lines += ["| " + " | ".join(plain_markdown(c.heading) for c in table.columns) + " |"]
    lines += [
        "| " + " | ".join("---" if c.kind == "text" else "---:" for c in table.columns) + " |"
    ]
    for row in table.rows:
        cells = []
        for place, (column, value) in enumerate(zip(table.columns, row.values, strict=True)):
            text = plain_markdown(cell_text(value, column.form))
            cells.append(f"**{text}**" if place in row.strong else text)
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *(f"- {plain_markdown(note)}" for note in table.notes)] if table.notes else []
    lines += [
        "",
        *(f"- {plain_markdown(what)}: {plain_markdown(which)}" for what, which in table.about),
    ]
    return "\n".join(lines) + "\n"


_MARKS = re.compile(r"[\\`*_{}<>#|!~&]|\](?=[(\[:])")


def plain_markdown(text: str) -> str:
    """Text as one line that Markdown shows as it is; where no "](" is, nothing is a link."""
    return _MARKS.sub(r"\\\g<0>", printable(text))


# --- CSV ---------------------------------------------------------------------------------


def to_csv(table: Table) -> str:
    """Comma-separated values, an interval in four columns. What it is about is in the Markdown.

    Text that a spreadsheet would take for a formula is preceded by an apostrophe.
    """
    rows = [list(row.values) for row in table.rows]
    split = [
        any(isinstance(row[place], Interval) for row in rows) for place in range(len(table.columns))
    ]
    head: list[str] = []
    for column, is_split in zip(table.columns, split, strict=True):
        head += [_harmless(column.heading)]
        head += [f"{column.heading}, {part}" for part in ("low", "high", "n")] if is_split else []
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(head)
    for row in rows:
        cells: list[str] = []
        for value, is_split in zip(row, split, strict=True):
            cells += _csv_cells(value, is_split)
        writer.writerow(cells)
    return file.getvalue()


def _csv_cells(value: Value, split: bool) -> Iterator[str]:
    if isinstance(value, Interval):
        yield from (f"{v:.6f}" for v in (value.mean, value.low, value.high))
        yield str(value.n)
        return
    if value is None:
        yield ""
    elif isinstance(value, str):
        yield _harmless(printable(value))
    else:
        yield f"{value:.6f}" if isinstance(value, float) else str(value)
    if split:
        yield from ("", "", "")


def _harmless(text: str) -> str:
    return f"'{text}" if text[:1] in tuple("=+-@") else text


# --- HTML --------------------------------------------------------------------------------


def to_html(table: Table, level: int = 3) -> str:
    """The table under its heading; an interval stands small beside its mean."""
    head = [(printable(column.heading), _style(column)) for column in table.columns]
    rows = []
    for row in table.rows:
        cells = []
        for place, (column, value) in enumerate(zip(table.columns, row.values, strict=True)):
            style = _style(column, "strong" if place in row.strong else "")
            cells.append(f'<td class="{style}">{_html_cell(value, column)}</td>')
        opening = '<tr class="pick">' if row.chosen else "<tr>"
        rows.append(f"{opening}{''.join(cells)}</tr>")
    about = " · ".join(
        f"<b>{escape(printable(what))}</b> {escape(printable(which))}"
        for what, which in table.about
    )
    notes = "".join(f"<li>{escape(printable(note))}</li>" for note in table.notes)
    intro = f'<p class="soft">{escape(printable(table.intro))}</p>' if table.intro else ""
    return (
        f'<div class="result"><h{level}>{escape(printable(table.title))}</h{level}>{intro}'
        + page.table(head, rows)
        + (f'<ul class="notes">{notes}</ul>' if notes else "")
        + (f'<p class="about">{about}</p>' if about else "")
        + "</div>"
    )


def _style(column: Column, also: str = "") -> str:
    names = ("n" if column.kind == "number" else "", "published" if column.published else "", also)
    return " ".join(name for name in names if name)


def _html_cell(value: Value, column: Column) -> str:
    if isinstance(value, Interval):
        whole = cell_text(value, column.form)
        mean, _, interval = whole.partition(" ")
        return f"{escape(mean)} <small>{escape(interval)}</small>"
    return escape(cell_text(value, column.form))
