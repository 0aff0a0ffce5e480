"""The pictures of a results folder's page: plots, curves, the contact sheet and the skill gallery.

Which pictures are shown is a rule that looks at none of them: subject k of a sheet shows its test
prompt 4 k, counted round, the first picture of the first seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

from rpo.bench.report.measured import (
    Cell,
    Group,
    Measured,
    Place,
    Shown,
    by_subject,
    curves,
    shared_places,
    tells_apart,
)
from rpo.bench.report.paper import find_headline, is_method, objective
from rpo.bench.report.story import Finding
from rpo.errors import printable
from rpo.evaluation.metrics import METRICS
from rpo.evaluation.plane import confidence_ellipse, pareto_front
from rpo.evaluation.statistics import Interval
from rpo.report import page
from rpo.report.chart import ticks
from rpo.report.plot import Bundle, Mark, curve_panel, forest, mean_curve, scatter

Photos = Callable[[str, str], str]
"""A figure of a subject's photo, by its name and the caption; "" where there is none."""

PLANES = (("dino", "clip_t"), ("clip_i", "clip_t"))
STYLES = 13  # classes line-0 … of results.css; line-0 is RPO's
MOST_POINTS = 6  # of one plane, where there are methods and variants of RPO
TILE = 160  # pixels that a picture of a sheet is inlined with
GALLERY = 6  # subjects a skill
STRIDE = 4  # test prompts between those of two subjects of the sheet


def styles(group: Group) -> dict[str, str]:
    """The style of each line: RPO's own is the first, untrained ones are grey."""
    headline, found, number = find_headline(group.lines.values()), {}, 0
    for line in group.lines.values():
        if line is headline:
            found[line.key] = "line-0"
        elif line.choose == "untrained":
            found[line.key] = "line-grey"
        else:
            number += 1
            found[line.key] = f"line-{(number - 1) % (STYLES - 1) + 1}"
    return found


# --- planes ------------------------------------------------------------------------------


def planes(group: Group, name: str) -> str:
    """DINO and CLIP-I against CLIP-T: the methods, then RPO and what it is without a part."""
    lines = list(group.lines.values())
    methods = [line for line in lines if is_method(line)]
    variants = [line for line in lines if objective(line) in ("rpo", "similarity")]
    if len(lines) <= MOST_POINTS or len(variants) < 2:
        return _pair(group, lines, name)
    return (
        f"<h3>Methods</h3>{_pair(group, methods, f'{name}-m')}"
        f"<h3>RPO and its parts</h3>{_pair(group, variants, f'{name}-v')}"
    )


def _pair(group: Group, lines: Sequence[Measured], name: str) -> str:
    style, places = styles(group), shared_places(lines)
    panels = [_plane(lines, style, places, x, y, f"{name}-{x}") for x, y in PLANES]
    return (
        f'<div class="planes">{"".join(f"<div class=panel>{p}</div>" for p in panels if p)}</div>'
    )


def _plane(
    lines: Sequence[Measured],
    style: Mapping[str, str],
    places: set[Place],
    x: str,
    y: str,
    name: str,
) -> str:
    """Every line as a point with its ellipse over these places, and the Pareto front."""
    marks = []
    for line in lines:
        own = {m: by_subject(line, m, places) for m in (x, y)}
        pairs = [(own[x][subject], own[y][subject]) for subject in own[x] if subject in own[y]]
        if not pairs:
            continue
        at = (sum(p[0] for p in pairs) / len(pairs), sum(p[1] for p in pairs) / len(pairs))
        told = f"{METRICS[x].title} {at[0]:.3f}, {METRICS[y].title} {at[1]:.3f}"
        note = f"{printable(line.title)}: {told}, {len(pairs)} subjects"
        name_of = printable(line.title)
        marks.append(Mark(name_of, style[line.key], at, note, confidence_ellipse(pairs)))
    if not marks:
        return ""
    points = [mark.at for mark in marks]
    front = [points[index] for index in pareto_front(points)]
    titles = (f"{METRICS[x].title} →", f"{METRICS[y].title} →")
    return "".join(
        f'<div class="{kind}">{scatter(marks, front, titles, *size, f"{name}-{kind}")}</div>'
        for kind, size in (("wide", (560, 480)), ("narrow", (340, 380)))
    )


