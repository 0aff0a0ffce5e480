"""What is judged, a row of the table each: runs, a base model, or a folder of pictures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, TypeAlias

from rpo.config import Config
from rpo.data.photo import pixel_hash
from rpo.data.prompts import chosen_prompts
from rpo.errors import printable
from rpo.evaluation.drawn import (
    CLASS_PICTURES,
    Drawn,
    PictureFolder,
    class_prompt,
    draw_run,
    read_run_subject,
)
from rpo.evaluation.dreambench import NumberedPrompt, Reference, Suite, numbered_prompts
from rpo.evaluation.untrained import Untrained, draw_untrained
from rpo.runs.result import Run, drawing

OnProgress: TypeAlias = Callable[[str, int, int], None]
"""Called with what is being done, and how much of it is done, of how much."""
Task: TypeAlias = tuple[Reference, Sequence[NumberedPrompt]]
"""A subject, and the test prompts that it is to be drawn with."""


class System(ABC):
    """One row of the table.

    Attributes:
        name: unique in the table.
        draws: its pictures are made here, and kept.
    """

    name: str
    draws: ClassVar[bool] = True

    @property
    def group(self) -> str:
        """Systems of one group are compared with others as one."""
        return self.name

    @abstractmethod
    def drawn(self, tell: OnProgress) -> Iterator[Drawn]:
        """Its pictures, subject by subject: no more than one subject's are in memory."""

    @abstractmethod
    def about(self, shown: Sequence[Reference]) -> dict[str, Any]:
        """What it is and how it drew, after it has; shown: the subjects that it drew."""


@dataclass(frozen=True)
class RunSystem(System):
    """A run: its result draws its test prompts."""

    name: str
    run: Run
    subject: Reference
    prompts: Sequence[NumberedPrompt]
    images_per_prompt: int

    @property
    def group(self) -> str:
        """Runs of one method and kind of weights on one model."""
        config = self.run.config
        return f"{config.method} ({config.training.weights}) on {config.model}"

    def drawn(self, tell: OnProgress) -> Iterator[Drawn]:
        tick = partial(tell, f"drawing {self.name}")
        run = replace(self.run)  # which loads a model of its own, and is gone with it
        yield draw_run(run, self.subject, self.prompts, self.images_per_prompt, tick)

    def about(self, shown: Sequence[Reference]) -> dict[str, Any]:
        config, template = self.run.config, self.prompts[0].template
        scheduler = self.run.settings("", 0)["scheduler"]
        return {
            "run": printable(self.run.path.resolve()),
            "model": config.model,
            "method": config.method,
            "weights": config.training.weights,
            "step": self.run.best_step,
            "noun": config.noun,
            "drawing": _drawing(config, scheduler, self.subject.photos[0].width),
            "drawn": template.replace("{}", f"{config.identifier} {config.noun}"),
            "judged": template.replace("{}", config.noun),
            "class": class_prompt(config.noun),
            "class_pictures": CLASS_PICTURES,
            "seeds": f"derived from the run's seed {config.seed} and the picture's place",
            "images_per_prompt": self.images_per_prompt,
            "missing": [],
        }


@dataclass(frozen=True)
class ModelSystem(System):
    """A base model that learned no subject; with_photos: its IP-Adapter, which sees the photos."""

    name: str
    model: Untrained
    tasks: Sequence[Task]
    images_per_prompt: int
    with_photos: bool = False

    def drawn(self, tell: OnProgress) -> Iterator[Drawn]:
        """Subjects of one noun after one another.

        To the base model alone they are one: it draws them once.
        """
        tasks = sorted(self.tasks, key=lambda task: task[0].noun)
        total = sum(len(prompts) for _, prompts in tasks) * self.images_per_prompt
        last: Drawn | None = None
        done, told = 0, None
        for subject, prompts in tasks:
            if last is None or self.with_photos or told != (subject.noun, prompts):
                last, told = None, (subject.noun, prompts)  # one subject's pictures at a time
                tick = partial(_tick, tell, f"drawing {self.name}", done, total)
                last = draw_untrained(
                    self.model,
                    subject,
                    prompts,
                    self.images_per_prompt,
                    tick,
                    with_photos=self.with_photos,
                )
            done += len(last.images)
            yield replace(last, subject=subject)

    def about(self, shown: Sequence[Reference]) -> dict[str, Any]:
        from rpo.models.sampling import solver_name  # slow to import

        config, backbone = self.model.config, self.model.backbone
        told: dict[str, Any] = {
            "model": printable(config.model),
            "model_sha256": self.model.hashes(),
            "method": "ip-adapter" if self.with_photos else "base",
        }
        if self.with_photos:
            assert self.model.adapter is not None
            told["adapter"] = {
                "name": printable(self.model.adapter.files.weights.name),
                "scale": self.model.adapter.scale,
                "photos": "all photos at once",
                "sha256": self.model.adapter_hashes(),
            }
        scheduler = solver_name(backbone, config.sampling.scheduler)
        name = shown[0].name
        example = next(prompts[0] for subject, prompts in self.tasks if subject.name == name)
        return told | {
            "drawing": _drawing(config, scheduler, backbone.resolution),
            "drawn": example.plain(shown[0].noun),
            "judged": example.plain(shown[0].noun),
            "seeds": f"derived from the seed {config.seed} and the picture's place",
            "images_per_prompt": self.images_per_prompt,
            "missing": [],
        }


