"""Pictures in, table out: every metric of every picture, and their means by what they show."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rpo.evaluation.drawn import Drawn
from rpo.evaluation.dreambench import Reference
from rpo.evaluation.judges import Judge, Judges
from rpo.evaluation.metrics import METRICS, Features
from rpo.evaluation.statistics import bootstrap_interval


@dataclass(frozen=True)
class Row:
    """The figures of one picture. prompt and number are 0 for a picture of the class alone."""

    subject: str
    prompt: int
    number: int
    template: str
    skill: str
    figures: dict[str, float] = field(default_factory=dict)


class Scorer:
    """Judges pictures against one gallery: the photos of all subjects of an evaluation."""

    def __init__(self, judges: Judges, gallery: Sequence[Reference], lam: float = 0.5) -> None:
        """gallery: the references, of which each has its own name. lam: of the harmonic reward."""
        self.judges, self.gallery, self.lam = judges, gallery, lam
        self._photos = [photo for reference in gallery for photo in reference.photos]
        self._whose = [reference for reference in gallery for _ in reference.photos]
        self._encoded: dict[str, Tensor] = {}
        self._judges = dict(judges.named())

    def score(self, drawn: Drawn) -> list[Row]:
        """A row a picture, then a row a picture of the class. The subject is of the gallery."""
        rows = [
            Row(drawn.subject.name, p.number, number, p.template, p.skill)
            for p, number in zip(drawn.prompts, drawn.numbers, strict=True)
        ]
        of_class = [
            Row(drawn.subject.name, 0, number + 1, "", "")
            for number in range(len(drawn.class_tuned))
        ]
        features = {
            name: self._features(name, judge, drawn) for name, judge in self._judges.items()
        }
        for name, metric in METRICS.items():
            own = features.get(metric.judge)
            values = None if own is None else metric.values(own)
            if values is None:
                continue
            belonging = rows if metric.rows == "pictures" else of_class
            for row, value in zip(belonging, values.tolist(), strict=True):
                if not math.isnan(value):
                    row.figures[name] = value
        return rows + of_class

    def score_photos(self, subject: Reference) -> dict[str, float]:
        """Each photo against the others, leaving itself out: the mean of what photos can have."""
        found: dict[str, list[float]] = {}
        every = range(len(subject.photos))
        for name, judge in self._judges.items():
            photos = judge.encode_images(subject.photos)
            gallery, own, peers = self._placed(name, subject)
            for k in every:
                others = torch.tensor([j != k for j in every])
                stays = torch.ones(len(gallery), dtype=torch.bool)
                stays[own.nonzero()[k]] = False
                features = Features(
                    photos[[k]],
                    torch.zeros(1, dtype=torch.long),
                    photos[others],
                    gallery=gallery[stays],
                    own=own[stays],
                    peers=peers[stays],
                    head=self.judges.head,
                )
                for key, metric in METRICS.items():
                    if not metric.of_photos or metric.judge != name:
                        continue
                    values = metric.values(features)
                    if values is not None and not values.isnan().any():
                        found.setdefault(key, []).append(values.item())
        return {name: math.fsum(values) / len(values) for name, values in found.items()}

    def _placed(self, name: str, subject: Reference) -> tuple[Tensor, Tensor, Tensor]:
        """The gallery's features (G, D), and which are the subject's own, and of its class."""
        if name not in self._encoded:
            self._encoded[name] = self._judges[name].encode_images(self._photos)
        own = torch.tensor([reference.name == subject.name for reference in self._whose])
        peers = torch.tensor([reference.noun == subject.noun for reference in self._whose])
        return self._encoded[name], own, peers

    def _features(self, name: str, judge: Judge, drawn: Drawn) -> Features:
        noun = drawn.subject.noun
        gallery, own, peers = self._placed(name, drawn.subject)
        texts = None
        if name == "clip":
            texts = judge.encode_texts([p.template.replace("{}", noun) for p in drawn.prompts])
        paired = bool(drawn.class_tuned) and name == "clip"
        return Features(
            judge.encode_images(drawn.images),
            torch.tensor([prompt.number for prompt in drawn.prompts]),
            judge.encode_images(drawn.subject.photos),
            texts,
            gallery,
            own,
            peers,
            judge.encode_images(drawn.class_tuned) if paired else None,
            judge.encode_images(drawn.class_base) if paired else None,
            self.judges.head if name == "aesthetic" else None,
            self.lam,
        )


# --- means -------------------------------------------------------------------------------


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Means of each metric: overall with intervals, and by subject, skill and prompt.

    A prompt's pictures are averaged first, then a subject's prompts, then the subjects: a missing
    picture shifts no weight from one subject or prompt to another. Intervals are over subjects;
    where there is only one, over its prompts, which tell nothing of other subjects.
    """
    skills = list(dict.fromkeys(row.skill for row in rows if row.skill))
    templates = list(dict.fromkeys(row.template for row in rows if row.template))
    return {
        "subjects": {name: _flat(values) for name, values in _by_subject(rows).items()},
        "overall": {
            name: _estimate(list(units.values()))
            for name in METRICS
            if (units := _units(rows, name))
        },
        "skills": {s: means_of([row for row in rows if row.skill == s]) for s in skills},
        "prompts": {t: means_of([row for row in rows if row.template == t]) for t in templates},
    }