# --- the story's intervals ---------------------------------------------------------------


def forests(found: Sequence[Finding], metrics: Sequence[str]) -> str:
    """A panel a figure: each claim's difference with its interval, all on one scale."""
    measured = [f for f in found if f.differences]
    values = [v for f in measured for v in (f.differences or {}).values()]
    intervals = [value for value in values if isinstance(value, Interval)]
    if not intervals:
        return ""
    extent = max(abs(bound) for i in intervals for bound in (i.low, i.high))
    panels = []
    for metric in metrics:
        rows = []
        for number, finding in enumerate(found, 1):
            value = (finding.differences or {}).get(metric)
            interval = value if isinstance(value, Interval) else None
            rows.append((str(number), interval, verdict_style(interval)))
        panels.append(
            f'<div class="panel">{forest(rows, 300, extent, METRICS[metric].title)}</div>'
        )
    return f'<div class="forests">{"".join(panels)}</div>'


def verdict_style(interval: Interval | None) -> str:
    """By whether an interval leaves out 0, and on which side."""
    if interval is None or not tells_apart(interval):
        return "is-open"
    return "is-for" if interval.low > 0 else "is-against"


# --- curves ------------------------------------------------------------------------------


def reward_curves(group: Group) -> str:
    """A panel a training: the reward of every job's validations, their mean, the chosen steps."""
    style, bundles, seen = styles(group), [], set()
    ordered = sorted(group.lines.values(), key=lambda line: line.choose != "best")
    for line in ordered:
        row = line.key.partition(":")[0]
        each = [
            [(point[0], point[1]) for point in cell.curve if len(point) > 1]
            for _, cell in curves(line)
        ]
        if row in seen or not any(each):
            continue
        seen.add(row)
        chosen = [
            (point[0], point[1])
            for _, cell in curves(line)
            for point in cell.curve
            if line.choose == "best" and len(point) > 1 and point[0] == cell.step
        ]
        title = printable(line.title)
        bundles.append(Bundle(title, style[line.key], each, mean_curve(each), chosen))
    if not bundles:
        return ""
    points = [point for bundle in bundles for curve in bundle.each for point in curve]
    marks = ticks(min(p[1] for p in points), max(p[1] for p in points))
    panels = []
    for bundle in bundles:
        last = int(max(point[0] for curve in bundle.each for point in curve))
        plot = curve_panel(bundle, marks, last, (300, 210))
        title = f'<h3 class="{bundle.style}">{escape(bundle.title)}</h3>'
        panels.append(f'<div class="panel">{title}{plot}</div>')
    return f'<div class="curves">{"".join(panels)}</div>'


# --- pictures ----------------------------------------------------------------------------


