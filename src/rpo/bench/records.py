"""What a results folder says of its jobs: one JSON file each, written when the job ends.

    RESULTS/suite.toml          what was asked for, with everything spelled out
    RESULTS/jobs/ID.json        a job that is done
    RESULTS/jobs/ID.failed.json one that failed; the next session tries it again
    RESULTS/runs/ID/            its run folder, or what of it was asked to be kept
    RESULTS/pictures/ROW-CHOICE/seed-S/SUBJECT/PROMPT-K.png
    RESULTS/report/             what `rpo report` makes of it

A job is one training of (row, subject, seed), or for a row without training its drawing alone. A
row may have several of a training's steps judged: each is a line of the tables, called by its
`key`, such as "rpo:best" beside "rpo:last". The pictures of such a line and seed lie as
`rpo evaluate --images` reads them, so that other judges can see them too.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rpo.reading import Shape, every, number, plain, read_json, whole
from rpo.replacing import replacing
from rpo.rounding import rounded

if TYPE_CHECKING:
    from rpo.evaluation.scoring import Row

SCHEMA = 1
SUITE, JOBS, RUNS, PICTURES = "suite.toml", "jobs", "runs", "pictures"
DONE, FAILED = ".json", ".failed.json"
FOLDER, PAGE = "report", "report.html"  # what `rpo report` adds, and the page in it

Choice = Literal["best", "last", "untrained"]


@dataclass(frozen=True)
class Job:
    """What decides one job; ids are unique within a results folder.

    Attributes:
        id: names its files: the row's, the subject's and the seed's names.
        row, title: of the suite's row; the title is for people.
        subject, noun, kind: the subject's name in the suite, its class noun, live or object.
        seed: all randomness of training and drawing derives from it.
        method: a name in `METHODS`; "" for a row without training.
        model: the base model, as the settings name it.
        settings: what the row changes, flat: {"training.steps": 200}.
        choose: which steps are judged, ("best", "last") in this order; ("untrained",) for a row
            without training; () where nothing is judged, as in `rpo batch`.
    """

    id: str
    row: str
    title: str
    subject: str
    noun: str
    kind: str
    seed: int
    method: str
    model: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    choose: tuple[Choice, ...] = ()


@dataclass(frozen=True)
class Judged:
    """The pictures of one judged step of a job: one cell of a line of the tables.

    Attributes:
        choose: which step was asked for.
        title: of this line of the tables.
        step: the gradient step that it came to; 0 without training.
        folder: of its pictures, relative to the results: FOLDER/PROMPT-K.png, such as 03-1.png;
            "" where none are kept.
        pictures: the figures of each picture, as `rpo.evaluation.scoring` gives them; those of the
            class alone (class drift) have prompt 0.
        summary: metric -> mean over prompts, of each prompt its pictures' mean.
    """

    choose: Choice
    title: str
    step: int
    folder: str
    pictures: tuple[Row, ...]
    summary: Mapping[str, float]


@dataclass(frozen=True)
class JobResult:
    """How a job ended. All but job, status, error and seconds is empty where it failed.

    Attributes:
        status, error: "failed" comes with one line that says why.
        steps: gradient steps done.
        seconds: by phase, over all sessions: those of `PhaseDone` ("loading", "sampling" for
            drawing what it learns from, "labelling", "training", "validation", "saving") and
            "judging"; "total", their sum; "cpu", processor seconds of all threads in the session
            that ended it.
        trained_parameters: how many numbers learned.
        curve: a row a validation: step, reward, image alignment, text alignment.
        figures: of the training, by name: "label_mean_probability", and means of what the method
            says of the steps since the last validation but one ("last_margin").
        judged: in the order of job.choose.
        photos: the oracle: the subject's photos against one another, metric -> mean.
        judges: who judged: name, hash and preprocessing by role.
        protocol: images_per_prompt, side of the photos in pixels, how prompts are worded, λ.
        provenance: versions, hardware, host, commit (where the source is a git checkout), load,
            began, ended (UTC), sessions, and fingerprint, of all that decided the result.
    """

    job: Job
    status: Literal["done", "failed"]
    error: str = ""
    steps: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    trained_parameters: int = 0
    curve: tuple[tuple[float, ...], ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    judged: tuple[Judged, ...] = ()
    photos: Mapping[str, float] = field(default_factory=dict)
    judges: Mapping[str, Any] = field(default_factory=dict)
    protocol: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Line:
    """One cell of a line of the tables: a judged step, and the job that it is of."""

    key: str
    result: JobResult
    judged: Judged


def line_key(row: str, choose: str) -> str:
    """The name of a line of the tables: "rpo:best"; that of an untrained row is the row's own."""
    return row if choose == "untrained" else f"{row}:{choose}"


