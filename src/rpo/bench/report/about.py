"""What the figures of a results folder cannot be compared without."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rpo.bench.report.measured import Group, Place
from rpo.evaluation.judges import steps_of


def about(group: Group, places: Iterable[Place]) -> tuple[tuple[str, str], ...]:
    """Backbone, judges, preprocessing, prompts, seeds and n of figures at these places."""
    places = sorted(places)
    protocol = dict(group.protocol)
    judges = {name: dict(judge) for name, judge in group.judges.items()}
    told = [
        f"{name} {judge.get('name', '')} ({', '.join(h[:10] for h in judge['sha256'].values())})"
        for name, judge in judges.items()
    ]
    steps = [f"{name}: {steps_of(judge['preprocessing'])}" for name, judge in judges.items()]
    photos = protocol.pop("photos", None)
    steps = [f"photos: {photos}", *steps] if photos else steps
    prompts = [str(protocol.pop(key)) for key in ("prompt", "drawn", "judged") if key in protocol]
    count = protocol.pop("images_per_prompt", None)
    prompts += [f"pictures of each: {count}"] if count is not None else []
    subjects = list(dict.fromkeys(subject for subject, _ in places))
    seeds = sorted({seed for _, seed in places})
    rest = "; ".join(f"{key} {_plain(value)}" for key, value in protocol.items())
    return (
        ("backbone", "; ".join(t for t in (group.model, group.drawing) if t) or "given pictures"),
        ("judges", "; ".join(told) or "not known"),
        ("preprocessing", "; ".join(steps) or "not known"),
        ("prompts", "; ".join(prompts) or "not known"),
        ("seeds", ", ".join(map(str, seeds)) or "none"),
        ("n", f"{_count(len(subjects))}, {len(places)} of subject and seed"),
        *([("protocol", rest)] if rest else []),
    )


def _count(subjects: int) -> str:
    return "1 subject" if subjects == 1 else f"{subjects} subjects"


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    return ", ".join(map(_plain, value)) if isinstance(value, list) else str(value)
