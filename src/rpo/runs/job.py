"""The whole job: check everything, load, draw, label, train, keep the best, write the report.

`iterate` yields the engine's events (and three of its own) after they have reached the run
folder; `train` consumes it. Breaking out of the loop saves last/, so that the run can go on.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rpo.config import Config, for_subject, given, load_config
from rpo.runs.environment import hardware, model_files, versions
from rpo.errors import UserError
from rpo.events import Labelled, Prepared, Progress, StepDone, Stopped, Validated
from rpo.runs.meter import Meter, naming_exhausted_memory
from rpo.models.resolve import default_reward, resolve_models
from rpo.report.overview import overview
from rpo.data.prompts import Prompt, load_prompt_set
from rpo.report.report import render_report
from rpo.runs.result import Run
from rpo.runs.resume import anchored, check_unchanged, continued, fingerprints, resumable
from rpo.runs.folder import RunFolder, check_free, data_from, event_record, expanded, is_run, next_free
from rpo.data.subject import Subject

if TYPE_CHECKING:
    from rpo.runs.keeping import Keeper


@dataclass(frozen=True)
class Started:
    """The first event: what will be done, and in which folder. Nothing is written yet."""

    path: Path
    subject: str
    kind: str
    photos: int
    model: str
    reward_model: str
    steps: int
    keep: str
    resumed_at: int | None
    reference_prompt: str
    training_prompts: tuple[str, ...]
    validation_prompts: tuple[str, ...]


@dataclass(frozen=True)
class PhaseDone:
    """What a phase took in this session: seconds, peak memory in MB."""

    phase: str
    seconds: float
    memory_mb: float | None
    gpu_memory_mb: float | None


@dataclass(frozen=True)
class Finished:
    """The last event: the run is complete."""

    path: Path
    best_step: int
    report: Path


def train(
    subject: Subject,
    model: str | None = None,
    preset: str | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    on_event: Callable[[Any], None] | None = None,
    **options: Any,
) -> Run:
    """Personalises a model on a subject and returns the finished run.

    on_event: called with every event. Everything else as for `iterate`.
    """
    path: Path | None = None
    for event in iterate(subject, model, preset, out, resume, **options):
        if isinstance(event, Started):
            path = event.path
        if on_event:
            on_event(event)
    assert path is not None
    return Run(path)


def iterate(
    subject: Subject,
    model: str | None = None,
    preset: str | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    *,
    config: Config | str | os.PathLike[str] | None = None,
    settings: Sequence[str] = (),
    tensorboard: bool = False,
    **fields: Any,
) -> Generator[Any, None, None]:
    """The job as a generator of events: `rpo.events`, and Started, PhaseDone and Finished.

    model: "emojiland" (the default), a folder or a hub id. preset: a name in `presets.PRESETS`.
    out: the run folder; by default runs/<subject>-<n> in the current directory.
    config: a Config or a TOML file. settings: "training.steps=200" and the like.
    fields: Config's own, as seed=1 or training={"steps": 200}.
    Precedence: preset < config < fields < settings; a Config is complete and takes no preset.
    The noun, and the kind that "auto" stands for, are the subject's.
    resume: continue the run in `out`, or the newest unfinished one of this subject; it keeps its
    settings, of which only `resume.CHANGEABLE` ones may be given anew.

    Raises UserError, before anything is written, for whatever the user got wrong. Closing the
    generator saves last/; resuming then repeats and loses nothing.
    """
    base, file = (config, None) if isinstance(config, Config) else (None, config)
    sources: dict[str, Any] = {
        "preset": preset,
        "file": None if file is None else Path(file),
        "overrides": settings,
        "base": base,
        "model": model,
        **fields,
    }
    if tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise UserError("--tensorboard: TensorBoard is not installed; pip install tensorboard")

    path = resumable(subject, out) if resume else None
    if resume and path is None and out is None:
        raise UserError(
            f"--resume: no unfinished run of {subject.name} in {Path('runs').absolute()}; "
            "name it by --out"
        )
    if path is not None:
        chosen = continued(RunFolder.open(path), subject, given(**sources))
    else:
        chosen = anchored(for_subject(load_config(**sources), subject.noun, subject.kind))
        path = expanded(out) if out else next_free(Path("runs"), subject.name)
        check_free(path)
    yield from _Job(subject, chosen, path, tensorboard).events()


class _Job:
    """One session of one run: from its first step, or from its last checkpoint."""

    def __init__(self, subject: Subject, config: Config, path: Path, tensorboard: bool) -> None:
        """Resolves models and prompts. Raises UserError; nothing is written."""
        self.subject, self.config, self.path = subject, config, path
        self.resumes = is_run(path)
        self.meter = Meter()
        self.keeper: Keeper | None = None
        self.writer: Any = None
        self.wants_tensorboard = tensorboard

        if config.quantize != "no":
            from rpo.models.quantization import refuse_impossible

            refuse_impossible(config)
        automatic = config.reward.model == "auto"
        self.reward_name = default_reward(config.model) if automatic else config.reward.model
        self.pipeline_path, self.reward_path = resolve_models(
            [(config.model, "pipeline"), (self.reward_name, "reward")]
        )
        fitting = "emojiland" if config.model == "emojiland" else "paper"
        lists = load_prompt_set(fitting if config.prompts == "auto" else config.prompts)
        words = (config.subject_kind, config.noun, config.identifier)
        self.training = lists.prompts("training", *words)
        self.validation = lists.prompts("validation", *words)

    def events(self) -> Iterator[Any]:
        folder = RunFolder(self.path)
        summary = folder.summary() if self.resumes else {}
        started = Started(
            path=self.path,
            subject=f"{self.config.identifier} {self.config.noun}",
            kind=self.config.subject_kind,
            photos=len(self.subject.images),
            model=self.config.model,
            reward_model=self.reward_name,
            steps=self.config.training.steps,
            keep=self.config.validation.keep,
            resumed_at=summary.get("step", 0) if self.resumes else None,
            reference_prompt=Prompt.reference(
                self.config.noun, self.config.identifier
            ).conditioning,
            training_prompts=tuple(prompt.conditioning for prompt in self.training),
            validation_prompts=tuple(prompt.conditioning for prompt in self.validation),
        )
        yield started
        if self._is_complete(summary):
            yield self._finished(folder)
            return

        with self._stretch("loading"), naming_exhausted_memory():
            if self.resumes:
                prompts = ("training_prompts", "validation_prompts")
                models = {"pipeline": self.pipeline_path, "reward": self.reward_path}
                check_unchanged(folder, models, {name: getattr(started, name) for name in prompts})
            backbone, reward = self._load()
            environment = self._environment(backbone) if not self.resumes else {}
        if self.resumes:
            folder.update_config(self.config)
        else:
            folder = RunFolder.create(self.path, self.config, environment)
            folder.record(event_record(started))
            squares = self.subject.tensor(backbone.resolution).add(1).div(2)
            names = [Path(name).stem for name in self.subject.names]
            folder.save_images("photos", squares, names)
        if self.wants_tensorboard:
            self.writer = folder.tensorboard()
        try:
            with naming_exhausted_memory():
                yield from self._work(folder, backbone, reward)
        except UserError as error:
            with suppress(UserError, OSError):  # a full disk, say, which the first error has named
                if self.keeper:
                    self.keeper.wait()
                folder.record({"event": "failed", "message": str(error)})
                self._close(folder)
            raise
        except GeneratorExit:
            step = 0
            if self.keeper:  # the trainer is between two events here, so its state is whole
                for event in self.keeper.trainer.unreported():
                    self._log(folder, event)
                self.keeper.checkpoint()
                step = self.keeper.trainer.step
            folder.record({"event": "interrupted", "step": step})
            self._close(folder)
            raise
        finally:
            if self.writer:
                self.writer.close()
        yield from self._close(folder)
        yield self._finished(folder)

    def _is_complete(self, summary: Mapping[str, Any]) -> bool:
        """Whether nothing is left to do: not after more steps or more patience were given."""
        goal = [self.config.training.steps, self.config.validation.patience]
        return bool(summary.get("finished")) and summary.get("goal") == goal

    def _load(self) -> tuple[Any, Any]:
        from rpo.learners.adapters import find_targets
        from rpo.models.backbone import FLOATS, Backbone
        from rpo.models.encoders import load_encoder
        from rpo.rewards.alignment import AlignmentReward
        from rpo.training.loop import refuse_absent_optimizer

        backbone = Backbone.load(
            self.pipeline_path,
            device=self.config.device,
            resolution=self.config.resolution,
            precision=self.config.precision,
            quantize=self.config.quantize,
            offload=self.config.offload,
        )
        if self.config.offload:
            reference = Prompt.reference(self.config.noun, self.config.identifier)
            prompts = [reference, *self.training, *self.validation]
            backbone.remember_prompts([prompt.conditioning for prompt in prompts])
        # Now, and not after minutes of drawing.
        refuse_absent_optimizer(self.config.training)
        if self.config.training.weights != "full":
            find_targets(backbone.denoiser, self.config.lora.targets)
        if self.config.compile:
            backbone.compile(backbone.denoiser)
        encoder = load_encoder(
            self.reward_path,
            backbone.device,
            FLOATS[self.config.precision],
            offload=self.config.offload,
        )
        references = self.subject.tensor(backbone.resolution).add(1).div(2)
        return backbone, AlignmentReward(encoder, references)

    def _environment(self, backbone: Any) -> dict[str, Any]:
        return {
            "versions": versions(),
            "hardware": hardware() | {"device": str(backbone.device)},
            "seed": self.config.seed,
            "resolution": backbone.resolution,
            "subject": {
                "name": self.subject.name,
                "noun": self.config.noun,
                "kind": self.config.subject_kind,
                "folder": self.subject.folder,
                "photos": fingerprints(self.subject),
            },
            "models": {
                "pipeline": {"name": self.config.model, "files": model_files(self.pipeline_path)},
                "reward": {"name": self.reward_name, "files": model_files(self.reward_path)},
            },
        }

    def _work(self, folder: RunFolder, backbone: Any, reward: Any) -> Iterator[Any]:
        from rpo.runs.keeping import Keeper
        from rpo.methods.preparation import TrainingData, prepare
        from rpo.training.loop import Trainer
        from rpo.training.validation import Validator

        tensors, state = folder.load_data(), folder.load_last()
        if state is None:
            folder.rewind(labelled=tensors is not None)
        if tensors is None:
            data = None
            for event in self._timed(
                prepare(backbone, reward, self.subject, self.training, self.config)
            ):
                if isinstance(event, Prepared):
                    data = event.data
                    with self._stretch("saving"):
                        folder.save_images("training", event.images, event.prompts)
                        folder.save_data(data)
                self._log(folder, event)
                yield event
        else:
            data = data_from(TrainingData, tensors)

        assert data is not None
        with self._stretch("loading"):
            validator = Validator(backbone, reward, self.validation, self.config)
            trainer = Trainer(backbone, data, self.config, validator)
            if state is not None:
                trainer.load_state_dict(state)
                folder.rewind(trainer.step, int(state["validated"]))
                state = None
        self.keeper = keeper = Keeper(folder, backbone, trainer)
        for event in self._timed(trainer.run()):
            images = None
            if isinstance(event, Validated):
                with self._stretch("saving"):
                    images = folder.save_images(
                        f"validation/step-{event.step:05d}", event.images, event.prompts
                    )
                    if event.improved:
                        keeper.keep_best(event)
                    self._log(folder, event, images)
                    keeper.checkpoint_if_due()
            elif isinstance(event, Stopped):
                self._log(folder, event)
                with self._stretch("saving"):
                    keeper.checkpoint(finished=True)
            else:
                self._log(folder, event)
            yield event

    def _stretch(self, phase: str) -> Any:
        return self.meter.stretch(phase)

    def _timed(self, events: Iterable[Any]) -> Iterator[Any]:
        """The events, the work before each booked to its phase."""
        names = {Labelled: "labelling", Prepared: "labelling", StepDone: "training"}
        iterator = iter(events)
        while True:
            with self._stretch("training") as stretch:
                event = next(iterator, None)
                if event is None:
                    return
                default = getattr(event, "phase", "validation")
                stretch.phase = names.get(type(event), default)
            yield event

    def _log(self, folder: RunFolder, event: Any, images: list[str] | None = None) -> None:
        if isinstance(event, (Progress, Prepared)):
            return
        record = event_record(event)
        if images is not None:
            record["images"] = images
        folder.record(record)
        if self.writer:
            step = record.get("step", 0)
            for key, value in record.items():
                if isinstance(value, float):
                    self.writer.add_scalar(f"{record['event']}/{key}", value, step)

    def _close(self, folder: RunFolder) -> list[PhaseDone]:
        """Books the phases' costs and writes the report."""
        phases = [
            PhaseDone(name, cost.seconds, cost.memory_mb, cost.gpu_memory_mb)
            for name, cost in self.meter.costs.items()
        ]
        for phase in phases:
            folder.record(event_record(phase))
        self.meter.costs.clear()
        folder.write_report(render_report(folder))
        run = Run(folder.path)
        if run.history:
            folder.save_overview(overview(run))
        return phases

    def _finished(self, folder: RunFolder) -> Finished:
        run = Run(folder.path)
        return Finished(folder.path, run.best_step or 0, run.report)