def lines(results: Iterator[JobResult]) -> Iterator[Line]:
    """Every judged step of those that are done."""
    for result in results:
        for judged in result.judged:
            yield Line(line_key(result.job.row, judged.choose), result, judged)


# --- files -------------------------------------------------------------------------------

_FIGURES: Shape = every(number)
_CHOICE = "best, last or untrained"
SHAPE: Shape = {
    "schema": lambda value: "" if value == SCHEMA else f"{SCHEMA}, as this version of rpo reads",
    **dict.fromkeys(("id", "row", "title", "method", "model", "error"), str),
    "subject": {"name": str, "noun": str, "kind": str},
    "seed": whole,
    "settings": every((str, bool, number)),
    "choose": [lambda value: "" if value in ("best", "last", "untrained") else _CHOICE],
    "status": lambda value: "" if value in ("done", "failed") else "done or failed",
    "steps": whole,
    "trained_parameters": whole,
    "curve": [[number]],
    **dict.fromkeys(("seconds", "figures", "photos"), _FIGURES),
    **{name: {} for name in ("judges", "protocol", "provenance")},
    "judged": [
        {
            **dict.fromkeys(("choose", "title", "folder"), str),
            "step": whole,
            "summary": _FIGURES,
            "pictures": [
                {
                    **dict.fromkeys(("prompt", "number"), whole),
                    **dict.fromkeys(("template", "skill"), str),
                    "figures": _FIGURES,
                }
            ],
        }
    ],
}
_REMEDY = "delete it, and the next `rpo bench` does that job again"


def to_record(result: JobResult) -> dict[str, Any]:
    """The result as JSON-able values; `from_record` takes them back."""
    record = dataclasses.asdict(result)
    job = record.pop("job")
    job["subject"] = {"name": job["subject"], "noun": job.pop("noun"), "kind": job.pop("kind")}
    for judged in record["judged"]:
        for row in judged["pictures"]:
            del row["subject"]
    return {"schema": SCHEMA, **job, **record}


def from_record(record: Mapping[str, Any]) -> JobResult:
    """The inverse of `to_record`, of a record that has `SHAPE`."""
    from rpo.evaluation.scoring import Row

    subject = record["subject"]
    job = Job(
        **{key: record[key] for key in ("id", "row", "title", "seed", "method", "model")},
        subject=subject["name"],
        noun=subject["noun"],
        kind=subject["kind"],
        settings=dict(record["settings"]),
        choose=tuple(record["choose"]),
    )
    judged = tuple(
        Judged(
            **{key: item[key] for key in ("choose", "title", "step", "folder")},
            pictures=tuple(
                Row(
                    subject=job.subject,
                    **{key: row[key] for key in ("prompt", "number", "template", "skill")},
                    figures=dict(row["figures"]),
                )
                for row in item["pictures"]
            ),
            summary=dict(item["summary"]),
        )
        for item in record["judged"]
    )
    rest = ("status", "error", "steps", "trained_parameters", "seconds", "figures", "photos")
    values = {name: plain(record[name]) for name in (*rest, "judges", "protocol", "provenance")}
    curve = tuple(tuple(point) for point in record["curve"])
    return JobResult(job=job, curve=curve, judged=judged, **values)


def write_result(folder: Path, result: JobResult) -> Path:
    """Puts a result into a results folder, in one piece; a failure of that job before it goes."""
    file = folder / JOBS / (result.job.id + (DONE if result.status == "done" else FAILED))
    file.parent.mkdir(parents=True, exist_ok=True)
    record = rounded(to_record(result)) | {"settings": dict(result.job.settings)}
    text = json.dumps(record, ensure_ascii=False) + "\n"
    with replacing(file, "free some space, then run the same command again") as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    if result.status == "done":
        (folder / JOBS / (result.job.id + FAILED)).unlink(missing_ok=True)
    return file


def is_results(folder: Path) -> bool:
    """Whether a folder holds the results of a benchmark."""
    return (folder / JOBS).is_dir()


def is_done(folder: Path, job_id: str) -> bool:
    """Whether that job's result is there; its file is not read."""
    return (folder / JOBS / (job_id + DONE)).is_file()


def read_result(file: Path) -> JobResult:
    """One result. Raises UserError for a file that holds none."""
    return from_record(read_json(file, SHAPE, _REMEDY))


def read_results(folder: Path) -> Iterator[JobResult]:
    """All results of a folder by id, done and failed, one at a time. UserError as `read_result`.

    Of a job that is done, a failure before it is passed over.
    """
    try:
        names = sorted(e.name for e in os.scandir(folder / JOBS) if e.name.endswith(DONE))
    except FileNotFoundError:
        return
    for name in names:
        if name.startswith("."):
            continue
        if name.endswith(FAILED) and is_done(folder, name.removesuffix(FAILED)):
            continue
        yield read_result(folder / JOBS / name)
