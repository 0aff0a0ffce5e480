"""What `rpo evaluate` measured, as tables, and what its figures cannot be compared without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rpo.evaluation.judges import steps_of
from rpo.evaluation.metrics import METRICS
from rpo.evaluation.statistics import Interval
from rpo.report.tables import Column, Row, Table, Value


def evaluation_tables(data: Mapping[str, Any]) -> list[Table]:
    """A table a system, one for runs taken together, and one a paired difference.

    data: the content of an evaluation.json, as `read_evaluation` gives it.
    """
    systems = [*data["systems"], *data["together"]]
    return [
        *(_system_table(data, system) for system in systems),
        *(_difference_table(difference) for difference in data["differences"]),
    ]


def _system_table(data: Mapping[str, Any], system: Mapping[str, Any]) -> Table:
    photos = system.get("photos", {})
    rows = []
    for name, metric in METRICS.items():
        if told := system["overall"].get(name):
            arrow = {"higher": "↑", "lower": "↓"}[metric.better]
            values = (f"{metric.title} {arrow}", _estimate(told), told["n"], photos.get(name))
            rows.append(Row(values))
    columns = (Column("", "text"), Column("mean [95 %]"), Column("n"), Column("real photos"))
    return Table(
        "system",
        f"{system['name']}: {subjects_of(system)}",
        "",
        columns,
        tuple(rows),
        tuple(provenance(data, system)),
        tuple(f"missing or left out: {line}" for line in system.get("missing", ())),
    )


def _difference_table(difference: Mapping[str, Any]) -> Table:
    rows = [
        Row((METRICS[name].title, _estimate(told)))
        for name, told in difference["metrics"].items()
        if name in METRICS
    ]
    title = f"{difference['first']} − {difference['second']}"
    columns = (Column("", "text"), Column("difference [95 %]", form="+.3f"))
    return Table("difference", title, "", columns, tuple(rows))


def _estimate(told: Mapping[str, Any]) -> Value:
    if told["low"] is None or told["high"] is None:
        return float(told["mean"])
    mean, low, high = (float(told[name]) for name in ("mean", "low", "high"))
    return Interval(mean, low, high, told["n"])


# --- what a figure cannot be compared without ---------------------------------------------


def subjects_of(system: Mapping[str, Any]) -> str:
    """The system's only subject, or how many there are, and how many pictures were judged."""
    subjects = system["subjects"]
    of = next(iter(subjects)) if len(subjects) == 1 else f"{len(subjects)} subjects"
    judged = sum(1 for row in system.get("pictures", ()) if row["prompt"])
    return of + (f", {_pictures(judged)}" if judged else "")


def provenance(data: Mapping[str, Any], system: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How it drew and who judged: (what, which)."""
    if "runs" in system:
        return [("runs", ", ".join(system["runs"]))]
    backbone = f"unknown; the pictures of {system.get('folder')}"
    if "model" in system:
        how = system["drawing"]
        backbone = (
            f"{system['model']}; {_learned(system)}; "
            f"{how['scheduler']}, {how['steps']} steps, guidance {how['guidance_scale']:g}, "
            f"{how['resolution']} pixels"
        )
    drawn = f'judged by "{system["judged"]}"'
    if "drawn" in system:
        same = system["drawn"] == system["judged"]
        drawn = f"drawn and {drawn}" if same else f'drawn by "{system["drawn"]}", {drawn}'
    drift = ""
    if "class" in system:
        drift = f'; class drift of {system["class_pictures"]} pictures of "{system["class"]}"'
    return [
        ("backbone", backbone),
        ("prompts", f"{drawn}{drift}"),
        ("seeds", f"{system['seeds']}; {_pictures(system['images_per_prompt'])} a prompt"),
        *_judged(data),
    ]


def _judged(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Who judged and by which rules."""
    protocol = data["protocol"]
    judges = [
        f"{name} {judge['name']} ({', '.join(h[:10] for h in judge['sha256'].values())})"
        for name, judge in data["judges"].items()
    ]
    steps = [f"{name} {steps_of(j['preprocessing'])}" for name, j in data["judges"].items()]
    rank = f"identity rank among {len(data['gallery'])} subjects"
    if len(data["gallery"]) == 1:
        rank = "no identity rank without other subjects, which --subjects names"
    return [
        ("judges", "; ".join(judges)),
        ("preprocessing", f"photos: {protocol['photos']}; {'; '.join(steps)}"),
        ("protocol", f"λ {protocol['lambda']:g}; interval {protocol['interval']}; {rank}"),
    ]


def _pictures(count: int) -> str:
    return f"{count} picture{'' if count == 1 else 's'}"


def _learned(system: Mapping[str, Any]) -> str:
    """What the model learned, or is shown instead."""
    if adapter := system.get("adapter"):
        hashes = ", ".join(h[:10] for h in adapter["sha256"].values())
        return f"{adapter['name']} ({hashes}), scale {adapter['scale']:g}, {adapter['photos']}"
    if "run" not in system:
        return "nothing learned"
    return f"{system['method']} ({system['weights']}), step {system['step']}"
