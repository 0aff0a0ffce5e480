"""The report of a results folder: every table as Markdown and CSV, and one self-contained page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

from rpo.about import ASSETS
from rpo.bench.report import figures
from rpo.bench.report.about import about
from rpo.bench.report.figures import Photos
from rpo.bench.report.measured import Failure, Group, Measured, Results, figure, shared_places
from rpo.bench.report.paper import (
    FIGURES,
    difference_table,
    has_rows,
    in_order,
    metric_column,
    paper_differences,
    paper_table,
    tables_of,
)
from rpo.bench.report.story import Finding, findings
from rpo.bench.report.training import training_table
from rpo.bench.suite import BenchSuite
from rpo.errors import printable
from rpo.evaluation.metrics import METRICS
from rpo.report.page import duration, section
from rpo.report.tables import Column, Row, Table, Value, plain_markdown, to_html, to_markdown

STYLES = (ASSETS / "report.css", ASSETS / "results.css")


@dataclass(frozen=True)
class GroupReport:
    """What is told of one group: the paper's tables, the story, and all that was measured."""

    group: Group
    paper: Sequence[tuple[Table, Table | None]]
    absent: Sequence[str]
    story: Sequence[Finding]
    claims: Table | None
    skills: Table | None
    training: Table | None
    everything: Table

    @property
    def tables(self) -> list[Table]:
        """All of them, in the page's order."""
        paper = [table for pair in self.paper for table in pair]
        found = [self.claims, *paper, self.skills, self.training, self.everything]
        return [table for table in found if table is not None]


def report_on(group: Group, suite: BenchSuite | None = None) -> GroupReport:
    """Computes every table of a group; no picture is read."""
    group = replace(group, lines={line.key: line for line in in_order(group.lines.values())})
    tables = tables_of(suite)
    present = [wanted for wanted in tables if has_rows(wanted, group)]
    absent = [
        f"{wanted.title.partition(':')[0]} needs {wanted.lacking}"
        for wanted in tables
        if wanted not in present
    ]
    story = findings(group)
    return GroupReport(
        group,
        [(paper_table(wanted, group), paper_differences(wanted, group)) for wanted in present],
        absent,
        story,
        _claims_table(group, story),
        _skills_table(group),
        training_table(group),
        _everything_table(group),
    )


def _claims_table(group: Group, story: Sequence[Finding]) -> Table | None:
    pairs = [(f.first, f.second) for f in story if f.first and f.second]
    if not pairs:
        return None
    return difference_table(group, "claims", "The claims' paired differences", pairs, FIGURES)


def _skills_table(group: Group) -> Table | None:
    """λ-harmonic of each line by what a prompt asks for, over what all lines have."""
    skills, places = figures.skills_of(group.lines), shared_places(group.lines.values())
    if not skills or not places:
        return None
    metric = "harmonic"
    rows = [
        Row((line.title, *(figure(line, metric, places, skill) for skill in skills)))
        for line in group.lines.values()
    ]
    return Table(
        "skills",
        f"{METRICS[metric].title} by skill",
        "Over the subjects and seeds that every line has, those of them with prompts of the skill.",
        (Column("method", "text"), *(Column(skill) for skill in skills)),
        tuple(rows),
        about(group, places),
    )


def _everything_table(group: Group) -> Table:
    """Every figure of every line, each over all subjects and seeds that it has."""
    lines = list(group.lines.values())
    metrics = [
        m for m in METRICS if any(m in c.figures for line in lines for c in line.cells.values())
    ]
    rows = []
    for line in lines:
        seconds = [cell.seconds for cell in line.cells.values() if cell.seconds]
        steps = [cell.step for cell in line.cells.values()]
        values: list[Value] = [line.title, line.key, len(line.subjects), len(line.cells)]
        values += [figure(line, metric, line.cells) for metric in metrics]
        values += [
            sum(steps) / len(steps),
            sum(seconds) / len(seconds) if seconds else None,
            line.trained_parameters,
        ]
        rows.append(Row(tuple(values)))
    columns = [Column("method", "text"), Column("line", "text"), Column("subjects")]
    columns += [Column("jobs"), *(metric_column(metric) for metric in metrics)]
    columns += [Column("step", form=".0f"), Column("seconds a job", form=".0f")]
    columns += [Column("numbers that learn")]
    return Table(
        "everything",
        "Everything that was measured",
        "Each line over all that it has done: lines with other subjects are not comparable here.",
        tuple(columns),
        tuple(rows),
        about(group, _all_places(lines)),
    )


