"""The first tab: photos in, a model that has learned them out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import gradio as gr

from rpo.app import pieces
from rpo.app.desk import Desk, told
from rpo.app.form import QUICK, SettingsForm, changes, shown
from rpo.app.jobs import Status
from rpo.app.models import Models
from rpo.app.photos import Collection, Judged
from rpo.app.plans import in_words, lacks_room, plan_words
from rpo.config import METHODS, load_config
from rpo.data.bundled import bundled_names, bundled_table
from rpo.data.nouns import checked_noun
from rpo.errors import UserError
from rpo.models.resolve import EMBEDDED, known_presets, resolve_model
from rpo.runs.pictures import slug
from rpo.runs.resume import anchored
from rpo.runs.spec import JobSpec

EXAMPLES = ("dog", "cat2", "teapot", "fancy_boot", "robot_toy", "duck_toy")
_NO_JOB = '<div class="panel empty"><p>Here you will see how it learns.</p></div>'


class Teach:
    """The tab's fields and what they do."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.presets = known_presets()
        self.extras = [name for name in self.presets.settings if name not in self.presets.base]
        self.collection = gr.BrowserState("", storage_key="rpo-photos", secret="rpo")
        self.remembered = gr.BrowserState("", storage_key="rpo-noun", secret="rpo")
        self.seen = gr.State(())
        with gr.Row(elem_classes="sides"):
            with gr.Column(scale=6, min_width=320):
                self._photos()
                self._noun()
                self._model()
                self._method()
                self.problem = shown()
                self.start = gr.Button(
                    "Teach it", variant="primary", size="lg", elem_id="teach-start"
                )
            with gr.Column(scale=5, min_width=320, elem_classes="job"):
                self._job()
        self._wire()

    # --- what there is ---------------------------------------------------------------------

    def _photos(self) -> None:
        shown(pieces.step(1, "Your photos", "Four to six of one thing, each a little different."))
        self.drop = gr.File(
            file_count="multiple",
            label="Drop photos here, or a zip of them",
            elem_id="drop",
            height=132,
        )
        shown('<p class="hint">No photos at hand? Take one of these:</p>')
        with gr.Row(elem_classes="examples"):
            names = [name for name in EXAMPLES if name in bundled_names()]
            self.examples = [
                (name, gr.Button(_plain(name), size="sm", elem_id=f"example-{name}", min_width=80))
                for name in names
            ]
        self.squares = shown(elem_id="squares")
        with gr.Accordion(
            "Move or remove a photo", open=False, visible=False, elem_classes="folded"
        ) as self.cutting:
            self.which = gr.Dropdown([], label="Photo")
            self.across = gr.Slider(0, 1, 0.5, step=0.01, label="Left to right")
            self.down = gr.Slider(0, 1, 0.5, step=0.01, label="Up to down")
            self.zoom = gr.Slider(1, 4, 1, step=0.05, label="Closer")
            self.remove = gr.Button("Take this photo out", size="sm")

    def _noun(self) -> None:
        shown(pieces.step(2, "What is it?"))
        self.noun = gr.Textbox(
            label="In a word or two",
            placeholder="dog",
            max_length=60,
            elem_id="noun",
        )
        self.kind = shown()

    def _model(self) -> None:
        shown(pieces.step(3, "Which model learns it?"))
        self.models = Models(self.desk.plans)
        self.model = self.models.field

    def _method(self) -> None:
        with gr.Accordion("How it learns", open=False, elem_classes="folded"):
            self.other = gr.Textbox(
                label="Another model",
                info="A folder, a .safetensors file, or a hub id that was downloaded before.",
                max_length=400,
                elem_id="other-model",
            )
            self.takes = shown(elem_id="takes")
            self.method = gr.Radio(
                [(f"{m.title}: {m.learns}", name) for name, m in METHODS.items()],
                value="rpo",
                label="Method",
                elem_classes="lines",
            )
            self.extra = gr.CheckboxGroup(
                [(f"{name}: {_over(self.presets.help[name])}", name) for name in self.extras],
                label="Besides",
                elem_classes="lines",
            )
        with gr.Accordion("Everything else", open=False, elem_classes="folded"):
            self.form = SettingsForm()

    def _job(self) -> None:
        self.job = gr.Dropdown([], label="Run", elem_id="job", visible=False)
        self.state = shown(_NO_JOB, elem_id="state")
        with gr.Row(elem_classes="buttons"):
            self.stop = gr.Button("Stop", visible=False, elem_id="stop", min_width=120)
            self.resume = gr.Button("Go on", visible=False, elem_id="resume", min_width=120)
        self.curve = shown(elem_id="curve")
        self.pairs = shown(elem_id="pairs")
        self.timer = gr.Timer(1.5)

    # --- what happens ----------------------------------------------------------------------

    def _wire(self) -> None:
        photos = [self.collection, self.squares, self.cutting, self.which, self.problem]
        self.drop.upload(
            self.take, [self.drop, self.collection, self.model], [*photos, self.drop], **QUICK
        )
        for name, button in self.examples:
            button.click(_with(self.take_example, name), None, [*photos, self.noun], **QUICK)
        cut = [self.collection, self.model, self.which, self.across, self.down, self.zoom]
        for slider in (self.across, self.down, self.zoom):  # also by the keyboard's arrows
            slider.input(self.cut, cut, photos, trigger_mode="always_last", **QUICK)
        self.which.input(
            self.choose,
            [self.collection, self.which],
            [self.across, self.down, self.zoom],
            **QUICK,
        )
        self.remove.click(self.take_out, [self.collection, self.model, self.which], photos, **QUICK)
        self.noun.change(self.guess, self.noun, [self.kind, self.remembered], **QUICK)
        asked = [self.model, self.other, self.method, self.extra, *self.form.fields]
        self.start.click(
            self.begin,
            [self.collection, self.noun, *asked],
            [self.problem, self.job],
            concurrency_limit=1,
            **QUICK,
        ).then(self.look, self._looked, self._seen, **QUICK)
        self.stop.click(self.end, self.job, self.state, **QUICK)
        self.resume.click(self.go_on, self.job, self.state, **QUICK)
        self.job.input(self.look, self._looked, self._seen, **QUICK)
        self.timer.tick(self.look, self._looked, self._seen, trigger_mode="once", **QUICK)
        self.asked = asked

    @property
    def _looked(self) -> list[Any]:
        return [self.job, self.seen, self.model, self.other, self.method, self.extra]

    @property
    def _seen(self) -> list[Any]:
        parts = [self.job, self.state, self.curve, self.pairs, self.stop, self.resume]
        return [*parts, self.model, self.takes, self.seen]

    def load(self, demo: gr.Blocks) -> None:
        """What a visitor sees who comes again: photos and noun, and the newest job."""
        photos = [self.collection, self.squares, self.cutting, self.which, self.problem]
        demo.load(
            self.again,
            [self.collection, self.remembered, self.model],
            [*photos, self.noun],
            **QUICK,
        )

    # --- photos ----------------------------------------------------------------------------

    def take(self, files: list[str] | None, name: str, model: str) -> list[Any]:
        """Takes uploaded photos in."""
        collection, _ = told(self._collection, name)
        collection = collection or Collection.new(self.desk.home)
        left_out, problem = told(collection.add, files or [])
        return [*self._shown(collection, model, left_out or [], problem), None]

    def take_example(self, example: str) -> list[Any]:
        """Takes the photos of a bundled subject instead of all others."""
        collection = Collection.new(self.desk.home)
        _, problem = told(collection.add_bundled, example)
        noun = bundled_table().get(example, {}).get("noun", "")
        return [*self._shown(collection, EMBEDDED, [], problem), noun]

    def again(self, name: str, noun: str, model: str) -> list[Any]:
        """Shows the collection and the noun that the browser remembers."""
        collection, _ = told(self._collection, name)
        if collection is None:
            return ["", "", gr.update(visible=False), gr.update(choices=[], value=None), "", noun]
        return [*self._shown(collection, model), noun]

    def cut(
        self, name: str, model: str, which: str | None, across: float, down: float, zoom: float
    ) -> list[Any]:
        """Cuts one photo elsewhere."""
        collection, problem = told(self._collection, name)
        if collection is None or not which:
            return [gr.skip()] * 4 + [pieces.problem(problem)]
        _, problem = told(collection.crop, which, across, down, zoom)
        return self._shown(collection, model, problem=problem, which=which)

    def choose(self, name: str, which: str | None) -> list[Any]:
        """Where the chosen photo is cut."""
        collection, _ = told(self._collection, name)
        crop = collection.crops().get(which) if collection and which else None
        return [crop.across, crop.down, crop.zoom] if crop else [0.5, 0.5, 1]

    def take_out(self, name: str, model: str, which: str | None) -> list[Any]:
        """Takes one photo out of the collection."""
        collection, problem = told(self._collection, name)
        if collection is None or not which:
            return [gr.skip()] * 4 + [pieces.problem(problem)]
        collection.remove(which)
        return self._shown(collection, model)

    def _collection(self, name: Any) -> Collection:
        self.desk.home.draft(name)
        return Collection(self.desk.home, name)

    def _shown(
        self,
        collection: Collection,
        model: str,
        left_out: Sequence[str] = (),
        problem: str = "",
        which: str | None = None,
    ) -> list[Any]:
        judged = collection.judge(_small_below(model))
        names = [square.name for square in judged.squares if square.file]
        chosen = which if which in names else (names[0] if names else None)
        return [
            collection.name,
            pieces.squares(collection.name, judged, left_out),
            gr.update(visible=bool(names)),
            gr.update(choices=names, value=chosen),
            pieces.problem(problem),
        ]

    def guess(self, noun: str) -> list[str]:
        """What the noun is taken for; and the noun, which the browser remembers."""
        try:
            kind = checked_noun(noun or "", "auto")[1]
        except UserError:
            return ["", noun]
        what = "a living being" if kind == "live" else "a thing"
        return [f'<p class="hint">Taken for {what}; prompts are chosen by it.</p>', noun]

    # --- a job -----------------------------------------------------------------------------

    def begin(self, name: str, noun: str, *asked: Any) -> list[Any]:
        """Starts teaching, or says what is missing."""
        run, problem = told(self._begin, name, noun, *asked)
        if problem:
            return [pieces.problem(problem), gr.skip()]
        return ["", gr.update(choices=self.desk.queue.names(), value=run, visible=True)]

    def _begin(
        self,
        name: str,
        noun: str,
        model: str,
        other: str,
        method: str,
        extra: list[str],
        *fields: Any,
    ) -> str:
        if not name:
            raise UserError("drop some photos first, or take an example")
        collection = self._collection(name)
        if not (noun or "").strip():
            raise UserError("say in a word what the photos show, such as dog")
        noun, _ = checked_noun(noun, "auto")
        resolve_model(chosen := (other or "").strip() or model)
        judged: Judged = collection.judge(_small_below(chosen))
        if judged.problem:
            raise UserError(judged.problem)
        given = self.form.overrides(fields)
        answer = self.desk.plans.ask(plan_words(chosen, method, extra or [], ()))
        if not given and lacks_room(answer):  # settings of one's own may well make it fit
            raise UserError(in_words(answer) + " Choose another model, or settings that need less.")
        fitting = (answer.record or {}).get("settings", {}) if answer else {}
        named = {setting.partition("=")[0] for setting in given}
        given += [f"{key}={_spelled(v)}" for key, v in fitting.items() if key not in named]
        config = anchored(
            load_config(
                extra or (), None, given, known=self.presets, model=chosen, method=method, noun=noun
            )
        )
        run = self._free(slug(noun, 40))
        photos = collection.for_training(judged, run)
        return self.desk.queue.add(JobSpec(photos, config, self.desk.home.root / run))

    def _free(self, stem: str) -> str:
        taken, number = set(self.desk.queue.names()), 1
        while (name := f"{stem}-{number}") in taken or (self.desk.home.root / name).exists():
            number += 1
        return name

    def end(self, name: str) -> str:
        """Asks a job to stop."""
        _, problem = told(self.desk.queue.stop, name)
        if problem:
            return pieces.problem(problem)
        return pieces.note("Stopping; what it has learned is being saved.")

    def go_on(self, name: str) -> str:
        """Puts a stopped job into the queue again."""
        _, problem = told(self.desk.queue.resume, name)
        return pieces.problem(problem) if problem else pieces.note("It goes on.")

    def look(
        self,
        job: str | None,
        seen: Sequence[Any],
        model: str,
        other: str,
        method: str,
        extra: list[str],
    ) -> list[Any]:
        """What has changed since this browser last looked."""
        names = self.desk.queue.names()
        job = job if job in names else next(iter(names), None)
        models = self.models.choices(model, method, extra or [])
        takes = self._takes(other, method, extra or [])
        if job is None:
            parts: list[Any] = [None, _NO_JOB, "", "", False, False]
            return changes(seen, [*parts, models, takes])
        found, problem = told(self._view, job)
        state, curve, pairs, status = found or (pieces.problem(problem), "", "", None)
        active = status is not None and status.active
        again = status is not None and status.state in ("stopped", "failed")
        parts = [(job, *names), state, curve, pairs, active, again]
        return changes(seen, [*parts, models, takes])

    def _takes(self, other: str, method: str, extra: list[str]) -> str:
        """What a model takes that is named by hand."""
        if not (name := (other or "").strip()):
            return ""
        return pieces.note(in_words(self.desk.plans.ask(plan_words(name, method, extra, ()))))

    def _view(self, job: str) -> tuple[str, str, str, Status]:
        status, course = self.desk.queue.status(job), self.desk.course(job)
        state = pieces.state_line(status, course, time.time()) + pieces.remarks(course)
        return state, pieces.curve(course), pieces.pairs(job, course), status


def _with(handler: Any, *given: Any) -> Any:
    """A handler with its first arguments given, as Gradio counts a function's arguments."""
    return lambda *more: handler(*given, *more)


def _small_below(model: str) -> int:
    # as `rpo train` judges: what is small for a photograph is large enough for 64 pixels
    return 64 if model == EMBEDDED else 256


def _plain(name: str) -> str:
    return name.rstrip("0123456789").removesuffix("_toy").removeprefix("fancy_").replace("_", " ")


def _over(words: str) -> str:
    return words.removeprefix("on top of the suitable one, ")


def _spelled(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
