"""The paper's tables (arXiv 2407.12164), each as a choice among the lines of a results folder.

A line belongs to a table by its settings, or where the suite names the table's lines itself. The
means of a table are over the subjects and seeds that all its rows have: a column can be read down.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from rpo.bench.records import SUITE
from rpo.bench.report.about import about
from rpo.bench.report.measured import (
    LEAST_SUBJECTS,
    Group,
    Measured,
    Place,
    difference,
    figure,
    mean_of,
    photo_figures,
    shared_places,
    tells_apart,
)
from rpo.bench.report.published import LAMBDA_FIGURES, METHOD_FIGURES, PHOTOS, Published
from rpo.bench.suite import BenchSuite
from rpo.config import METHODS
from rpo.errors import UserError, printable
from rpo.evaluation.metrics import METRICS
from rpo.report.tables import Column, Row, Table, Value

HEADLINE_LAMBDA = 0.5  # λ_val of the figures in the paper's abstract
MOST_NOTES = 12  # lines on what is left out of a table
FIGURES = ("dino", "clip_i", "clip_t", "harmonic")
Belongs = Callable[[Measured], bool]


# --- which line is what ------------------------------------------------------------------


def objective(line: Measured) -> str:
    """The method that a line's losses amount to: RPO without L_pref is the similarity loss."""
    if line.method == "rpo" and line.setting("training.preference_weight") == 0:
        return "similarity"
    if line.method == "rpo" and line.setting("training.similarity_weight") == 0:
        return "dpo"
    return line.method


def is_rpo(line: Measured, choose: str = "best", mean: str = "harmonic") -> bool:
    """Whether a line is RPO whose reward takes this mean, judged at this step."""
    is_one = objective(line) == "rpo" and line.choose == choose
    return is_one and line.setting("reward.mean") == mean


def has_headline_lambda(line: Measured) -> bool:
    """Whether it validates by the λ of the paper's abstract."""
    return line.setting("reward.lambda_val") == HEADLINE_LAMBDA


def _with_lambda(lam: float) -> Belongs:
    return lambda line: is_rpo(line) and line.setting("reward.lambda_val") == lam


def find_headline(lines: Iterable[Measured]) -> Measured | None:
    """The paper's method with the λ_val of its abstract, else with another, else None."""
    own = [line for line in lines if is_rpo(line)]
    return next(filter(has_headline_lambda, own), own[0] if own else None)


def is_method(line: Measured) -> bool:
    """Whether a line is a method as its authors have it, and no ablation of RPO."""
    if line.choose == "untrained":
        return True
    if objective(line) == "rpo":
        return is_rpo(line)
    return not (objective(line) == "similarity" and line.choose == "best")


def in_order(lines: Iterable[Measured]) -> list[Measured]:
    """Untrained ones, other methods, then RPO's variants by λ_val; last steps before best ones."""

    def place(line: Measured) -> tuple:
        is_rpo_too = objective(line) == "rpo"
        lam = line.setting("reward.lambda_val") if is_rpo_too else 0
        methods = ["", *METHODS]
        known = methods.index(objective(line)) if objective(line) in methods else len(methods)
        return (
            line.choose != "untrained",
            is_rpo_too,
            known,
            str(lam),
            line.choose == "best",
            line.key,
        )

    return sorted(lines, key=place)


# --- tables ------------------------------------------------------------------------------


@dataclass(frozen=True)
class PaperTable:
    """One table of the paper: its parts as (what the paper calls it, which lines it is).

    A line is a row of the first part that it belongs to. lacking: what a suite needs for it. least:
    rows without which there is no table. keys: of the lines that a suite chose itself, in order,
    and first, of the one that the others are compared with.
    """

    name: str
    title: str
    intro: str
    parts: tuple[tuple[str, Belongs], ...]
    lacking: str
    metrics: tuple[str, ...] = FIGURES
    least: int = 2
    published: bool = False
    photos: bool = False
    keys: tuple[str, ...] = ()
    first: str = ""

    def rows(self, group: Group) -> list[tuple[str, Measured]]:
        """Its lines in order, each with its name in the paper."""
        lines = [line for line in group.lines.values() if self._measures(line)]
        if self.keys:
            chosen = [group.lines[key] for key in self.keys if key in group.lines]
            labels = {
                line.key: next((name for name, belongs in self.parts if belongs(line)), "")
                for line in chosen
            }
            return [(labels[line.key], line) for line in chosen if line in lines]
        found: dict[str, tuple[str, Measured]] = {}
        for label, belongs in self.parts:
            for line in lines:
                if belongs(line):
                    found.setdefault(line.key, (label, line))
        return list(found.values())

    def headline(self, lines: Sequence[Measured]) -> Measured | None:
        """The line that the table is about, of these: the suite's choice, else RPO."""
        return next((line for line in lines if line.key == self.first), find_headline(lines))

    def _measures(self, line: Measured) -> bool:
        return any(m in cell.figures for cell in line.cells.values() for m in self.metrics)


