"""A results folder as tables need it: lines of cells, what failed, and estimates over subjects.

A line is what `rpo.bench.records` calls one: a row of the suite and the step of it that was judged.
A cell of it is one subject and seed. Seeds are averaged first, and intervals are over subjects.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rpo.bench.order import job_id
from rpo.bench.records import DONE, JOBS, SUITE, JobResult, Line, lines, read_results
from rpo.bench.suite import BenchSuite, read_suite
from rpo.config import Config, value_of
from rpo.errors import UserError, printable
from rpo.evaluation.file import JUDGES
from rpo.evaluation.metrics import METRICS
from rpo.evaluation.scoring import means_of
from rpo.evaluation.statistics import Interval, bootstrap_interval
from rpo.reading import misfit
from rpo.runs.result import drawing

Place = tuple[str, int]  # subject and seed
LEAST_SUBJECTS = 6  # that can tell two lines apart: see `tells_apart`
DEFAULTS = Config()
Estimate = Interval | float | None
"""A mean with its interval, of one subject the value alone, and None of none."""


@dataclass(frozen=True)
class Shown:
    """A test prompt of a subject: its number, its words, and the skill that it asks for."""

    number: int
    template: str
    skill: str


@dataclass(frozen=True)
class Cell:
    """What is left of one judged step once its pictures' own figures are averaged.

    figures: metric -> mean over prompts; skills: the same of the prompts of each skill. curve: a
    row a validation (step, reward, image alignment, text alignment). training: `JobResult.figures`.
    folder: of its pictures.
    """

    noun: str
    step: int
    figures: Mapping[str, float]
    skills: Mapping[str, Mapping[str, float]]
    prompts: tuple[Shown, ...]
    curve: tuple[tuple[float, ...], ...]
    training: Mapping[str, float]
    folder: str
    seconds: float
    photos: Mapping[str, float]
    job: str


@dataclass
class Measured:
    """A line of the tables: what it is, and its cells by subject and seed.

    row: of the suite. settings: what the row changes over its method's own.
    """

    key: str
    row: str
    title: str
    method: str
    model: str
    choose: str
    settings: Mapping[str, Any]
    cells: dict[Place, Cell] = field(default_factory=dict)
    trained_parameters: int = 0

    def setting(self, name: str) -> Any:
        """A setting of the row, or its default."""
        return self.settings.get(name, value_of(DEFAULTS, name))

    @property
    def subjects(self) -> list[str]:
        """Those it has a cell of, in order."""
        return list(dict.fromkeys(subject for subject, _ in sorted(self.cells)))


@dataclass(frozen=True)
class Failure:
    """A job that failed, and why."""

    row: str
    title: str
    subject: str
    seed: int
    error: str


@dataclass
class Group:
    """The lines that can be compared: of one base model, seen by the same judges in one way.

    drawing: how the suite has pictures drawn, "" where it is not known. failed: row, subject and
    seed of every job that failed.
    """

    model: str
    judges: Mapping[str, Any]
    protocol: Mapping[str, Any]
    lines: dict[str, Measured] = field(default_factory=dict)
    drawing: str = ""
    failed: set[tuple[str, Place]] = field(default_factory=set)


@dataclass
class Results:
    """All that a results folder says.

    suite: what was asked for, where its file is there. missing: how many of its jobs are neither
    done nor failed. seconds: of all jobs together. aside: subjects that are done and in no figure,
    as settings were chosen on them.
    """

    path: Path
    suite: BenchSuite | None = None
    missing: int = 0
    groups: list[Group] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    done: int = 0
    seconds: float = 0.0
    aside: set[str] = field(default_factory=set)
    provenances: list[Mapping[str, Any]] = field(default_factory=list)


def read(folder: Path) -> Results:
    """Reads every result once. UserError for a folder without one, or a damaged one in it.

    Of subjects on which the suite's settings were chosen, no figure is kept.
    """
    file = folder / SUITE
    found = Results(folder, read_suite(file) if file.is_file() else None)
    development = found.suite.development if found.suite else ()
    groups: dict[str, Group] = {}
    seen: set[str] = set()
    for result in read_results(folder):
        job = result.job
        seen.add(job.id)
        if result.status == "failed":
            failure = Failure(job.row, job.title, job.subject, job.seed, result.error)
            found.failures.append(failure)
            continue
        _check(folder, result)
        found.done += 1
        found.seconds += result.seconds.get("total", 0.0)
        found.provenances.append(result.provenance)
        if job.subject in development:
            found.aside.add(job.subject)
            continue
        key = json.dumps([job.model, result.judges, result.protocol], sort_keys=True)
        group = groups.setdefault(key, Group(job.model, result.judges, result.protocol))
        for line in lines(iter([result])):
            _add(group.lines, line)
    found.groups = _joined([group for group in groups.values() if group.lines])
    for group in found.groups:
        group.drawing = _drawing(found.suite) if found.suite else ""
        group.failed = {(f.row, (f.subject, f.seed)) for f in found.failures}
    if not found.groups:
        why = "; run `rpo bench` first"
        if found.aside:
            aside = ", ".join(sorted(found.aside))
            why = f" but {aside}, on which settings were chosen; run `rpo bench` for others"
        if found.failures:
            why = f"; the first that failed: {found.failures[0].error}"
        raise UserError(f"{folder}: nothing in it is done and judged{why}")
    if found.suite:
        asked = {job_id(row.name, entry.name, seed) for row, entry, seed in found.suite.cells()}
        found.missing = len(asked - seen)
    return found


def _drawing(suite: BenchSuite) -> str:
    """ "dpm++, 20 steps, guidance 5", and other ways if rows differ."""
    ways = [drawing(row.config) for row in suite.rows if not row.images]
    told = (f"{w['scheduler']}, {w['steps']} steps, guidance {w['guidance_scale']:g}" for w in ways)
    return " or ".join(dict.fromkeys(told))


LARGEST = 1e6  # of a figure: cosines, ranks and scores are far below, and it can be squared


def _check(folder: Path, result: JobResult) -> None:
    """Raises UserError for what is read here and has a shape that the records leave open."""
    wrong = misfit(result.judges, JUDGES, "judges")
    tables = [result.photos, *(judged.summary for judged in result.judged)]
    tables += [row.figures for judged in result.judged for row in judged.pictures]
    values = [value for table in tables for value in table.values()]
    values += [value for point in result.curve for value in point]
    if not wrong and any(abs(value) > LARGEST for value in values):
        wrong = f"no figure can be above {LARGEST:g}"
    if not wrong and any(len(point) != 4 for point in result.curve):
        wrong = "curve must be of step, reward, image and text alignment"
    if wrong:
        file = folder / JOBS / f"{result.job.id}{DONE}"
        raise UserError(f"{printable(file)}: damaged ({wrong}); delete it, and run the suite again")


def _joined(groups: list[Group]) -> list[Group]:
    """Given pictures have no base model: they join those whose judges saw both in one way."""
    own = [group for group in groups if group.model]
    for given in (group for group in groups if not group.model):
        same = [g for g in own if (g.judges, g.protocol) == (given.judges, given.protocol)]
        for group in same:
            group.lines |= given.lines
        own += [] if same else [given]
    return own


def _add(known: dict[str, Measured], line: Line) -> None:
    job, judged = line.result.job, line.judged
    own = known.setdefault(
        line.key,
        Measured(
            line.key, job.row, judged.title, job.method, job.model, judged.choose, job.settings
        ),
    )
    own.trained_parameters = line.result.trained_parameters
    own.cells[job.subject, job.seed] = _cell(line.result, line)


def _cell(result: JobResult, line: Line) -> Cell:
    rows = line.judged.pictures
    prompts = {row.prompt: Shown(row.prompt, row.template, row.skill) for row in rows if row.prompt}
    skills = dict.fromkeys(prompt.skill for prompt in prompts.values())
    return Cell(
        result.job.noun,
        line.judged.step,
        {name: line.judged.summary[name] for name in METRICS if name in line.judged.summary},
        {skill: means_of([row for row in rows if row.skill == skill]) for skill in skills},
        tuple(prompts[number] for number in sorted(prompts)),
        result.curve,
        result.figures,
        line.judged.folder,
        result.seconds.get("total", 0.0),
        result.photos,
        result.job.id,
    )


# --- estimates ---------------------------------------------------------------------------


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of independent values with its 95 % bootstrap interval."""
    if len(values) < 2:
        return values[0] if values else None
    return bootstrap_interval(values)


