"""The whole evaluation: draw or read pictures, judge them, write one new folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, TypeAlias

from rpo.data.prompts import chosen_prompts
from rpo.data.subject import pixel_hash
from rpo.errors import UserError, printable
from rpo.evaluation.drawn import (
    CLASS_PICTURES,
    PictureFolder,
    class_prompt,
    draw_run,
    open_folder,
    read_run_subject,
    save_drawn,
)
from rpo.evaluation.dreambench import (
    NumberedPrompt,
    Reference,
    Suite,
    load_suite,
    numbered_prompts,
)
from rpo.evaluation.judges import AESTHETIC_CLIP, Judges, default_judges, load_judges
from rpo.evaluation.scoring import Row, Scorer, compare, summarise, summarise_photos
from rpo.models.resolve import EMBEDDED, resolve_model
from rpo.rounding import rounded
from rpo.runs.environment import versions
from rpo.runs.folder import check_free, expanded, naming_full_disk, next_free
from rpo.runs.lost import require_best
from rpo.runs.result import Run, drawing, load_run

FILE = "evaluation.json"
LAMBDA = 0.5  # of the λ-harmonic reward in the CLIP judge's features
IMAGES_PER_PROMPT = 4  # DreamBench's

OnProgress: TypeAlias = Callable[[str, int, int], None]
"""Called with what is being done, and how much of it is done, of how much."""
Place: TypeAlias = str | os.PathLike[str]


@dataclass(frozen=True)
class Evaluation:
    """What was measured: `data` is the content of evaluation.json in the folder `path`."""

    path: Path
    data: dict[str, Any]


def evaluate(
    runs: Run | Place | Sequence[Run | Place] = (),
    *,
    images: Place | None = None,
    subjects: Place | None = None,
    images_per_prompt: int | None = None,
    dino: str | None = None,
    clip: str | None = None,
    aesthetic: Place | None = None,
    aesthetic_clip: str = AESTHETIC_CLIP,
    out: Place | None = None,
    device: str | None = None,
    on_progress: OnProgress | None = None,
) -> Evaluation:
    """Scores what runs draw of their test prompts, or any system's pictures in a folder.

    runs: run folders, or runs. images: a folder of pictures instead, named as
    `rpo.evaluation.drawn` says. subjects: the suite whose photos the pictures are judged against,
    "emojiland" or a folder as `rpo.evaluation.dreambench.load_suite` reads it; of runs, the other
    subjects among whose photos each drawing has to find its own, by default Emojiland's for its
    model. images_per_prompt: 4 for runs; of a folder, how many there should be.
    dino, clip: the judges, "emojiland", folders or hub ids; by default Emojiland's for its model
    or suite, else DreamBench's. aesthetic: a safetensors file with LAION's head, for features of
    `aesthetic_clip`. out: the new folder; by default evaluations/NAME-N in the current directory.
    device: where to draw and judge; by default as the run did.

    Raises UserError, before anything is written, for whatever is wrong in these arguments.
    """
    tell = on_progress or (lambda label, done, total: None)
    listed = [runs] if isinstance(runs, Run | str | os.PathLike) else list(runs)
    if bool(listed) == (images is not None):
        raise UserError("give one or more RUN folders, or --images DIR, not both")
    if images_per_prompt is not None and images_per_prompt < 1:
        raise UserError(f"--images-per-prompt must be at least 1, not {images_per_prompt}")
    cases, pictures = _cases([_opened(run, device) for run in listed]), None
    if cases:
        embedded = {case.run.config.model == EMBEDDED for case in cases}
        if len(embedded) > 1 and not (dino and clip):
            raise UserError("the runs are of emojiland and another model; name --dino and --clip")
        model, name = cases[0].run.config.model, cases[0].name
        if subjects is None and embedded == {True}:
            subjects = EMBEDDED
    elif subjects is None:
        raise UserError("--subjects is missing: the suite whose subjects --images shows")
    else:
        model, name = os.fspath(subjects), printable(Path(images or "").resolve().name)
    suite = None if subjects is None else load_suite(os.fspath(subjects))
    if images is not None and suite:
        pictures = open_folder(Path(os.path.expanduser(images)), suite, images_per_prompt)
    path = expanded(out) if out else next_free(Path("evaluations"), name)
    check_free(path)
    own = default_judges(model)
    where = device or (cases[0].run.config.device if cases else "auto")
    head = None if aesthetic is None else Path(aesthetic)
    judges = load_judges(dino or own[0], clip or own[1], head, aesthetic_clip, where)

    if pictures and suite:
        found = _judge_folder(name, pictures, suite, judges, tell)
    else:
        found = _judge_runs(
            cases, suite, judges, images_per_prompt or IMAGES_PER_PROMPT, path, tell
        )
    about = {name: dict(judge.about) for name, judge in judges.named()}
    data = rounded({"versions": versions(), "judges": about, **found})
    _write(path, data)
    return Evaluation(path, data)


def _opened(run: Run | Place, device: str | None) -> Run:
    found = run if isinstance(run, Run) else load_run(run)
    found = replace(found, _device=device) if device else found
    require_best(found.folder)
    resolve_model(found.config.model)  # the base model draws too: told now, not minutes later
    return found


# --- runs --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Case:
    """A run, its unique name in the table, its photos and its test prompts."""

    name: str
    run: Run
    subject: Reference
    prompts: Sequence[NumberedPrompt]


def _cases(runs: Sequence[Run]) -> list[_Case]:
    """Raises UserError for runs of several sizes: their photos could not be one gallery."""
    taken: set[str] = set()
    cases = []
    for run in runs:
        config = run.config
        prompts = numbered_prompts(chosen_prompts(config), config.subject_kind)
        name = _unique(printable(run.path.resolve().name), taken)
        cases.append(_Case(name, run, read_run_subject(run), prompts))
    sides = {case.subject.photos[0].width for case in cases}
    if len(sides) > 1:
        raise UserError(
            f"the runs draw {' and '.join(map(str, sorted(sides)))} pixels; evaluate runs of "
            "different sizes apart"
        )
    return cases


def _unique(name: str, taken: set[str]) -> str:
    """The name, or the first of name-2, name-3 … that is not taken."""
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}-{number}"
    taken.add(found)
    return found


def _gathered(
    cases: Sequence[_Case], others: Sequence[Reference]
) -> tuple[list[_Case], list[Reference]]:
    """One gallery of all subjects: those that share a photo are one, the first that is met."""
    gallery: list[Reference] = []
    known: dict[bytes, Reference] = {}
    taken: set[str] = set()

    def place(reference: Reference) -> Reference:
        keys = [pixel_hash(photo) for photo in reference.photos]
        same = next((known[key] for key in keys if key in known), None)
        if same is None:
            same = replace(reference, name=_unique(reference.name, taken))
            gallery.append(same)
        known.update(dict.fromkeys(keys, same))
        return same

    placed = [replace(case, subject=place(case.subject)) for case in cases]
    for other in others:
        place(other)
    return placed, gallery


def _judge_runs(
    cases: Sequence[_Case],
    suite: Suite | None,
    judges: Judges,
    images_per_prompt: int,
    path: Path,
    tell: OnProgress,
) -> dict[str, Any]:
    """Draws with one run after the other, keeps the pictures, and judges them."""
    side = cases[0].subject.photos[0].width
    cases, gallery = _gathered(cases, suite.read(side) if suite else [])
    scorer, systems, rows = Scorer(judges, gallery, LAMBDA), [], []
    for case in cases:
        tick = partial(tell, f"drawing {case.name}")
        drawn = draw_run(case.run, case.subject, case.prompts, images_per_prompt, tick)
        with _naming_full_disk(path):
            save_drawn(drawn, path, case.name)
        rows.append(scorer.score(drawn))
        about = {**_about(case), "images_per_prompt": images_per_prompt, "missing": []}
        systems.append(_system(case.name, about, rows[-1], scorer, [case.subject]))
    return {
        "protocol": _protocol(side),
        "gallery": _listed(gallery),
        "systems": systems,
        **_together(cases, rows),
    }


def _about(case: _Case) -> dict[str, Any]:
    """What a run is, and how it drew."""
    config, template = case.run.config, case.prompts[0].template
    return {
        "run": printable(case.run.path.resolve()),
        "model": config.model,
        "method": config.method,
        "weights": config.training.weights,
        "step": case.run.best_step,
        "noun": config.noun,
        "drawing": {
            **drawing(config),
            "scheduler": case.run.settings("", 0)["scheduler"],
            "resolution": case.subject.photos[0].width,
            "precision": config.precision,
            "quantize": config.quantize,
        },
        "drawn": template.replace("{}", f"{config.identifier} {config.noun}"),
        "judged": template.replace("{}", config.noun),
        "class": class_prompt(config.noun),
        "class_pictures": CLASS_PICTURES,
        "seeds": f"derived from the run's seed {config.seed} and the picture's place",
    }


def _together(cases: Sequence[_Case], rows: Sequence[list[Row]]) -> dict[str, Any]:
    """Runs of one method on one model taken as one system, and what differs between systems."""
    groups: dict[tuple[str, str, str], list[int]] = {}
    for place, case in enumerate(cases):
        config = case.run.config
        key = (config.method, config.training.weights, config.model)
        groups.setdefault(key, []).append(place)
    merged: dict[str, list[Row]] = {}
    together = []
    for (method, weights, model), places in groups.items():
        own = [row for place in places for row in rows[place]]
        name = f"{method} ({weights}) on {model}"
        merged[name] = own
        if len({cases[place].subject.name for place in places}) > 1:
            runs = [cases[place].name for place in places]
            together.append({"name": name, "runs": runs, **summarise(own)})
    if len(merged) == 1:
        merged = {case.name: own for case, own in zip(cases, rows, strict=True)}
    differences = [
        {"first": first, "second": second, "metrics": found}
        for first, second in combinations(merged, 2)
        if (found := compare(merged[first], merged[second]))
    ]
    return {"together": together, "differences": differences}


# --- a folder ----------------------------------------------------------------------------


def _judge_folder(
    name: str, pictures: PictureFolder, suite: Suite, judges: Judges, tell: OnProgress
) -> dict[str, Any]:
    """Reads and judges subject by subject."""
    side = min(pictures.size)
    gallery = suite.read(side)
    scorer = Scorer(judges, gallery, LAMBDA)
    rows: list[Row] = []
    shown: list[Reference] = []
    for drawn in pictures.read(gallery, suite):
        tell("judging", len(shown), len(gallery))
        rows += scorer.score(drawn)
        shown.append(drawn.subject)
    example = suite.numbered(shown[0].kind)[0].plain(shown[0].noun)
    about = {
        "folder": printable(pictures.path.resolve()),
        "size": list(pictures.size),
        "images_per_prompt": pictures.per_prompt,
        "judged": example,
        "seeds": "not known",
        "missing": pictures.amiss,
    }
    return {
        "protocol": _protocol(side),
        "gallery": _listed(gallery),
        "systems": [_system(name, about, rows, scorer, shown)],
        "together": [],
        "differences": [],
    }


# --- what is written ---------------------------------------------------------------------


def _system(
    name: str,
    about: Mapping[str, Any],
    rows: Sequence[Row],
    scorer: Scorer,
    subjects: Sequence[Reference],
) -> dict[str, Any]:
    """One system of the table: what it is, its means, the oracle row, and every picture."""
    return {
        "name": name,
        **about,
        **summarise(rows),
        "photos": summarise_photos({s.name: scorer.score_photos(s) for s in subjects}),
        "pictures": [asdict(row) for row in rows],
    }


def _listed(gallery: Sequence[Reference]) -> list[dict[str, Any]]:
    return [{"name": r.name, "noun": r.noun, "photos": len(r.photos)} for r in gallery]


def _protocol(side: int) -> dict[str, Any]:
    return {
        "photos": f"centre squares of {side} pixels by Lanczos",
        "prompt": "CLIP-T and λ-harmonic read the prompt without the identifier",
        "lambda": LAMBDA,
        "interval": "95 %, percentile bootstrap over subjects; of an only subject over its prompts",
    }


def _write(path: Path, data: Mapping[str, Any]) -> None:
    text = json.dumps(data, indent=1, ensure_ascii=False) + "\n"
    with _naming_full_disk(path):
        path.mkdir(parents=True, exist_ok=True)
        with (path / FILE).open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)


def _naming_full_disk(path: Path) -> Any:
    return naming_full_disk(path, "free some space, or name another folder by --out")