PAPER_TABLES = (
    PaperTable(
        "table-1",
        "Table 1: methods",
        "Every method with its own settings on the same subjects, prompts and first noises.",
        (
            ("", lambda line: line.choose == "untrained"),
            ("", lambda line: is_method(line) and objective(line) != "rpo"),
            ("", is_rpo),
        ),
        "two methods",
        published=True,
        photos=True,
    ),
    PaperTable(
        "table-2",
        "Table 2: what L_pref and early stopping do",
        "The similarity loss alone, with the preference loss, and both with the step chosen by the "
        "λ-harmonic reward of the validation pictures.",
        (
            ("L_sim alone", lambda x: objective(x) == "similarity" and x.choose == "last"),
            ("without early stopping", lambda x: is_rpo(x, "last") and has_headline_lambda(x)),
            (
                "early stopping without L_pref",
                lambda x: objective(x) == "similarity" and x.choose == "best",
            ),
            ("RPO", lambda x: is_rpo(x) and has_headline_lambda(x)),
        ),
        'RPO and similarity, each with choose = ["best", "last"]',
    ),
    PaperTable(
        "table-3",
        "Tables 3 and 5: λ of the validation",
        "A small λ_val chooses steps that follow the prompt, a large one steps that resemble the "
        "photos.",
        (*((f"λ_val = {lam:g}", _with_lambda(lam)) for lam in LAMBDA_FIGURES), ("another", is_rpo)),
        "RPO with two values of reward.lambda_val",
        published=True,
    ),
    PaperTable(
        "table-6",
        "Table 6: arithmetic and harmonic mean",
        "Both alignments of a picture as one reward: the arithmetic mean forgives that one is low.",
        (
            ("arithmetic mean", lambda x: is_rpo(x, mean="arithmetic") and has_headline_lambda(x)),
            ("harmonic mean", lambda x: is_rpo(x) and has_headline_lambda(x)),
        ),
        "RPO with reward.mean = arithmetic and with harmonic",
    ),
    PaperTable(
        "table-7",
        "Table 7: Diffusion-DPO and RPO",
        "Preferences alone, and with the similarity loss.",
        (
            ("Diffusion-DPO", lambda x: objective(x) == "dpo"),
            ("RPO", lambda x: is_rpo(x) and has_headline_lambda(x)),
        ),
        "the methods dpo and rpo",
    ),
    PaperTable(
        "table-8",
        "Table 8: aesthetic score",
        "LAION's predictor, about 1 to 10.",
        (("", is_method),),
        "the aesthetic judge",
        metrics=("aesthetic",),
        least=1,
        photos=True,
    ),
)


def tables_of(suite: BenchSuite | None) -> list[PaperTable]:
    """The paper's tables, with the lines that a suite names for them; then the suite's own."""
    own = {} if suite is None else dict(suite.tables)
    found = []
    for wanted in PAPER_TABLES:
        entry = own.pop(wanted.name, None)
        if entry:
            keys, first = tuple(entry["lines"]), entry.get("first", "")
            wanted = replace(wanted, title=entry["title"], keys=keys, first=first)
        found.append(wanted)
    for name, entry in own.items():
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,60}", name):
            raise UserError(
                f"{SUITE}: tables.{printable(name)}: name it by letters, digits, - and _ alone"
            )
        keys, first = tuple(entry["lines"]), entry.get("first", "")
        needs = "the suite's rows"
        found.append(
            PaperTable(name, entry["title"], "", (), needs, keys=keys, first=first, least=1)
        )
    return found


def has_rows(wanted: PaperTable, group: Group) -> bool:
    """Whether the group has enough lines for the table, and two parts where it names several."""
    rows = wanted.rows(group)
    named = {label for label, _ in rows if label}
    return len(rows) >= wanted.least and (bool(wanted.keys) or not named or len(named) > 1)


def paper_table(wanted: PaperTable, group: Group) -> Table:
    """One table of the paper, of what the group has of it."""
    rows = wanted.rows(group)
    lines = [line for _, line in rows]
    places = shared_places(lines)
    headline = wanted.headline(lines)
    named = any(label for label, _ in rows)
    columns = [Column("", "text")] if named else []
    columns += [Column("method", "text"), *(metric_column(name) for name in wanted.metrics)]
    columns += [Column("jobs done")]
    published = {line.key: _published(line) for line in lines} if wanted.published else {}
    if any(published.values()):
        columns.append(Column("DINO / CLIP-I / CLIP-T", "text", published=True))
    strong = [best_lines(lines, metric, places) for metric in wanted.metrics]
    first = 2 if named else 1
    body = []
    for label, line in rows:
        values: list[Value] = [*([label] if named else []), line.title]
        values += [figure(line, metric, places) for metric in wanted.metrics]
        values += [_jobs(line, group)]
        if any(published.values()):
            values.append(str(published[line.key] or ""))
        marks = frozenset(first + k for k, keys in enumerate(strong) if line.key in keys)
        body.append(Row(tuple(values), marks, chosen=line is headline))
    if wanted.photos:
        photos = photo_figures(group, places)
        values = [*([""] if named else []), "real photos, with one another"]
        values += [photos[metric] for metric in wanted.metrics]
        values += [None]
        values += [str(PHOTOS)] if any(published.values()) else []
        body.append(Row(tuple(values)))
    intro = f"{wanted.intro} Bold is the best of a column, and what is not told apart from it."
    intro = intro.strip()
    return Table(
        wanted.name,
        wanted.title,
        intro,
        tuple(columns),
        tuple(body),
        about(group, places),
        tuple(_notes(lines, places, group.failed)),
    )