def _all_places(lines: Iterable[Measured]) -> set[tuple[str, int]]:
    return {place for line in lines for place in line.cells}


# --- Markdown ----------------------------------------------------------------------------


def to_page_markdown(results: Results, reports: Sequence[GroupReport]) -> str:
    """All tables, the story and the failures as one Markdown text."""
    lines = [f"# {plain_markdown(_title(results))}", "", _counted(results), ""]
    for report in reports:
        if len(reports) > 1:
            lines += [f"# {plain_markdown(_name(report.group))}", ""]
        lines += ["## The story", ""]
        for finding in report.story:
            lines += [
                f"**{finding.claim.title}: {finding.verdict}.** "
                f"{plain_markdown(_sentence(finding.claim.says))} "
                f"{plain_markdown(finding.measured)}",
                "",
            ]
        lines += [to_markdown(table) for table in report.tables]
        lines += [f"- Not measured: {plain_markdown(text)}." for text in report.absent]
        lines += [""] if report.absent else []
    lines += ["## What failed", ""]
    lines += [
        "- " + plain_markdown(f"{f.title}, {f.subject}, seed {f.seed}: {f.error}")
        for f in results.failures
    ] or ["Nothing."]
    return "\n".join(lines).rstrip() + "\n"


def _sentence(says: str) -> str:
    return f"The paper: {says}."


def _counted(results: Results) -> str:
    count = f"{results.done} jobs done" if results.done != 1 else "1 job done"
    missing = f", {results.missing} not done yet" if results.missing else ""
    failed = len(results.failures)
    told = f"{count}, {failed} failed{missing}; {duration(results.seconds)} of work."
    return f"{told} {_aside(results)}".strip()


def _aside(results: Results) -> str:
    names = ", ".join(map(printable, sorted(results.aside)))
    return f"In no figure: {names}, on which settings were chosen." if names else ""


def _title(results: Results) -> str:
    return printable(results.suite.title if results.suite else results.path.resolve().name)


# --- the page ----------------------------------------------------------------------------


def render_page(results: Results, reports: Sequence[GroupReport], photos: Photos) -> str:
    """The page as text: no script, no address to fetch, every picture inlined.

    photos: an HTML figure of a subject's photo, by its name and the caption; "" for none.
    """
    body = [_header(results, reports), _failures(results.failures)]
    for number, report in enumerate(reports):
        if len(reports) > 1:
            body.append(f'<h1 class="group">{escape(printable(_name(report.group)))}</h1>')
        body += _group_sections(results.path, report, f"p{number}", photos)
    body.append(_provenance(results))
    style = "".join(file.read_text(encoding="utf-8") for file in STYLES)
    name = escape(_title(results))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name} · rpo</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def _header(results: Results, reports: Sequence[GroupReport]) -> str:
    places = {place for r in reports for place in _all_places(r.group.lines.values())}
    lines = sum(len(report.group.lines) for report in reports)
    subjects = len({subject for subject, _ in places})
    seeds = sorted({seed for _, seed in places})
    lede = (
        f"{lines} methods and variants on {subjects} subjects, seeds {', '.join(map(str, seeds))}."
    )
    lede = f"{lede} {_aside(results)}".strip()
    cells = [("Jobs done", str(results.done)), ("Failed", str(len(results.failures)))]
    cells += [("Not done yet", str(results.missing))] if results.missing else []
    cells += [("Subjects", str(subjects)), ("Time of all jobs", duration(results.seconds))]
    items = "".join(f"<div><dt>{label}</dt><dd>{value}</dd></div>" for label, value in cells)
    notice = ""
    if results.failures or results.missing:
        notice = (
            '<p class="notice">Not all is done. What failed is listed below, and no mean of the '
            "paper’s tables counts a subject and seed that another row of its table lacks.</p>"
        )
    return (
        f'<header>\n<p class="eyebrow">{escape(printable(results.path.resolve().name))}</p>\n'
        f'<h1>{escape(_title(results))}</h1>\n<p class="lede">{escape(lede)}</p>\n{notice}'
        f'<dl class="facts">{items}</dl></header>'
    )


def _failures(failures: Sequence[Failure]) -> str:
    if not failures:
        return ""
    rows = [Row((f.title, f.subject, f.seed, f.error)) for f in failures]
    columns = (Column("method", "text"), Column("subject", "text"), Column("seed"))
    table = Table("failures", "", "", (*columns, Column("why", "text")), tuple(rows))
    return section(
        "What failed", "The next session of the same benchmark tries it again.", to_html(table)
    )


