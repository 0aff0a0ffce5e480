"""An order: all that a worker needs for one job, as plain values that travel."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rpo.bench.records import RUNS, Job
from rpo.config import for_subject, from_toml, to_toml
from rpo.models.resolve import Kind, default_reward
from rpo.replacing import remove
from rpo.runs.pictures import slug

if TYPE_CHECKING:
    from rpo.bench.suite import BenchSuite, SuiteRow
    from rpo.evaluation.dreambench import Entry


@dataclass(frozen=True)
class Order:
    """One job, and how it is to be done.

    Attributes:
        job: what it is.
        config: complete settings as TOML, with noun, kind and seed.
        photos: folder of the subject's photos.
        results: the results folder, which the worker reaches under this very path.
        gallery: the suite of subjects among whose photos a drawing has to find its own.
        images: for a row of given pictures, their folder.
        ip_adapter: for a row that IP-Adapter draws, its file or folder.
        judges: names by role, "" for none; empty where nothing is judged.
        images_per_prompt, pictures, keep, titles: as in a suite.
        attempt: 1, and one more each time that a worker was lost with it.
    """

    job: Job
    config: str
    photos: str
    results: str
    gallery: str = ""
    images: str = ""
    ip_adapter: str = ""
    judges: tuple[tuple[str, str], ...] = ()
    images_per_prompt: int = 4
    pictures: int = 256
    keep: str = "report"
    titles: tuple[tuple[str, str], ...] = ()
    attempt: int = 1

    @property
    def run(self) -> Path:
        """The job's run folder."""
        return Path(self.results) / RUNS / self.job.id

    @property
    def settings(self) -> tuple[str, ...]:
        """What the row changes, as "training.steps=200"."""
        return tuple(f"{key}={value}" for key, value in self.job.settings.items())

    @property
    def fingerprint(self) -> str:
        """A digest of all that the order says of the result, wherever and whenever it is done."""
        places = ("photos", "results", "gallery", "images", "ip_adapter", "attempt")
        facts = {key: value for key, value in asdict(self).items() if key not in places}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def make_orders(suite: BenchSuite, results: Path) -> Iterator[Order]:
    """The suite's jobs, one made at a time. UserError for a noun that the settings contradict."""
    for row, entry, seed in suite.cells():
        yield make_order(suite, results, row, entry, seed)


def make_order(suite: BenchSuite, results: Path, row: SuiteRow, entry: Entry, seed: int) -> Order:
    """One job of a suite."""
    config = replace(for_subject(row.config, entry.noun, entry.kind), seed=seed)
    job = Job(
        id=job_id(row.name, entry.name, seed),
        row=row.name,
        title=row.title,
        subject=entry.name,
        noun=config.noun,
        kind=config.subject_kind,
        seed=seed,
        method=row.method,
        model=config.model if not row.images else "",
        settings=dict(row.changes),
        choose=row.choose if suite.judges else (),
    )
    return Order(
        job,
        to_toml(config),
        str(entry.folder),
        str(results),
        gallery=suite.subjects,
        images=row.images,
        ip_adapter=row.ip_adapter,
        judges=tuple(suite.judges.items()),
        images_per_prompt=suite.images_per_prompt,
        pictures=suite.pictures,
        keep=suite.keep,
        titles=tuple(row.titles.items()),
    )


def models_of(order: Order) -> list[tuple[str, Kind]]:
    """The models that a job loads, by name: base, reward, judges."""
    config = from_toml(order.config, "job")
    wanted: list[tuple[str, Kind]] = [] if order.images else [(config.model, "pipeline")]
    if order.job.method:
        reward = config.reward.model
        wanted.append((default_reward(config.model) if reward == "auto" else reward, "reward"))
    judges = dict(order.judges)
    if judges:
        wanted += [(judges["dino"], "judge-dino"), (judges["clip"], "judge-clip")]
    if judges.get("aesthetic"):
        wanted.append((judges["aesthetic_clip"], "judge-clip"))
    return wanted


def job_id(row: str, subject: str, seed: int) -> str:
    """A name for files; a subject whose name cannot be one is told from others by a digest."""
    name = subject
    if not all(c.isascii() and (c.isalnum() or c in "_-") for c in subject) or len(subject) > 60:
        name = f"{slug(subject, 40)}-{hashlib.sha256(subject.encode()).hexdigest()[:8]}"
    return f"{row}.{name}.{seed}"


def tidy(order: Order) -> None:
    """Removes of a finished run folder what is not to be kept. What is not there is no matter."""
    if not order.run.is_dir():
        return
    gone = {"report": ("best", "last", "images"), "best": ("last", "images"), "all": ()}
    for name in gone[order.keep]:
        remove(order.run / name)
