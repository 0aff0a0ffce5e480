"""Writes the report of a results folder: report.html, tables.md and a CSV file for each table."""

from __future__ import annotations

from pathlib import Path

from rpo.bench.records import JOBS
from rpo.bench.report.measured import read
from rpo.bench.report.page import render_page, report_on, to_page_markdown
from rpo.errors import UserError, printable
from rpo.reading import refuse_links
from rpo.report.tables import to_csv
from rpo.runs.replacing import replacing

FOLDER, PAGE, TABLES = "report", "report.html", "tables.md"
_REMEDY = "free some space, then run the same command again"


def is_results(folder: Path) -> bool:
    """Whether a folder holds the results of a benchmark."""
    return (folder / JOBS).is_dir()


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Writes the report into `out`, by default report/ of the results; returns the page's path.

    Files of an earlier report are replaced. Of several base models or judges the second group's CSV
    files have the group's number in their names. UserError for a folder without results, a damaged
    one, and a place where a report cannot be.
    """
    refuse_links(folder / JOBS)
    place = folder / FOLDER if out is None else out
    if place.is_symlink() or (place.exists() and not place.is_dir()):
        raise UserError(f"{printable(place)}: not a folder of its own; move it away, or name --out")
    results = read(folder)
    reports = [report_on(group) for group in results.groups]
    files = {PAGE: render_page(results, reports), TABLES: to_page_markdown(results, reports)}
    for number, report in enumerate(reports, 1):
        suffix = "" if number == 1 else f"-{number}"
        files |= {f"{table.name}{suffix}.csv": to_csv(table) for table in report.tables}
    place.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        with replacing(place / name, _REMEDY) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
    return place / PAGE
