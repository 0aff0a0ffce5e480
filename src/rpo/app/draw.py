"""The second tab: a learned subject, anywhere a prompt says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from rpo.app import pieces
from rpo.app.desk import Desk, told
from rpo.app.drawing import Wish
from rpo.app.form import QUICK, shown
from rpo.app.generated import Drawn, command, drawn_by
from rpo.config import Config
from rpo.data.prompts import SPLITS, chosen_prompts, skill_of
from rpo.errors import UserError
from rpo.runs.folder import BEST_CARD
from rpo.runs.result import Run

MOST_AT_ONCE = 8
_SKILLS = {
    "recontextualisation": "Place",
    "accessory": "Outfit",
    "style": "Style",
    "colour": "Colour",
    "view": "View",
    "property": "Material",
    "other": "More",
}
_NOTHING = '<div class="panel empty"><p>Your pictures will be here.</p></div>'
_NO_RUN = "Teach something first; then it can be drawn here."


class Draw:
    """The tab's fields and what they do."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.chosen = gr.State(None)
        with gr.Row(elem_classes="sides"):
            with gr.Column(scale=5, min_width=320):
                self.run = gr.Dropdown([], label="What to draw", elem_id="draw-run")
                self.prompt = gr.Textbox(
                    label="Where, how, in which style?",
                    lines=2,
                    max_length=500,
                    elem_id="prompt",
                )
                self.chip = gr.Button("[V]", size="sm", elem_id="chip", elem_classes="chip")
                self.n = gr.Slider(1, MOST_AT_ONCE, 2, step=1, label="How many", elem_id="many")
                self.base = gr.Checkbox(
                    False, label="Also by the model as it was before", elem_id="beside"
                )
                with gr.Accordion("Seed, guidance, steps", open=False, elem_classes="folded"):
                    self.seed = gr.Number(0, label="Seed of the first", precision=0)
                    self.guidance = gr.Textbox(
                        label="Guidance", placeholder="as the run", max_length=12
                    )
                    self.steps = gr.Textbox(
                        label="Steps", placeholder="as the run", max_length=8, elem_id="draw-steps"
                    )
                self.problem = shown(elem_id="draw-problem")
                self.start = gr.Button("Draw", variant="primary", size="lg", elem_id="draw-start")
                self.line = gr.Textbox(
                    label="The same on the command line",
                    interactive=False,
                    buttons=["copy"],
                    visible=False,
                    elem_id="line",
                )
                self.skill = gr.Radio([], label="Ideas", elem_id="skill", elem_classes="pills")
                self.idea = gr.Radio(
                    [], show_label=False, label="An idea", elem_id="idea", elem_classes="ideas"
                )
            with gr.Column(scale=7, min_width=320):
                self.gallery = shown(_NOTHING, elem_id="gallery")
        self._wire()

    def _wire(self) -> None:
        chosen = [self.prompt, self.chip, self.skill, self.idea, self.gallery, self.line]
        self.run.change(self.choose, [self.run, self.chosen], [*chosen, self.chosen], **QUICK)
        self.chip.click(self.insert, [self.run, self.prompt], self.prompt, **QUICK)
        self.skill.input(self.ideas, [self.run, self.skill], self.idea, **QUICK)
        self.idea.input(self.fill, [self.run, self.idea], self.prompt, **QUICK)
        wish = [self.run, self.prompt, self.n, self.seed, self.guidance, self.steps, self.base]
        gr.on(
            [self.start.click, self.prompt.submit],
            self.draw,
            wish,
            [self.problem, self.gallery, self.line, self.seed],
            concurrency_limit=2,
            **QUICK,
        )

    # --- choosing --------------------------------------------------------------------------

    def runs(self) -> list[str]:
        """The runs that have something to draw with, the newest first."""
        home = self.desk.home
        return [run.name for run in home.runs() if (run / "best" / BEST_CARD).is_file()]

    def arrive(self, run: str | None) -> Any:
        """The runs to choose from, when the tab is opened."""
        names = self.runs()
        return gr.update(choices=names, value=run if run in names else next(iter(names), None))

    def choose(self, run: str | None, before: str | None) -> list[Any]:
        """What a run offers: its name for the prompt, ideas, and what it has drawn.

        before: the run that the page shows; a list that is merely passed by Tab changes nothing.
        """
        if run is not None and run == before:
            return [gr.skip()] * 7
        config, problem = told(self._config, run)
        if config is None:
            hidden = gr.update(visible=False)
            return ["", hidden, hidden, hidden, pieces.note(problem) or _NOTHING, hidden, None]
        grouped = _ideas(config)
        first = next(iter(grouped), None)
        return [
            f"a {_name(config)} on the Moon",
            gr.update(value=f"+ {_name(config)}", visible=True),
            gr.update(choices=[(_SKILLS[s], s) for s in grouped], value=first, visible=True),
            gr.update(choices=_choices(config, first), value=None, visible=True),
            self._pictures(run or ""),
            gr.update(visible=False),
            run,
        ]

    def _config(self, run: str | None) -> Config:
        if run is None:
            raise UserError(_NO_RUN)
        return Run(self.desk.home.run(run)).config

    def insert(self, run: str | None, prompt: str | None) -> str:
        """Puts the subject's name into the prompt."""
        config, _ = told(self._config, run)
        prompt = prompt or ""
        if config is None or _name(config) in prompt:
            return prompt
        return f"{prompt.rstrip()} {_name(config)}".strip()

    def ideas(self, run: str | None, skill: str | None) -> Any:
        """The ideas of one kind."""
        config, _ = told(self._config, run)
        return gr.update(choices=_choices(config, skill) if config else [], value=None)

    def fill(self, run: str | None, idea: str | None) -> str:
        """A prompt from an idea."""
        config, _ = told(self._config, run)
        return (idea or "").replace("{}", _name(config)) if config else ""

    # --- drawing ---------------------------------------------------------------------------

    def draw(self, run: str | None, *asked: Any) -> Iterator[list[Any]]:
        """Draws, and shows how far it is, then the pictures."""
        wish, problem = told(self._wish, run, *asked)
        if wish is None:
            yield [pieces.problem(problem), *[gr.skip()] * 3]
            return
        yield [_progress(0, 0), *[gr.skip()] * 3]
        try:
            for done, total in self.desk.drawer.draw(wish):
                yield [_progress(done, total), *[gr.skip()] * 3]
            line = command(self.desk.home.run(run), wish)
        except UserError as error:
            yield [pieces.problem(str(error)), *[gr.skip()] * 3]
            return
        shown_line = gr.update(value=line, visible=True)
        yield ["", self._pictures(str(run)), shown_line, wish.seed + wish.n]

    def _wish(
        self,
        run: str | None,
        prompt: str | None,
        n: float,
        seed: float | None,
        guidance: str | None,
        steps: str | None,
        base: bool,
    ) -> Wish:
        self._config(run)
        words = " ".join((prompt or "").split())
        if not words:
            raise UserError("say what to draw")
        count, first = int(n), int(seed or 0)
        if not 1 <= count <= MOST_AT_ONCE:
            raise UserError(f"how many: 1 to {MOST_AT_ONCE}")
        return Wish(
            str(self.desk.home.run(run)),
            words,
            count,
            first,
            _number(steps, int, "steps"),
            _number(guidance, float, "guidance"),
            bool(base),
        )

    def _pictures(self, run: str) -> str:
        found, _ = told(drawn_by, self.desk.home, run)
        return pieces.gallery(_cell(run, picture) for picture in found or ()) or _NOTHING