def summarise_photos(figures: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The oracle row: the mean over subjects of `Scorer.score_photos`."""
    return {
        name: math.fsum(own) / len(own)
        for name in METRICS
        if (own := [values[name] for values in figures.values() if name in values])
    }


def compare(first: Sequence[Row], second: Sequence[Row]) -> dict[str, Any]:
    """Paired differences first - second with intervals, over what both have drawn.

    Over subjects where they share two or more; of one subject over its prompts.
    """
    found = {}
    for name in METRICS:
        a, b = _units(first, name, second), _units(second, name, first)
        if differences := [a[unit] - b[unit] for unit in a if unit in b]:
            found[name] = _estimate(differences)
    return found


def _estimate(values: Sequence[float]) -> dict[str, float | int | None]:
    """Mean, 95 % interval and count; of one value there is no interval."""
    if len(values) == 1:
        return {"mean": values[0], "low": None, "high": None, "n": 1}
    return dataclasses.asdict(bootstrap_interval(values))


def _units(
    rows: Sequence[Row], metric: str, others: Sequence[Row] | None = None
) -> dict[Any, float]:
    """The independent values of a metric: one a subject, or of an only subject one a prompt.

    others: only the subjects that they show too. Of the class alone a picture is a unit.
    """
    shown = {row.subject for row in rows}
    if others is not None:
        shown &= {row.subject for row in others}
    values = _by_subject([row for row in rows if row.subject in shown], metric)
    if len(shown) == 1:
        return next((prompts[metric] for prompts in values.values()), {})
    return {name: _mean(list(prompts[metric].values())) for name, prompts in values.items()}


def _by_subject(
    rows: Sequence[Row], only: str | None = None
) -> dict[str, dict[str, dict[Any, float]]]:
    """subject -> metric -> prompt (or picture of the class) -> mean."""
    grouped: dict[str, dict[str, dict[Any, list[float]]]] = {}
    for row in rows:
        for metric, value in row.figures.items():
            if only in (None, metric):
                unit = row.prompt or ("class", row.number)
                prompts = grouped.setdefault(row.subject, {}).setdefault(metric, {})
                prompts.setdefault(unit, []).append(value)
    return {
        subject: {
            metric: {unit: _mean(values) for unit, values in prompts.items()}
            for metric, prompts in metrics.items()
        }
        for subject, metrics in grouped.items()
    }


def _flat(metrics: Mapping[str, Mapping[Any, float]]) -> dict[str, float]:
    return {name: _mean(list(metrics[name].values())) for name in METRICS if name in metrics}


def means_of(rows: Sequence[Row]) -> dict[str, float]:
    """Metric -> mean over subjects, of each its prompts' mean, of each its pictures' mean."""
    subjects = [_flat(values) for values in _by_subject(rows).values()]
    return {
        name: _mean(own) for name in METRICS if (own := [s[name] for s in subjects if name in s])
    }


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
