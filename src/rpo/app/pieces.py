"""The pieces of HTML that the page shows. A stranger's text passes `text`, and only so."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from rpo.app.jobs import Status
from rpo.app.photos import Judged, Square
from rpo.app.watch import Course
from rpo.errors import printable
from rpo.report.chart import reward_curve
from rpo.report.page import duration

# What Gradio's own templates would read as theirs.
_TEMPLATE = {"{": "&#123;", "}": "&#125;", "$": "&#36;", "`": "&#96;"}


def text(value: object) -> str:
    """A stranger's text as HTML that shows just that."""
    plain = html.escape(printable(str(value)), quote=True)
    return "".join(_TEMPLATE.get(letter, letter) for letter in plain)


def address(*parts: str) -> str:
    """The path of one of the page's own addresses."""
    return "/rpo/" + "/".join(quote(part, safe="/") for part in parts)


def step(number: int, title: str, more: str = "") -> str:
    """The heading of a step."""
    note = f"<p>{more}</p>" if more else ""
    return f'<div class="step"><span aria-hidden="true">{number}</span><h2>{title}</h2>{note}</div>'


def note(words: str, kind: str = "") -> str:
    """A line of plain text; kind "problem" for what has to be mended."""
    role = ' role="alert"' if kind == "problem" else ""
    return f'<p class="note {kind}"{role}>{text(words)}</p>' if words else ""


def problem(words: str) -> str:
    """What went wrong, as a sentence; empty for nothing. A name before a colon stays as it is."""
    is_name = words.partition(" ")[0].endswith(":")
    return note(words if is_name else words[:1].upper() + words[1:], "problem")


def picture(source: str, alt: str, caption: str = "", style: str = "") -> str:
    """A picture with its caption."""
    below = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    return (
        f'<figure class="{style}"><img src="{source}" alt="{text(alt)}" loading="lazy" '
        f'decoding="async">{below}</figure>'
    )


# --- photos ------------------------------------------------------------------------------

_MARKS = {"ok": ("good", "✓"), "warning": ("look", "!"), "rejected": ("out", "×")}


def squares(collection: str, judged: Judged, left_out: Sequence[str] = ()) -> str:
    """The squares that a training will see, each with its remark."""
    cards = "".join(_square(collection, square) for square in judged.squares)
    grid = f'<ul class="squares" aria-label="Your photos">{cards}</ul>' if cards else ""
    words = "".join(note(line, "look") for line in left_out)
    remark = judged.remark[:1].upper() + judged.remark[1:]
    return grid + words + note(remark and f"{remark}.", "look") + note(judged.problem)


def _square(collection: str, square: Square) -> str:
    style, mark = _MARKS.get(square.status, ("out", "×"))
    if square.file:
        shown = f'<img src="{address("squares", collection, square.file)}" alt="">'
    else:
        shown = '<span class="empty" aria-hidden="true">?</span>'
    left = "" if square.status in ("ok", "warning") else "Left out: "
    said = square.message or "good"
    return (
        f'<li class="{style}"><span class="mark" aria-hidden="true">{mark}</span>{shown}'
        f"<b>{text(square.name)}</b><span>{text(left + said)}</span></li>"
    )


# --- a job -------------------------------------------------------------------------------

_PHASES = {
    "loading": "Getting ready",
    "sampling": "Drawing what it knows",
    "labelling": "Comparing with your photos",
    "training": "Learning",
}
_STATES = {
    "waiting": "Waiting for its turn",
    "finished": "Done",
    "stopped": "Stopped. It can go on from here.",
    "failed": "This did not work",
}


def state_line(status: Status, course: Course, now: float) -> str:
    """Where a job is, for people: a line, a bar and the phases."""
    if status.state != "running":
        words = text(_STATES[status.state])
        if status.state == "finished" and course.chosen is not None:
            words = text(_result(course))
        line = note(status.message, "problem")
        return f'<div class="state {status.state}"><p class="now">{words}</p>{line}</div>'
    left = course.seconds_left(now)
    told = f"{course.done} of {course.total}" if course.total else ""
    if left is not None:
        told += f", {duration(left)} left"
    phases = list(_PHASES)
    at = phases.index(course.phase) if course.phase in phases else 0
    steps = "".join(
        f'<li class="{"past" if i < at else "at" if i == at else ""}">{_PHASES[phase]}</li>'
        for i, phase in enumerate(phases)
    )
    return (
        f'<div class="state running"><p class="now">{_PHASES[phases[at]]}'
        f"<small>{text(told)}</small></p>"
        f"{bar(_PHASES[phases[at]], course.done, course.total)}<ol>{steps}</ol></div>"
    )


def bar(name: str, done: int, total: int) -> str:
    """How far a piece of work is; a bar that wanders where that is not known."""
    share = 100 * done / total if total else 0
    return (
        f'<div class="bar{"" if total else " busy"}" role="progressbar" aria-label="{text(name)}" '
        f'aria-valuemin="0" aria-valuemax="100" aria-valuenow="{round(share)}">'
        f'<span style="width:{share:.1f}%"></span></div>'
    )