def tells_apart(value: Estimate) -> bool:
    """Whether an interval leaves out 0, over subjects enough for that to mean something.

    Of n differences without an effect all have one sign with probability 2^(1 - n), and then the
    interval leaves out 0 whatever its width: above 5 % for fewer than six.
    """
    return (
        isinstance(value, Interval)
        and value.n >= LEAST_SUBJECTS
        and not value.low <= 0 <= value.high
    )


def mean_of(value: Estimate) -> float:
    """The mean of an estimate. ValueError of none."""
    if value is None:
        raise ValueError("there is no estimate")
    return value.mean if isinstance(value, Interval) else value


def shared_places(measured: Iterable[Measured]) -> set[Place]:
    """The subjects and seeds that every one of the lines has."""
    places = [set(line.cells) for line in measured]
    return set.intersection(*places) if places else set()


def by_subject(
    line: Measured, metric: str, places: Iterable[Place], skill: str | None = None
) -> dict[str, float]:
    """Subject -> mean over its seeds of one figure, of one skill's prompts alone if it is named."""
    found: dict[str, list[float]] = {}
    for place in sorted(places):
        cell = line.cells.get(place)
        figures = {} if cell is None else cell.figures
        if cell is not None and skill is not None:
            figures = cell.skills.get(skill, {})
        if metric in figures:
            found.setdefault(place[0], []).append(figures[metric])
    return {subject: math.fsum(own) / len(own) for subject, own in found.items()}


def figure(
    line: Measured, metric: str, places: Iterable[Place], skill: str | None = None
) -> Estimate:
    """The mean over subjects of one figure at these places."""
    return estimate(list(by_subject(line, metric, places, skill).values()))


def difference(
    first: Measured, second: Measured, metric: str, places: Iterable[Place] | None = None
) -> Estimate:
    """The mean of first - second over subjects, at those places where both have the figure.

    places: all, where they are not given.
    """
    both = shared_places([first, second])
    places = {
        place
        for place in (both if places is None else both & set(places))
        if all(metric in line.cells[place].figures for line in (first, second))
    }
    a, b = (by_subject(line, metric, places) for line in (first, second))
    return estimate([a[subject] - b[subject] for subject in a])


def photo_figures(group: Group, places: Iterable[Place]) -> dict[str, Estimate]:
    """The oracle row: the real photos of these subjects against one another."""
    own: dict[str, Mapping[str, float]] = {}
    for line in group.lines.values():
        for place in places:
            if place in line.cells:
                own.setdefault(place[0], line.cells[place].photos)
    return {
        name: estimate([photos[name] for photos in own.values() if name in photos])
        for name in METRICS
    }


def curves(line: Measured) -> Iterator[tuple[Place, Cell]]:
    """The cells that have validations, in order."""
    return ((place, line.cells[place]) for place in sorted(line.cells) if line.cells[place].curve)