@dataclass(frozen=True)
class FolderSystem(System):
    """Pictures of any system, which are read and not drawn."""

    name: str
    pictures: PictureFolder
    gallery: Sequence[Reference]
    suite: Suite
    draws: ClassVar[bool] = False

    def drawn(self, tell: OnProgress) -> Iterator[Drawn]:
        for place, drawn in enumerate(self.pictures.read(self.gallery, self.suite)):
            tell("judging", place, len(self.gallery))
            yield drawn

    def about(self, shown: Sequence[Reference]) -> dict[str, Any]:
        return {
            "folder": printable(self.pictures.path.resolve()),
            "size": list(self.pictures.size),
            "images_per_prompt": self.pictures.per_prompt,
            "judged": self.suite.numbered(shown[0].kind)[0].plain(shown[0].noun),
            "seeds": "not known",
            "missing": self.pictures.amiss,
        }


def _tick(tell: OnProgress, label: str, before: int, total: int, done: int, _: int) -> None:
    tell(label, before + done, total)


def _drawing(config: Config, scheduler: str, resolution: int) -> dict[str, Any]:
    return {
        **drawing(config),
        "scheduler": scheduler,
        "resolution": resolution,
        "precision": config.precision,
        "quantize": config.quantize,
    }


def run_systems(runs: Sequence[Run], images_per_prompt: int) -> list[RunSystem]:
    """Each under the name of its folder, or that with a number. UserError for photos that are gone.

    Their subjects still have names of their own, which `gather` makes unique.
    """
    taken: set[str] = set()
    systems = []
    for run in runs:
        config = run.config
        prompts = numbered_prompts(chosen_prompts(config), config.subject_kind)
        name = unique_name(printable(run.path.resolve().name), taken)
        systems.append(RunSystem(name, run, read_run_subject(run), prompts, images_per_prompt))
    return systems


def unique_name(name: str, taken: set[str]) -> str:
    """The name, or the first of name-2, name-3 … that is not taken; takes it."""
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}-{number}"
    taken.add(found)
    return found


def gather(
    runs: Sequence[RunSystem], others: Sequence[Reference]
) -> tuple[list[RunSystem], list[Reference]]:
    """One gallery of all subjects: those that share a photo are one, the first that is met."""
    gallery: list[Reference] = []
    known: dict[bytes, Reference] = {}
    taken: set[str] = set()

    def place(reference: Reference) -> Reference:
        keys = [pixel_hash(photo) for photo in reference.photos]
        same = next((known[key] for key in keys if key in known), None)
        if same is None:
            same = replace(reference, name=unique_name(reference.name, taken))
            gallery.append(same)
        known.update(dict.fromkeys(keys, same))
        return same

    placed = [replace(run, subject=place(run.subject)) for run in runs]
    for other in others:
        place(other)
    return placed, gallery


def model_systems(
    model: Untrained,
    runs: Sequence[RunSystem],
    suite: Suite | None,
    gallery: Sequence[Reference],
    images_per_prompt: int,
) -> list[ModelSystem]:
    """A base model's rows: "ip-adapter" where it has one, and "base", from which all others differ.

    It draws the subjects of the runs beside it, and without any the suite's, which are the gallery.
    """
    tasks: dict[str, Task] = {}
    for run in runs:
        tasks.setdefault(run.subject.name, (run.subject, run.prompts))
    if not runs and suite:
        tasks = {s.name: (s, suite.numbered(s.kind)) for s in gallery}
    taken = {run.name for run in runs}
    kinds = [*([("ip-adapter", True)] if model.adapter else []), ("base", False)]
    return [
        ModelSystem(
            unique_name(name, taken), model, tuple(tasks.values()), images_per_prompt, with_photos
        )
        for name, with_photos in kinds
    ]
