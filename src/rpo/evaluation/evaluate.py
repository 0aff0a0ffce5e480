"""The whole evaluation: draw or read pictures, judge them, write one new folder."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, TypeAlias

from rpo.errors import UserError, printable
from rpo.evaluation.drawn import open_folder, save_drawn
from rpo.evaluation.dreambench import Reference, load_suite
from rpo.evaluation.file import FILE
from rpo.evaluation.judges import AESTHETIC_CLIP, default_judges, load_judges
from rpo.evaluation.scoring import Row, Scorer, compare, summarise, summarise_photos
from rpo.evaluation.systems import (
    FolderSystem,
    OnProgress,
    RunSystem,
    System,
    gather,
    model_systems,
    run_systems,
)
from rpo.evaluation.untrained import Untrained, open_untrained
from rpo.models.resolve import EMBEDDED, resolve_model
from rpo.replacing import ELSEWHERE, naming_full_disk
from rpo.rounding import rounded
from rpo.runs.environment import versions
from rpo.runs.folder import check_free, expanded, next_free
from rpo.runs.lost import require_best
from rpo.runs.result import Run, load_run

LAMBDA = 0.5  # of the λ-harmonic reward in the CLIP judge's features
IMAGES_PER_PROMPT = 4  # DreamBench's

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
    ip_adapter: Place | None = None,
    ip_adapter_scale: float | None = None,
    settings: Sequence[str] = (),
    dino: str | None = None,
    clip: str | None = None,
    aesthetic: Place | None = None,
    aesthetic_clip: str = AESTHETIC_CLIP,
    out: Place | None = None,
    device: str | None = None,
    on_progress: OnProgress | None = None,
) -> Evaluation:
    """Scores what runs and a base model draw of test prompts, or any system's pictures in a folder.

    runs: run folders, or runs, and at most one base model by a name that `resolve_model` takes,
    which draws with the plain noun: the subjects of the runs beside it, else all of the suite.
    images: a folder of pictures instead, named as `rpo.evaluation.drawn` says.
    subjects: the suite whose photos the pictures are judged against, "emojiland" or a folder as
    `rpo.evaluation.dreambench.load_suite` reads it; of runs, the other subjects among whose photos
    each drawing has to find its own; by default Emojiland's for its model.
    images_per_prompt: 4 for what is drawn here; of a folder, how many there should be.
    ip_adapter: a file or folder as `rpo.models.ip_adapter.find_ip_adapter` reads it, for one more
    row: the base model that sees the photos. ip_adapter_scale: how much they say, 0 to 1.
    settings: of the base model, "sampling.steps=20" and the like.
    dino, clip: the judges, "emojiland", folders or hub ids; by default Emojiland's for its model
    or suite, else DreamBench's. aesthetic: a safetensors file with LAION's head, for features of
    `aesthetic_clip`. out: the new folder; by default evaluations/NAME-N in the current directory.
    device: where to draw and judge; by default as the run did.

    Raises UserError, before anything is written, for whatever is wrong in these arguments.
    """
    tell = on_progress or (lambda label, done, total: None)
    given = [runs] if isinstance(runs, Run | str | os.PathLike) else list(runs)
    if bool(given) == (images is not None):
        raise UserError("give a MODEL or one or more RUN folders, or --images DIR, not both")
    if images_per_prompt is not None and images_per_prompt < 1:
        raise UserError(f"--images-per-prompt must be at least 1, not {images_per_prompt}")
    opened, model = _sorted(given, device)
    if model is None and (ip_adapter, ip_adapter_scale, *settings) != (None, None):
        raise UserError("--ip-adapter and --set are for a MODEL; name one, such as emojiland")
    each = images_per_prompt or IMAGES_PER_PROMPT
    taught = run_systems(opened, each)

    models = [*(run.config.model for run in opened), *([] if model is None else [model])]
    embedded = {name == EMBEDDED for name in models}
    if len(embedded) > 1 and not (dino and clip):
        raise UserError("the runs are of emojiland and another model; name --dino and --clip")
    if subjects is None and embedded == {True}:
        subjects = EMBEDDED
    if subjects is None and not taught:
        who = "--images shows" if model is None else "MODEL draws"
        raise UserError(f"--subjects is missing: the suite whose subjects {who}")
    suite = None if subjects is None else load_suite(os.fspath(subjects))
    pictures = None
    if images is not None and suite:
        pictures = open_folder(Path(os.path.expanduser(images)), suite, images_per_prompt)
    name = taught[0].name if taught else printable(Path(images or model or "").resolve().name)
    path = expanded(out) if out else next_free(Path("evaluations"), name)
    check_free(path)

    base = None
    if model is not None:
        base = open_untrained(model, settings, device, ip_adapter, ip_adapter_scale)
    configs = [run.config for run in opened] + ([base.config] if base else [])
    own = default_judges(models[0] if models else os.fspath(subjects or ""))
    head = None if aesthetic is None else Path(aesthetic)
    where = device or (configs[0].device if configs else "auto")
    judges = load_judges(dino or own[0], clip or own[1], head, aesthetic_clip, where)

    side = min(pictures.size) if pictures else _side(taught, base)
    taught, gallery = gather(taught, suite.read(side) if suite else [])
    systems: list[System] = [*taught]
    if base:
        systems += model_systems(base, taught, suite, gallery, each)
    if pictures and suite:
        systems.append(FolderSystem(name, pictures, gallery, suite))
    found = _judge(systems, Scorer(judges, gallery, LAMBDA), path, tell)
    data = rounded(
        {
            "versions": versions(),
            "judges": {name: dict(judge.about) for name, judge in judges.named()},
            "protocol": _protocol(side),
            "gallery": _listed(gallery),
            **found,
        }
    )
    _write(path, data)
    return Evaluation(path, data)


def _sorted(given: Sequence[Run | Place], device: str | None) -> tuple[list[Run], str | None]:
    """The runs, opened, and the name of the base model. UserError for what is neither."""
    runs, models = [], []
    for one in given:
        if isinstance(one, Run) or not _is_model(one):
            runs.append(_opened(one, device))
            continue
        try:
            resolve_model(name := str(one) if isinstance(one, str) else str(Path(one).absolute()))
        except UserError as error:
            raise UserError(f"no run, and as a model: {error}") from None
        models.append(name)
    if len(models) > 1:
        raise UserError("give one MODEL at a time; each evaluation.json is a table of its own")
    return runs, next(iter(models), None)


def _is_model(place: Place) -> bool:
    """Whether it is a base model, or at least not meant as a run folder."""
    if place == EMBEDDED:  # also where a folder is called so
        return True
    path = Path(os.path.expanduser(place))
    if path.is_dir():
        return (path / "model_index.json").is_file()
    if path.is_file() or path.suffix == ".safetensors":
        return True
    # org/name, unless it is a place in a folder that is here, such as a run that is not
    two = isinstance(place, str) and not path.is_absolute() and len(path.parts) == 2
    return two and not path.parent.is_dir()


def _opened(run: Run | Place, device: str | None) -> Run:
    found = run if isinstance(run, Run) else load_run(run)
    found = replace(found, _device=device) if device else found
    require_best(found.folder)
    resolve_model(found.config.model)  # the base model draws too: told now, not minutes later
    return found


def _side(runs: Sequence[RunSystem], base: Untrained | None) -> int:
    """Of what is drawn, in pixels. UserError for several: their photos could not be one gallery."""
    sides = {run.subject.photos[0].width for run in runs}
    if len(sides) > 1:
        raise UserError(
            f"the runs draw {' and '.join(map(str, sorted(sides)))} pixels; evaluate runs of "
            "different sizes apart"
        )
    if base is None:
        return sides.pop()
    if sides - {base.backbone.resolution}:
        raise UserError(
            f"the runs draw {sides.pop()} pixels and the model {base.backbone.resolution}; "
            "evaluate them apart, or let it draw as large by --set resolution=N"
        )
    return base.backbone.resolution


def _judge(
    systems: Sequence[System], scorer: Scorer, path: Path, tell: OnProgress
) -> dict[str, Any]:
    """Draws or reads system by system and subject by subject, keeps what is drawn, and judges."""
    told, rows = [], []
    for system in systems:
        own: list[Row] = []
        shown: list[Reference] = []
        for drawn in system.drawn(tell):
            if system.draws:
                with _naming_full_disk(path):
                    save_drawn(drawn, path, system.name)
            own += scorer.score(drawn)
            shown.append(drawn.subject)
        told.append(_system(system.name, system.about(shown), own, scorer, shown))
        rows.append(own)
    return {"systems": told, **_together(systems, rows)}


def _together(systems: Sequence[System], rows: Sequence[list[Row]]) -> dict[str, Any]:
    """Systems of one group taken as one, and what differs between groups.

    Where there is only one group: between its systems.
    """
    groups: dict[str, list[int]] = {}
    for place, system in enumerate(systems):
        groups.setdefault(system.group, []).append(place)
    merged = {name: [row for k in places for row in rows[k]] for name, places in groups.items()}
    together = [
        {"name": name, "runs": [systems[k].name for k in places], **summarise(merged[name])}
        for name, places in groups.items()
        if len(places) > 1 and len({row.subject for row in merged[name]}) > 1
    ]
    if len(merged) == 1:
        merged = {system.name: own for system, own in zip(systems, rows, strict=True)}
    differences = [
        {"first": first, "second": second, "metrics": found}
        for first, second in combinations(merged, 2)
        if (found := compare(merged[first], merged[second]))
    ]
    return {"together": together, "differences": differences}


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
    return naming_full_disk(path, ELSEWHERE)
