"""The third tab: all runs, side by side, and out into other programs."""

from __future__ import annotations

import secrets
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from rpo.app import pieces
from rpo.app.commands import run_module
from rpo.app.desk import Desk, told, told_in_time
from rpo.app.drawing import Wish
from rpo.app.form import QUICK, shown
from rpo.app.generated import drawn_by
from rpo.errors import UserError
from rpo.exports.export import DTYPES, FORMATS
from rpo.replacing import remove, replacing
from rpo.report.page import duration
from rpo.runs.folder import REPORT
from rpo.runs.result import Run

MOST_COMPARED = 6
_NONE = '<div class="panel empty"><p>What you teach will be collected here.</p></div>'
_STATES = {"waiting": "waits", "running": "learning", "stopped": "stopped", "failed": "failed"}


class Library:
    """The tab's fields and what they do."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.cards = shown(_NONE, elem_id="cards")
        with gr.Row(elem_classes="sides"):
            with gr.Column(min_width=300):
                self._comparison()
            with gr.Column(min_width=300):
                self._exports()
        self._wire()

    def _comparison(self) -> None:
        shown("<h2>Compare</h2><p class='hint'>The same prompt and seed, by several runs.</p>")
        self.several = gr.Dropdown(
            [], multiselect=True, label="Runs", elem_id="several", max_choices=MOST_COMPARED
        )
        self.prompt = gr.Textbox(
            "a {} on the Moon",
            label="Prompt",
            info="{} is where each run's subject goes.",
            max_length=500,
            elem_id="compare-prompt",
        )
        self.seed = gr.Number(0, label="Seed", precision=0)
        self.compare = gr.Button("Compare", elem_id="compare-start")
        self.compared = shown(elem_id="compared")

    def _exports(self) -> None:
        shown(
            "<h2>Take it elsewhere</h2>"
            "<p class='hint'>The weights, with a card that says how to draw with them.</p>"
        )
        self.run = gr.Dropdown([], label="Run", elem_id="export-run")
        self.format = gr.Radio(
            [(f"{name}: {words}", name) for name, words in FORMATS.items()],
            value="diffusers",
            label="For",
            elem_id="format",
            elem_classes="lines",
        )
        self.dtype = gr.Radio(list(DTYPES), value="fp32", label="Precision")
        self.export = gr.Button("Make the download", elem_id="export-start")
        self.made = shown(elem_id="made")
        with gr.Accordion("Throw this run away", open=False, elem_classes="folded"):
            shown("<p class='hint'>It moves into a bin inside the folder; nothing is deleted.</p>")
            self.throw = gr.Button("Move it to the bin", elem_id="throw")

    def _wire(self) -> None:
        self.compare.click(
            self.side_by_side,
            [self.several, self.prompt, self.seed],
            self.compared,
            concurrency_limit=1,
            **QUICK,
        )
        self.export.click(
            self.download,
            [self.run, self.format, self.dtype],
            self.made,
            concurrency_limit=1,
            **QUICK,
        )
        self.throw.click(
            self.throw_away, self.run, [self.made, self.cards, self.several, self.run], **QUICK
        )

    def arrive(self, several: list[str] | None, run: str | None) -> list[Any]:
        """All runs, when the tab is opened."""
        names = [path.name for path in self.desk.home.runs()]
        cards = "".join(self._card(name) for name in names)
        kept = [name for name in several or () if name in names]
        return [
            f'<ul class="cards">{cards}</ul>' if cards else _NONE,
            gr.update(choices=names, value=kept),
            gr.update(choices=names, value=run if run in names else next(iter(names), None)),
        ]

    def _card(self, name: str) -> str:
        found, problem = told(self._facts, name)
        words, subject = found if found else (problem, name)
        place, picture, report = self.desk.home.root / name, "", ""
        if (place / "images" / "overview.png").is_file():
            source = pieces.address("pictures", name, "overview.png")
            alt = f"{subject}: photos, then pictures before and after"
            picture = f'<img src="{source}" alt="{pieces.text(alt)}" loading="lazy">'
        if (place / REPORT).is_file():
            report = pieces.report_link(pieces.address("report", name), name)
        return (
            f"<li>{picture}<div><b>{pieces.text(name)}</b>"
            f'<p class="hint">{pieces.text(words)}</p>{report}</div></li>'
        )

    def _facts(self, name: str) -> tuple[str, str]:
        run = Run(self.desk.home.run(name))
        config, status = run.config, self.desk.queue.status(name)
        words = [f"{config.identifier} {config.noun}", Path(config.model).name, config.method]
        if status.state in _STATES:
            words.append(_STATES[status.state])
        chosen = next((point for point in run.history if point.chosen), None)
        if chosen is not None:
            words.append(f"step {chosen.step} chosen, reward {chosen.reward:.3f}")
        records = run.folder.records()
        seconds = sum(record["seconds"] for record in records if record["event"] == "phase")
        words += [duration(seconds)] if seconds else []
        return " · ".join(words), words[0]

    # --- comparing -------------------------------------------------------------------------

    def side_by_side(
        self, several: list[str] | None, prompt: str | None, seed: float | None
    ) -> Iterator[str]:
        """Draws the same by each run, one after the other."""
        names = several or []
        words = " ".join((prompt or "").split())
        if not 2 <= len(names) <= MOST_COMPARED or not words:
            yield pieces.note(f"Choose 2 to {MOST_COMPARED} runs, and a prompt.", "problem")
            return
        cells: list[str] = []
        for name in names:
            yield pieces.gallery([*cells, '<div class="waiting">drawing …</div>'])
            cell, problem = told(self._drawn, name, words, int(seed or 0))
            failed = f"<p><b>{pieces.text(name)}</b></p>{pieces.note(problem, 'problem')}"
            cells.append(cell or failed)
        yield pieces.gallery(cells)

    def _drawn(self, name: str, prompt: str, seed: int) -> str:
        path = self.desk.home.run(name)
        config = Run(path).config
        own = prompt.replace("{}", f"{config.identifier} {config.noun}")
        for _ in self.desk.drawer.draw(Wish(str(path), own, 1, seed)):
            pass
        newest = drawn_by(self.desk.home, name, 1)[0]
        return pieces.picture(pieces.address("pictures", name, newest.file), own, name, "now")

    # --- away from here --------------------------------------------------------------------

    def download(self, name: str | None, to: str, dtype: str) -> Iterator[str]:
        """Exports a run and offers it as one file."""
        yield from told_in_time("Writing the weights …", self._export, name, to, dtype)

    def _export(self, name: str | None, to: str, dtype: str) -> str:
        path = self.desk.home.run(name)
        if to not in FORMATS or dtype not in DTYPES:
            raise UserError("choose a format and a precision of the lists")
        mark, stem = secrets.token_hex(8), f"{path.name}-{to}"
        folder = self.desk.home.exports / f"{stem}-{mark}"
        command = ["rpo", "export", str(path), "--to", to, "--dtype", dtype]
        run_module([*command, "--out", str(folder)])
        file = self.desk.home.exports / f"{mark}~{stem}.zip"
        with (
            replacing(file, "free some space") as temporary,
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive,
        ):
            for inner in sorted(folder.rglob("*")):
                if inner.is_file():
                    archive.write(inner, f"{stem}/{inner.relative_to(folder)}")
        remove(folder)  # what was only made to be packed
        place, size = pieces.address("download", file.name), file.stat().st_size / 1e6
        words = pieces.text(f"Save {stem}.zip")
        return f'<p class="note"><a href="{place}" download>{words}</a> ({size:.0f} MB)</p>'

    def throw_away(self, name: str | None) -> list[Any]:
        """Moves a run into the bin."""
        moved, problem = told(self._throw, name)
        said = pieces.note(f"Moved to {moved}.") if moved else pieces.problem(problem)
        return [said, *self.arrive(None, None)]

    def _throw(self, name: str | None) -> Path:
        self.desk.home.run(name)
        if self.desk.queue.status(str(name)).active:
            raise UserError(f"{name}: is at work; stop it first")
        return self.desk.home.throw_away(name).relative_to(self.desk.home.root)