def contact_sheet(root: Path, group: Group, photos: Photos) -> str:
    """A row a subject: a photo, and the same prompt and seed by every line."""
    lines = [line for line in group.lines.values() if any(c.folder for c in line.cells.values())]
    if not lines:
        return ""
    seats = _seats(lines)
    head = "".join(f"<th>{escape(printable(line.title))}</th>" for line in lines)
    rows = []
    for k, (subject, seed) in enumerate(seats):
        cell = next(line.cells[subject, seed] for line in lines if (subject, seed) in line.cells)
        if not cell.prompts:
            continue
        prompt = cell.prompts[STRIDE * k % len(cell.prompts)]
        words = printable(prompt.template.replace("{}", cell.noun))
        tiles = [photos(subject, "") or _blank("")]
        tiles += [_tile(root, group, line, (subject, seed), prompt, words) for line in lines]
        name = f"<th>{escape(printable(subject))}<small>{escape(words)}</small></th>"
        rows.append(f"<tr>{name}{''.join(f'<td>{tile}</td>' for tile in tiles)}</tr>")
    return (
        f'<div class="scroll"><table class="sheet"><thead><tr><th></th><th>photo</th>{head}</tr>'
        f"</thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _seats(lines: Sequence[Measured]) -> list[Place]:
    """Every subject with the first seed that most lines have."""
    counted: dict[Place, int] = {}
    for line in lines:
        for place in line.cells:
            counted[place] = counted.get(place, 0) + 1
    subjects = sorted({subject for subject, _ in counted})
    return [
        max((p for p in counted if p[0] == subject), key=lambda p: (counted[p], -p[1]))
        for subject in subjects
    ]


def gallery(root: Path, group: Group, photos: Photos) -> str:
    """For each skill some subjects: a photo, and one prompt by the base model, rivals and RPO."""
    lines = lines_side_by_side(group)
    if not lines:
        return ""
    parts, turn = [], 0
    seats = [
        (place, next(line.cells[place] for line in lines if place in line.cells))
        for place in _seats(lines)
    ]
    for skill in skills_of(group.lines):
        asked = [(place, c) for place, c in seats if any(p.skill == skill for p in c.prompts)]
        start = turn % max(len(asked), 1)  # another skill shows other subjects
        cards = []
        for k, (place, cell) in enumerate([*asked[start:], *asked[:start]][:GALLERY]):
            prompts = [prompt for prompt in cell.prompts if prompt.skill == skill]
            cards.append(_card(root, group, lines, place, cell, prompts[k % len(prompts)], photos))
        turn += len(cards)
        title = f'<h3 class="skill">{escape(printable(skill))}</h3>'
        parts.append(f'{title}<div class="pairs">{"".join(cards)}</div>' if cards else "")
    return "".join(parts)


def lines_side_by_side(group: Group) -> list[Measured]:
    """At most five lines whose pictures stand side by side, RPO's last."""
    kept = [line for line in group.lines.values() if any(c.folder for c in line.cells.values())]
    headline = find_headline(kept)
    rows: dict[str, Measured] = {}  # of each the line that comes first, as its authors have it
    for line in kept:
        if is_method(line) and line is not headline:
            rows.setdefault(line.row, line)
    others = list(rows.values())
    wanted = ("", "dreambooth", "similarity", "online", "dpo")
    ordered = [line for name in wanted for line in others if objective(line) == name]
    ordered += [line for line in others if line not in ordered and objective(line) != "rpo"]
    return [*ordered[:4], *([headline] if headline else [])]


def _card(
    root: Path,
    group: Group,
    lines: Sequence[Measured],
    place: Place,
    cell: Cell,
    prompt: Shown,
    photos: Photos,
) -> str:
    words = printable(prompt.template.replace("{}", cell.noun))
    tiles = [photos(place[0], "photo") or _blank("photo")]
    tiles += [_tile(root, group, line, place, prompt, words, line.title) for line in lines]
    name = f"<small>{escape(printable(place[0]))}</small>"
    return (
        f'<div class="pair"><h3>{escape(words)} {name}</h3>'
        f'<div class="trio">{"".join(tiles)}</div></div>'
    )


def _tile(
    root: Path,
    group: Group,
    line: Measured,
    place: Place,
    prompt: Shown,
    words: str,
    caption: str = "",
) -> str:
    """A line's picture of a prompt; a blank where it has none, or it was not kept."""
    cell = line.cells.get(place)
    file = inside(root, f"{cell.folder}/{prompt.number:02d}-1.png") if cell else None
    style = "chosen" if line is find_headline(group.lines.values()) else ""
    caption = printable(caption)
    shown = (
        page.picture(file, f"{words}, by {printable(line.title)}", caption, style, TILE)
        if file
        else ""
    )
    return shown or _blank(caption, "failed" if (line.row, place) in group.failed else "")


def _blank(caption: str, why: str = "") -> str:
    note = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure class="blank"><span>{escape(why)}</span>{note}</figure>'


def inside(root: Path, name: str) -> Path | None:
    """The path below the results folder, or None where it or a link on its way leads elsewhere."""
    try:
        path = root / name
        if "\0" in name or not path.resolve().is_relative_to(root.resolve()):
            return None
        return path if path.exists() and not path.is_symlink() else None
    except (OSError, ValueError):
        return None


# --- skills ------------------------------------------------------------------------------


def skills_of(lines: Mapping[str, Measured]) -> list[str]:
    """Every skill that a prompt asks for, in the order of the prompts of the first subject."""
    cells = [cell for line in lines.values() for cell in line.cells.values()]
    return list(dict.fromkeys(skill for cell in cells for skill in cell.skills))
