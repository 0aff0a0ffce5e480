"""The execution of a job: load, prepare, train, keep the best, write the report.

Every event that is kept reaches the run folder before it is yielded. Breaking out of the loop saves
last/, so that the run can go on.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rpo.data.prompts import Prompt, chosen_prompts
from rpo.data.subject import Subject
from rpo.errors import UserError, printable
from rpo.events import (
    Event,
    Failed,
    Finished,
    Interrupted,
    Notice,
    PhaseDone,
    Started,
    Stopped,
    Validated,
    to_record,
)
from rpo.models.resolve import default_reward, resolve_model, resolve_models, tiny_decoder
from rpo.report.overview import overview
from rpo.report.report import render_report
from rpo.runs.environment import describe, model_files
from rpo.runs.folder import RunFolder, check_free, data_from, is_run
from rpo.runs.locking import locked
from rpo.runs.log import Log
from rpo.runs.lost import lost_best, plan_for_lost, require_best
from rpo.runs.meter import Meter, naming_exhausted_memory
from rpo.runs.parts import Parts
from rpo.runs.result import Run
from rpo.runs.resume import check_unchanged
from rpo.runs.spec import JobSpec
from rpo.runs.unquantised import redraw

if TYPE_CHECKING:
    from rpo.learners.learner import Learner
    from rpo.methods.method import Method
    from rpo.models.backbone import Backbone
    from rpo.rewards.alignment import AlignmentReward
    from rpo.runs.keeping import Keeper


class Job:
    """One session of one run: from its first step, or from its last checkpoint."""

    def __init__(self, spec: JobSpec, subject: Subject, parts: Parts) -> None:
        """Resolves models and prompts. Raises UserError; nothing is written."""
        self.subject, self.parts = subject.arranged(spec.config.photos), parts
        self.config, self.path, self.wants_tensorboard = spec.config, spec.path, spec.tensorboard
        self.resumes = is_run(self.path)
        self.meter = Meter()
        self.keeper: Keeper | None = None
        self.log = Log(self.path.name)
        self._hashes: dict[str, dict[str, str]] = {}  # of the models' files, by role
        self.writes = False  # whether this session has begun to change the run
        self.interrupted: Interrupted | None = None  # what was written of an end before the end

        parts.check(self.config, RunFolder(self.path) if self.resumes else None)
        if self.config.quantize != "no":
            from rpo.models.quantization import refuse_impossible

            refuse_impossible(self.config)
        config = self.config
        automatic = config.reward.model == "auto"
        self.reward_name = default_reward(config.model) if automatic else config.reward.model
        wanted = [(config.model, "pipeline"), (self.reward_name, "reward")]
        if parts.reward is not None:
            self.reward_name = type(parts.reward).__name__
            del wanted[1]
        kinds = [kind for _, kind in wanted]
        self.models = dict(zip(kinds, resolve_models(wanted), strict=True))  # type: ignore[arg-type]
        if config.method == "online" and config.online.decoder != "own":
            decoder = tiny_decoder(config.online.decoder, self.models["pipeline"])
            self.models["decoder"] = resolve_model(decoder, "decoder")
        lists = chosen_prompts(config)
        words = (config.subject_kind, config.noun, config.identifier)
        self.training = lists.prompts("training", *words)
        self.validation = lists.prompts("validation", *words)
        self.photo_prompts = self.subject.photo_prompts(config.identifier)

    def events(self) -> Generator[Event, None, None]:
        """The session. Whatever ends it, its last event says so: Finished, Failed or Interrupted.

        The last two are followed by what was raised; a generator that is closed yields no more.
        """
        with ExitStack() as stack:
            try:
                remark = stack.enter_context(locked(self.path))
                yield from self._session(remark)
            except KeyboardInterrupt:
                yield self.interrupted or self.log.stamp(Interrupted(self._saved_step()))
                raise
            except Exception as error:
                yield self._failed(error)
                raise
            finally:
                self.log.close()

    def _failed(self, error: Exception) -> Failed:
        """The event that tells the error, written where this session has begun to write."""
        wrong = isinstance(error, UserError)
        kind = "wrong input" if wrong else type(error).__name__
        failed = Failed(" ".join(str(error).split()), kind)
        folder = RunFolder(self.path)
        if self.writes:
            # a full disk, say, which the first error has named
            with suppress(UserError, OSError):
                if self.keeper:
                    self.keeper.wait()
                self._log_costs(folder)
                failed = self.log.write(folder, failed)
                self._report(folder)
        return self.log.stamp(failed)

    def _session(self, remark: str) -> Iterator[Event]:
        folder = RunFolder(self.path)
        summary: Mapping[str, Any] = {}
        remarks, lost = [remark], ""
        if self.resumes:
            folder = RunFolder.open(self.path)
            folder.clear_up()
            summary = folder.summary()
            self.log.go_on(folder.records(), bool(summary.get("finished")))
            if damage := folder.damaged_end():
                remarks.append(f"{damage}: it and what follows is left out")
            lost = lost_best(folder)
        else:
            check_free(self.path)
        started = self.log.stamp(self._started(summary))
        yield started
        for text in filter(None, remarks):  # of this session: in no file
            yield self.log.stamp(Notice(text))
        complete = self._is_complete(summary)
        if complete and not lost:
            if not folder.has_report:  # it was killed when all but this was done
                self._report(folder)
            yield self._finished(folder)
            return
        if self.resumes:
            render_report(folder)  # what would end it at the last is said at the first
        if lost:
            yield self.log.stamp(Notice(plan_for_lost(folder, lost, complete)))

        with self.meter.stretch("loading"), naming_exhausted_memory():
            if self.resumes:
                names = ("training_prompts", "validation_prompts")
                check_unchanged(folder, self.models, {n: getattr(started, n) for n in names})
            method, reward = self._load()
            environment = {} if self.resumes else self._environment(method.backbone)
        self.writes = True
        if self.resumes:
            folder.cut_damaged_end()
            folder.update_config(self.config)
        else:
            folder = RunFolder.create(self.path, self.config, environment)
            folder.record(to_record(started))
            squares = self.subject.tensor(method.backbone.resolution).add(1).div(2)
            stems = [printable(Path(name).stem) for name in self.subject.names]
            folder.save_images("photos", squares, stems)
        if self.wants_tensorboard:
            self.log.writer = folder.tensorboard()
        try:
            with naming_exhausted_memory():
                yield from self._work(folder, method, reward, summary if lost else None)
        except (GeneratorExit, KeyboardInterrupt):
            self.interrupted = self._save_interrupted(folder)
            raise
        costs = self._log_costs(folder)
        self._report(folder)
        yield from costs
        require_best(folder)
        yield self._finished(folder)

    def _started(self, summary: Mapping[str, Any]) -> Started:
        config = self.config
        return Started(
            path=self.path,
            subject=f"{config.identifier} {config.noun}",
            kind=config.subject_kind,
            photos=len(self.subject.images),
            model=config.model,
            reward_model=self.reward_name,
            steps=config.training.steps,
            keep=config.validation.keep,
            resumed_at=summary.get("step", 0) if self.resumes else None,
            reference_prompt=Prompt.reference(config.noun, config.identifier).conditioning,
            training_prompts=tuple(prompt.conditioning for prompt in self.training),
            validation_prompts=tuple(prompt.conditioning for prompt in self.validation),
            method=config.method,
            photo_prompts=self.photo_prompts,
        )

    def _saved_step(self) -> int:
        return int(RunFolder(self.path).summary().get("step", 0))

    def _save_interrupted(self, folder: RunFolder) -> Interrupted:
        """Saves what there is, unless the weights are between two steps: then last/ stays."""
        step, keeper = self._saved_step(), self.keeper
        if keeper and keeper.trainer.whole:
            for event in keeper.trainer.unreported():
                self.log.write(folder, event)
            keeper.checkpoint()
            step = keeper.trainer.step
        elif keeper:
            keeper.wait()
        self._log_costs(folder)
        interrupted = self.log.write(folder, Interrupted(step))
        self._report(folder)
        return interrupted

    def _is_complete(self, summary: Mapping[str, Any]) -> bool:
        """Whether nothing is left to do: not after more steps or more patience were given."""
        goal = [self.config.training.steps, self.config.validation.patience]
        return bool(summary.get("finished")) and summary.get("goal") == goal

    def _load(self) -> tuple[Method, AlignmentReward]:
        from rpo.learners import learner_class
        from rpo.methods import method_class
        from rpo.methods.method import Task
        from rpo.models.backbone import Backbone
        from rpo.rewards.alignment import AlignmentReward
        from rpo.training.loop import refuse_absent_optimizer

        config = self.config
        taught_by = self.parts.method or method_class(config)
        backbone = Backbone.load(
            self.models["pipeline"],
            device=config.device,
            resolution=config.resolution,
            precision=config.precision,
            quantize=config.quantize,
            offload=config.offload,
        )
        reference = Prompt.reference(config.noun, config.identifier)
        prompts = [reference, *self.training, *self.validation]
        texts = [*(prompt.conditioning for prompt in prompts), *filter(None, self.photo_prompts)]
        if config.offload:
            backbone.remember_prompts([*texts, *taught_by.further_prompts(reference)])
        else:  # a noun or an identifier that is too long is refused before anything is written
            backbone.encode_prompts([max(texts, key=len), *filter(None, self.photo_prompts)])
        # Now, and not after minutes of drawing.
        refuse_absent_optimizer(config.training)
        learner_class(config.training.weights).refuse(backbone, config)
        if config.compile:
            backbone.compile(backbone.denoiser)
        reward = self.parts.reward
        if reward is None:
            reward = AlignmentReward.load(self.models["reward"], self.subject, backbone)
        files = partial(self._files, "pipeline")
        task = Task(
            *(backbone, config, self.subject, self.training, reward, files),
            photo_prompts=self.photo_prompts,
            photo_weights=self.subject.weights(backbone.resolution),
        )
        return taught_by(task), reward

    def _files(self, role: str) -> dict[str, str]:
        """SHA-256 of that model's files; read once."""
        if role not in self._hashes:
            self._hashes[role] = model_files(self.models[role])
        return self._hashes[role]

    def _environment(self, backbone: Backbone) -> dict[str, Any]:
        decoder = self.config.online.decoder
        named = {"pipeline": self.config.model, "reward": self.reward_name, "decoder": decoder}
        models = {role: {"name": named[role], "files": self._files(role)} for role in self.models}
        return describe(self.config, self.subject, backbone, models)

    def _work(
        self,
        folder: RunFolder,
        method: Method,
        reward: AlignmentReward,
        lost: Mapping[str, Any] | None = None,
    ) -> Iterator[Event]:
        """Prepares, trains and keeps; lost: last/state.json where best/ is gone."""
        from rpo.learners import learner_class
        from rpo.runs.fitting import refuse_unfit, refuse_unfit_state
        from rpo.runs.keeping import Keeper
        from rpo.training.loop import Trainer
        from rpo.training.validation import Validator

        if not self.resumes:
            learns = learner_class(self.config.training.weights)
            for remark in learns.remarks(method.backbone, self.config):
                yield self.log.write(folder, Notice(remark))
        tensors, state = folder.load_data(), folder.load_last()
        for name, gone in (("data", tensors is None), ("trainer", state is None)):
            if gone and folder.summary():
                file = self.path / "last" / f"{name}.safetensors"
                yield self.log.stamp(Notice(f"{file}: is gone; what it held is computed again"))
        if state is None:
            folder.rewind(labelled=tensors is not None)
        elif tensors is None:
            folder.rewind(*self._reached(state), labelled=False)
        if tensors is None:
            data = yield from self._prepared(folder, method)
        else:
            data = data_from(method.Data, tensors)
            refuse_unfit(data, method, self.path / "last" / "data.safetensors")

        with self.meter.stretch("loading"):
            backbone, config = method.backbone, self.config
            validator = Validator(backbone, reward, self.validation, config, self.parts.judges)
            learner: Learner = learner_class(config.training.weights)(backbone, config)
            trainer = Trainer(learner, method, data, config, validator, self.parts.stopping)
            keeper = Keeper(folder, trainer)
            if lost and state is not None and lost.get("best_step") == 0:
                keeper.keep(0, lost["best_reward"])  # before it has learned
                keeper.wait()
            if state is not None:
                kind, source = config.training.optimizer, self.path / "last" / "trainer.safetensors"
                refuse_unfit_state(state, trainer.parameters, kind, source)
                trainer.load_state_dict(state)
                folder.rewind(*self._reached(state))
                if lost and lost.get("best_step") == trainer.step:
                    keeper.keep(trainer.step, lost["best_reward"])
                    keeper.wait()
                state = None
        self.keeper = keeper
        for event in self.meter.timed(trainer.run()):
            if isinstance(event, Validated):
                with self.meter.stretch("saving"):
                    if event.improved:
                        keeper.keep_best(event)
                    event = self.log.write(folder, event, f"validation/step-{event.step:05d}")
                    keeper.checkpoint_if_due()
            else:
                event = self.log.write(folder, event)
            if isinstance(event, Stopped):
                with self.meter.stretch("saving"):
                    keeper.checkpoint(finished=True)
            yield event
        if self.config.quantize != "no":
            again = redraw(Run(self.path, _unquantised=True), self.validation, reward)
            for event in self.meter.timed(again):
                yield self.log.write(folder, event, "unquantised")

    @staticmethod
    def _reached(state: Mapping[str, Any]) -> tuple[int, int]:
        """The steps done and the last one validated by a checkpoint."""
        try:
            return int(state["step"]), int(state["validated"])
        except (TypeError, KeyError, ValueError, OverflowError):
            raise UserError(
                "last/trainer.safetensors: holds no training state; delete it, and --resume trains "
                "again from step 0"
            ) from None

    def _prepared(self, folder: RunFolder, method: Method) -> Generator[Event, None, Any]:
        """What the method learns from, once it is in the folder."""
        data: list[Any] = []

        def events() -> Iterator[Event]:
            data.append((yield from method.prepare()))

        for event in self.meter.timed(events()):
            with self.meter.stretch("saving"):
                event = self.log.write(folder, event, "training")
            yield event
        with self.meter.stretch("saving"):
            folder.save_data(data[0])
        return data[0]

    def _log_costs(self, folder: RunFolder) -> list[PhaseDone]:
        """Books what the session's phases took."""
        phases = [
            self.log.write(
                folder, PhaseDone(name, cost.seconds, cost.memory_mb, cost.gpu_memory_mb)
            )
            for name, cost in self.meter.costs.items()
        ]
        self.meter.costs.clear()
        return phases

    def _report(self, folder: RunFolder) -> None:
        """Replaces the report and the overview by what the folder now says."""
        folder.write_report(render_report(folder))
        run = Run(folder.path)
        if run.history:
            folder.save_overview(overview(run))

    def _finished(self, folder: RunFolder) -> Finished:
        run = Run(folder.path)
        return self.log.stamp(Finished(folder.path, run.best_step or 0, run.report))