def difference_table(
    group: Group,
    name: str,
    title: str,
    pairs: Sequence[tuple[Measured, Measured]],
    metrics: Sequence[str],
) -> Table:
    """Paired differences first - second of each pair, over the places that both have."""
    rows = []
    for first, second in pairs:
        found = [difference(first, second, metric) for metric in metrics]
        told = (k for k, value in enumerate(found, 1) if tells_apart(value))
        count = len({subject for subject, _ in shared_places([first, second])})
        values = (f"{first.title} \N{MINUS SIGN} {second.title}", *found, count)
        rows.append(Row(values, frozenset(told)))
    columns = [Column("difference", "text")]
    columns += [metric_column(metric, form="+.3f") for metric in metrics]
    columns += [Column("subjects")]
    intro = (
        "Paired by subject, their seeds averaged first, with 95 % bootstrap intervals over "
        "subjects; bold where the interval leaves out 0, of six subjects or more."
    )
    places = {place for pair in pairs for place in shared_places(pair)}
    return Table(name, title, intro, tuple(columns), tuple(rows), about(group, places))


def paper_differences(wanted: PaperTable, group: Group) -> Table | None:
    """A table's headline less each other row; of rows without one, each pair."""
    lines = [line for _, line in wanted.rows(group)]
    headline = wanted.headline(lines)
    pairs = (
        [(headline, line) for line in lines if line is not headline]
        if headline
        else list(combinations(lines, 2))
    )
    pairs = [pair for pair in pairs if shared_places(pair)]
    if not pairs:
        return None
    title = f"{wanted.title.partition(':')[0]}: paired differences"
    return difference_table(group, f"{wanted.name}-differences", title, pairs, wanted.metrics)


def metric_column(name: str, form: str = ".3f") -> Column:
    """The column of a metric, with the direction in which it is better."""
    metric = METRICS[name]
    arrow = {"higher": "↑", "lower": "↓"}[metric.better]
    return Column(f"{metric.title} {arrow}", form=form)


def best_lines(lines: Sequence[Measured], metric: str, places: Iterable[Place]) -> set[str]:
    """The line with the best mean at these places, and those that are not told apart from it.

    None at all where there are too few subjects to tell any apart.
    """
    places = set(places)
    if len({subject for subject, _ in places}) < LEAST_SUBJECTS:
        return set()
    means = {line.key: figure(line, metric, places) for line in lines}
    known = [line for line in lines if means[line.key] is not None]
    if len(known) < 2:
        return set()
    sign = 1 if METRICS[metric].better == "higher" else -1
    best = max(known, key=lambda line: sign * mean_of(means[line.key]))
    found = {best.key}
    for line in known:
        if not tells_apart(difference(best, line, metric, places)):
            found.add(line.key)
    return found


def _jobs(line: Measured, group: Group) -> Value:
    """How many are done, and how many failed if any did."""
    failed = sum(row == line.row for row, _ in group.failed)
    return f"{len(line.cells)}, {failed} failed" if failed else len(line.cells)


def _published(line: Measured) -> Published | None:
    if is_rpo(line):
        return LAMBDA_FIGURES.get(line.setting("reward.lambda_val"))
    return METHOD_FIGURES.get(line.method) if line.method in METHODS else None


def _notes(
    lines: Sequence[Measured], places: set[Place], failed: set[tuple[str, Place]]
) -> Iterable[str]:
    """Which subjects and seeds the means leave out, and for whose lack."""
    if not places:
        yield "No subject and seed is done for every row yet, so that no means can be compared."
        return
    left = sorted({place for line in lines for place in line.cells} - places)
    for subject, seed in left[:MOST_NOTES]:
        lacking = [
            f"{line.title} ({'failed' if (line.row, (subject, seed)) in failed else 'not done'})"
            for line in lines
            if (subject, seed) not in line.cells
        ]
        yield f"Left out of the means: {subject}, seed {seed}, for want of {', '.join(lacking)}"
    if len(left) > MOST_NOTES:
        yield f"and {len(left) - MOST_NOTES} more of subject and seed, for the like"