def _group_sections(root: Path, report: GroupReport, name: str, photos: Photos) -> list[str]:
    group = report.group
    parts = [_story(report)]
    planes = figures.planes(group, name)
    parts.append(
        section(
            "Likeness and faithfulness",
            "Up and to the right is better. A point is a mean over subjects, the region around it "
            "where that mean lies with 95 % confidence (Hotelling’s T²). Regions show how much "
            "subjects differ: methods share subjects and are told apart by the paired differences, "
            "not by whether regions overlap. The dashed line is the Pareto front.",
            planes,
        )
    )
    body = "".join(
        to_html(table) + (_folded("Paired differences", gaps) if gaps else "")
        for table, gaps in report.paper
    )
    absent = "".join(f"<li>{escape(printable(text))}</li>" for text in report.absent)
    body += (
        f'<p class="soft absent">Not measured here:</p><ul class="notes">{absent}</ul>'
        if absent
        else ""
    )
    parts.append(section("The paper’s tables", "As this benchmark measured them.", body))
    sheet = figures.contact_sheet(root, group, photos)
    if sheet:
        intro = (
            "Each row is one subject, one prompt and one first noise. Which prompt is shown is a "
            "rule that looks at no picture: every fourth in turn, the first of its pictures."
        )
        parts.append(section("Contact sheet", intro, sheet))
    cards = figures.gallery(root, group, photos)
    skills = to_html(report.skills) if report.skills else ""
    if cards or skills:
        intro = "What a prompt asks for beyond the subject, as in the paper’s figures 10 to 17."
        parts.append(section("Skills", intro, skills + cards))
    drawn = figures.reward_curves(group)
    if drawn:
        intro = (
            "The λ-harmonic reward of the validation pictures, by the reward model: a thin line a "
            "job, their mean thick, a dot where the step was chosen. Rewards of different λ cannot "
            "be compared."
        )
        numbers = _folded(report.training.title, report.training) if report.training else ""
        parts.append(section("Reward curves", intro, drawn + numbers))
    parts.append(section("All figures", "", to_html(report.everything)))
    return parts


def _story(report: GroupReport) -> str:
    cards = []
    for number, finding in enumerate(report.story, 1):
        style = finding.verdict.replace(" ", "-")
        cards.append(
            f'<li class="claim"><h3><span class="number">{number}</span>'
            f"{escape(finding.claim.title)}</h3>"
            f'<p class="verdict {style}">{finding.verdict}</p>'
            f'<p class="soft">{escape(_sentence(finding.claim.says))}</p>'
            f"<p>{escape(printable(finding.measured))}</p></li>"
        )
    intro = (
        "The paper’s claims, and what came of them here. A verdict is by λ-harmonic alone, in the "
        "features of a judge that selects nothing: supported where the 95 % interval of the paired "
        "difference lies above 0, contradicted where it lies below, else not told apart; fewer "
        "than six subjects can tell nothing apart."
    )
    plot = figures.forests(report.story, ("harmonic", "dino", "clip_i", "clip_t"))
    numbers = _folded("The differences in numbers", report.claims) if report.claims else ""
    return section("The story", intro, f'<ol class="claims">{"".join(cards)}</ol>{plot}{numbers}')


def _folded(title: str, table: Table) -> str:
    return f"<details><summary>{title}</summary>{to_html(table)}</details>"


def _provenance(results: Results) -> str:
    """Of all jobs: every value that a fact of provenance has."""
    facts: dict[str, list[str]] = {}
    for provenance in results.provenances:
        for key, value in _flat(provenance):
            known = facts.setdefault(key, [])
            if value not in known:
                known.append(value)
    skipped = {"began", "ended", "load", "sessions", "fingerprint"}
    rows = [
        Row((key, ", ".join(values[:6]) + (f" … ({len(values)})" if len(values) > 6 else "")))
        for key, values in facts.items()
        if key not in skipped
    ]
    table = Table("provenance", "", "", (Column("", "text"), Column("", "text")), tuple(rows))
    return (
        section(
            "Made with",
            "What every job wrote down; where they differ, all values.",
            f"<details><summary>Versions and hardware</summary>{to_html(table)}</details>",
        )
        if rows
        else ""
    )


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(inner)


def _name(group: Group) -> str:
    return group.model or "given pictures"
