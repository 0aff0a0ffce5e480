"""A part of the third tab: what `rpo bench` and `rpo evaluate` measured, if they did so here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from rpo.app import pieces
from rpo.app.commands import ask_module, run_module
from rpo.app.desk import Desk, told, told_in_time
from rpo.app.form import QUICK, shown
from rpo.bench.records import FOLDER, PAGE, is_results


class Results:
    """The part's fields and what they do; hidden where nothing was measured."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        with gr.Column(visible=False, elem_id="measured") as self.part:
            shown(
                "<h2>What was measured</h2>"
                "<p class='hint'>By rpo bench and rpo evaluate, in this folder.</p>"
            )
            self.name = gr.Dropdown([], label="Results", elem_id="results")
            with gr.Row(elem_classes="buttons"):
                self.read = gr.Button("Show the figures", elem_id="figures-start")
                self.report = gr.Button("Make the report", visible=False, elem_id="report-start")
            self.figures = shown(elem_id="figures")
        self.name.input(self.choose, self.name, [self.report, self.figures], **QUICK)
        self.read.click(self.show, self.name, self.figures, concurrency_limit=1, **QUICK)
        self.report.click(self.write, self.name, self.figures, concurrency_limit=1, **QUICK)

    def arrive(self, chosen: str | None) -> list[Any]:
        """The results to choose from, when the tab is opened."""
        names = list(self.desk.home.results())
        value = chosen if chosen in names else next(iter(names), None)
        part, name = gr.update(visible=bool(names)), gr.update(choices=names, value=value)
        return [part, name, self._report(value)]

    def choose(self, name: str | None) -> list[Any]:
        """What can be done with these results."""
        return [self._report(name), ""]

    def _report(self, name: str | None) -> Any:
        path, _ = told(self.desk.home.result, name)
        return gr.update(visible=path is not None and is_results(path))

    def show(self, name: str | None) -> Iterator[str]:
        """The tables of figures."""
        yield from told_in_time("Reading the figures …", self._read, name)

    def _read(self, name: str | None) -> str:
        path = self.desk.home.result(name)
        found = ask_module(["rpo.app.figures", str(path)])
        return pieces.figures(found, self._address(name, path))

    def _address(self, name: str | None, path: Path) -> str:
        made = is_results(path) and (path / FOLDER / PAGE).is_file()
        return pieces.address("results", str(name)) if made else ""

    def write(self, name: str | None) -> Iterator[str]:
        """Makes the report of a benchmark anew, as `rpo report` does."""
        yield from told_in_time("Writing the report …", self._write, name)

    def _write(self, name: str | None) -> str:
        path = self.desk.home.result(name)
        run_module(["rpo", "report", str(path)])
        return f'<p class="note">{pieces.report_link(self._address(name, path))}</p>'
