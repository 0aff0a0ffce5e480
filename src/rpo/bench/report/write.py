"""Writes the report of a results folder: report.html, tables.md and a CSV file for each table."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from PIL import Image, ImageOps

from rpo.bench.records import FOLDER, JOBS, PAGE, SUITE, is_results
from rpo.bench.report.figures import TILE, Photos
from rpo.bench.report.measured import Results, read
from rpo.bench.report.page import GroupReport, render_page, report_on, to_page_markdown
from rpo.data.photo import RejectedPhoto, read_photo
from rpo.errors import UserError, printable
from rpo.evaluation.dreambench import load_suite
from rpo.models.resolve import EMBEDDED
from rpo.reading import refuse_links
from rpo.replacing import replacing
from rpo.report import page
from rpo.report.report import render_report
from rpo.report.tables import to_csv
from rpo.runs.folder import expanded, is_run
from rpo.runs.locking import locked
from rpo.runs.result import load_run

TABLES = "tables.md"
_REMEDY = "free some space, then run the same command again"


def read_reports(folder: Path) -> tuple[Results, list[GroupReport]]:
    """What a results folder says, and its tables. Raises UserError as `write_report` does."""
    for name in (JOBS, SUITE):
        refuse_links(folder / name)
    results = read(folder)
    return results, [report_on(group, results.suite) for group in results.groups]


def write_report(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    subjects: str | None = None,
) -> Path:
    """Writes the report of a benchmark's results, or of a run anew; returns the page's path.

    out, subjects: of results, as for `write_results_report`; a run's report lies in the run.
    UserError for a folder that is neither.
    """
    place = Path(folder)
    if is_results(place):
        return write_results_report(place, None if out is None else expanded(out), subjects)
    if not is_run(place):
        raise UserError(
            f"{printable(place)}: neither a results folder, which has jobs/, nor a run; name one "
            "of them"
        )
    if out is not None or subjects is not None:
        flag = "--out" if out is not None else "--subjects"
        raise UserError(
            f"{flag}: {printable(place)} is a run, whose report lies in it; leave the flag out"
        )
    run = load_run(place)
    with locked(run.path):
        return run.folder.write_report(render_report(run.folder))


def write_results_report(
    folder: Path, out: Path | None = None, subjects: str | None = None
) -> Path:
    """Writes the report into `out`, by default report/ of the results; returns the page's path.

    subjects: whose photos stand beside the drawings, as `load_suite` reads it; by default those of
    Emojiland for its suites. Where other photos lie is not for a results folder to say: it may be
    anybody's, and nothing outside it is read at its word.

    Files of an earlier report are replaced. Where results have several base models or judges, each
    but the first has its number in the names of its CSV files. UserError, before anything is
    written, for a folder without results, a damaged one, and a place that holds other files.
    """
    refuse_links(folder / FOLDER)
    place = folder / FOLDER if out is None else out
    if place.exists() and not place.is_dir():
        raise UserError(f"{printable(place)}: a file where the report belongs; name another --out")
    if place.is_dir() and any(place.iterdir()) and not (place / TABLES).is_file():
        raise UserError(f"{printable(place)}: holds other files; name a new folder by --out")
    results, reports = read_reports(folder)
    if subjects is None and results.suite and results.suite.subjects == EMBEDDED:
        subjects = EMBEDDED
    photos = _photos(subjects)
    files = {
        PAGE: render_page(results, reports, photos),
        TABLES: to_page_markdown(results, reports),
    }
    for number, report in enumerate(reports, 1):
        suffix = "" if number == 1 else f"-{number}"
        files |= {f"{table.name}{suffix}.csv": to_csv(table) for table in report.tables}
    place.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        with replacing(place / name, _REMEDY) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
    return place / PAGE


def _photos(subjects: str | None) -> Photos:
    """The first photo of each subject that can be read, as a square."""
    folders = {e.name: e.folder for e in load_suite(subjects).entries} if subjects else {}

    @cache
    def first(subject: str) -> Image.Image | None:
        folder = folders.get(subject)
        for file in sorted(folder.iterdir()) if folder else ():
            try:
                return ImageOps.fit(read_photo(file).image, (2 * TILE, 2 * TILE))
            except RejectedPhoto:
                continue
        return None

    def show(subject: str, caption: str) -> str:
        image = first(subject)
        return page.figure(image, f"photo of {printable(subject)}", caption, TILE) if image else ""

    return show