def _result(course: Course) -> str:
    if course.chosen == 0:
        return "Done, but no step was better than the model as it was: try more or other photos."
    early = " It stopped early, as it no longer got better." if course.stopped_early else ""
    return f"Done. The pictures were best after {course.chosen} steps; those are kept.{early}"


def curve(course: Course) -> str:
    """The reward's curve so far, and the figures on demand."""
    history = course.history
    if not history:
        return ""
    names = (("is-reward", "reward"), ("is-image", "your subject"), ("is-text", "the prompt"))
    legend = "".join(f'<li class="{style}"><span>{name}</span></li>' for style, name in names)
    rows = "".join(
        f'<tr class="{"pick" if point.chosen else ""}"><td>{point.step}</td>'
        f"<td>{point.reward:.3f}</td><td>{point.image_alignment:.3f}</td>"
        f"<td>{point.text_alignment:.3f}</td><td>{'chosen' if point.chosen else ''}</td></tr>"
        for point in history
    )
    head = "<tr><th>step</th><th>reward</th><th>subject</th><th>prompt</th><th></th></tr>"
    label = ""
    if course.labelled is not None:
        label = note(
            f"Your photo is preferred to the model's own drawing with probability "
            f"{course.labelled.mean_probability:.2f}, over {course.labelled.pairs} pairs."
        )
    return (
        f'<div class="panel curve"><h3>How good are the pictures?</h3>'
        f'<ul class="legend">{legend}</ul>{reward_curve(history, 440, 250)}'
        f"<details><summary>The figures</summary><table>{head}{rows}</table>{label}</details></div>"
    )


def pairs(name: str, course: Course) -> str:
    """The same prompts and seeds before and now."""
    if not course.validations:
        return ""
    first, last = min(course.validations), max(course.validations)
    shown = course.chosen or last
    shown = shown if shown in course.validations else last
    before, now = course.validations[first], course.validations[shown]
    cards = "".join(
        f'<li><div class="two">{_shown(name, old, prompt, "before")}'
        f"{_shown(name, new, prompt, 'now') if shown != first else ''}</div>"
        f"<p>{text(prompt)}</p></li>"
        for prompt, old, new in zip(before.prompts, before.files, now.files, strict=False)
    )
    title = f"Before, and after {shown} steps" if shown != first else "Before it learns"
    return f'<div class="panel"><h3>{title}</h3><ul class="pairs">{cards}</ul></div>'


def _shown(name: str, file: str, prompt: str, when: str) -> str:
    inside = file.removeprefix("images/")
    return picture(address("pictures", name, inside), f"{prompt}, {when}", when, when)


def remarks(course: Course) -> str:
    """What a person should know of the job."""
    return "".join(note(f"{m[:1].upper()}{m[1:]}.", "look") for m in course.notices)


# --- tables ------------------------------------------------------------------------------


def facts(values: Mapping[str, str]) -> str:
    """Names and values."""
    cells = "".join(f"<div><dt>{text(k)}</dt><dd>{text(v)}</dd></div>" for k, v in values.items())
    return f'<dl class="facts">{cells}</dl>' if cells else ""


def code(words: str) -> str:
    """A command line to copy."""
    return f'<pre class="code" tabindex="0"><code>{text(words)}</code></pre>'


def table(found: Mapping[str, Any], is_open: bool) -> str:
    """A table of figures, as `rpo.app.figures` reads one; folded under its title."""
    sides = ["n" if number else "" for number in found["numbers"]]
    head = "".join(
        f'<th scope="col" class="{side}">{text(cell)}</th>'
        for side, cell in zip(sides, found["head"], strict=True)
    )
    rows = "".join(
        "<tr>"
        + "".join(f'<td class="{s}">{_cell(cell)}</td>' for s, cell in zip(sides, row, strict=True))
        + "</tr>"
        for row in found["rows"]
    )
    below = "".join(note(line) for line in [*found["notes"], " · ".join(found["about"])])
    return (
        f"<details{' open' if is_open else ''}><summary>{text(found['title'])}</summary>"
        f'{note(found["intro"])}<div class="scroll" tabindex="0" role="region" '
        f'aria-label="{text(found["title"])}"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{below}</details>"
    )


def _cell(cell: str) -> str:
    """A cell; the interval of a mean stands small below it."""
    mean, bracket, interval = cell.partition(" [")
    if bracket and interval.endswith("]"):
        return f"{text(mean)}<small>[{text(interval)}</small>"
    return text(cell)


def report_link(address: str, of: str = "") -> str:
    """A link to a report; of: whose it is, for those who do not see what it stands by."""
    whose = f'<span class="unseen"> of {text(of)}</span>' if of else ""
    return f'<a href="{address}" target="_blank" rel="noopener">Open the report{whose}</a>'


def figures(found: Mapping[str, Any], report: str = "") -> str:
    """All tables of some results. report: the address of their page, "" for none."""
    link = f"<p>{report_link(report)}</p>" if report else ""
    tables = "".join(table(one, not place) for place, one in enumerate(found["tables"]))
    return f'<div class="panel figures"><h3>{text(found["title"])}</h3>{link}{tables}</div>'


def gallery(cells: Iterable[str]) -> str:
    """Pictures in a grid."""
    found = "".join(f"<li>{cell}</li>" for cell in cells)
    return f'<ul class="gallery">{found}</ul>' if found else ""