def _cell(run: str, drawn: Drawn) -> str:
    texts = drawn.texts
    prompt = texts.get("prompt", "")
    source = pieces.address("pictures", run, drawn.file)
    figure = pieces.picture(source, prompt, "now" if drawn.base else "", "now")
    if drawn.base:
        before = pieces.address("pictures", run, drawn.base)
        figure = pieces.picture(before, f"{prompt}, before", "before") + figure
        figure = f'<div class="two">{figure}</div>'
    return (
        f"{figure}<p>{pieces.text(prompt)}</p>"
        f'<p class="hint">seed {pieces.text(texts.get("seed", "?"))} · '
        f'<a href="{source}" download aria-label="Save: {pieces.text(prompt)}">save</a></p>'
    )


def _ideas(config: Config) -> dict[str, list[str]]:
    """The templates that suit a run's subject, by skill."""
    lists = chosen_prompts(config)
    kind = "live" if config.subject_kind == "live" else "object"
    grouped: dict[str, list[str]] = {skill: [] for skill in _SKILLS}
    for split in SPLITS:
        for template in getattr(lists, split).get(kind, ()):
            skill = skill_of(template)
            grouped[skill if skill in _SKILLS else "other"].append(template)
    return {skill: templates for skill, templates in grouped.items() if templates}


def _choices(config: Config, skill: str | None) -> list[tuple[str, str]]:
    found = _ideas(config).get(skill or "", [])
    return [(template.replace("a {} ", "").replace("{}", "…"), template) for template in found]


def _name(config: Config) -> str:
    return f"{config.identifier} {config.noun}"


def _number(text: str | None, kind: type, name: str) -> Any:
    if not (text or "").strip():
        return None
    try:
        return kind(text)
    except (ValueError, TypeError):
        raise UserError(f"{name}: a number, or nothing for the run's own") from None


def _progress(done: int, total: int) -> str:
    words = f"Drawing<small>{done} of {total}</small>" if total else "Getting the model"
    bar = pieces.bar("Drawing", done, total)
    return f'<div class="state running"><p class="now">{words}</p>{bar}</div>'
