"""What `import rpo` offers: teach a subject, open a run, export it, evaluate it."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rpo.config import Config, RewardConfig, for_subject, given, load_config
from rpo.errors import UserError
from rpo.evaluation.evaluate import evaluate
from rpo.events import Event, Started
from rpo.exports.export import export
from rpo.models.resolve import known_presets
from rpo.runs.folder import RunFolder, check_free, expanded, next_free
from rpo.runs.job import Job
from rpo.runs.parts import Parts
from rpo.runs.result import Run, load_run
from rpo.runs.resume import anchored, resumable, resume_config
from rpo.runs.spec import JobSpec

if TYPE_CHECKING:
    from rpo.data.subject import Subject
    from rpo.methods.method import Method
    from rpo.rewards.alignment import AlignmentReward
    from rpo.training.stopping import StoppingRule
    from rpo.training.validation import Judge

__all__ = ["evaluate", "export", "iterate", "load_run", "run_job", "train"]


def train(
    subject: Subject,
    model: str | None = None,
    preset: str | Sequence[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    on_event: Callable[[Event], None] | None = None,
    *,
    method: str | type[Method] | None = None,
    reward: AlignmentReward | Mapping[str, Any] | None = None,
    stopping: StoppingRule | None = None,
    judges: Mapping[str, Judge] | None = None,
    config: Config | str | os.PathLike[str] | None = None,
    settings: Sequence[str] = (),
    tensorboard: bool = False,
    **fields: Any,
) -> Run:
    """Personalises a model on a subject and returns the finished run.

    on_event: called with every event. Where it raises, or the job is interrupted, last/ is saved
    first, so that the run can go on. Everything else as for `iterate`.
    """
    events = iterate(
        subject,
        model,
        preset,
        out,
        resume,
        method=method,
        reward=reward,
        stopping=stopping,
        judges=judges,
        config=config,
        settings=settings,
        tensorboard=tensorboard,
        **fields,
    )
    path: Path | None = None
    with closing(events):
        for event in events:
            if isinstance(event, Started):
                path = event.path
            if on_event:
                on_event(event)
    assert path is not None
    return Run(path)


def iterate(
    subject: Subject,
    model: str | None = None,
    preset: str | Sequence[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    *,
    method: str | type[Method] | None = None,
    reward: AlignmentReward | Mapping[str, Any] | None = None,
    stopping: StoppingRule | None = None,
    judges: Mapping[str, Judge] | None = None,
    config: Config | str | os.PathLike[str] | None = None,
    settings: Sequence[str] = (),
    tensorboard: bool = False,
    **fields: Any,
) -> Generator[Event, None, None]:
    """The job as a generator of `rpo.events`, each of which has reached the run folder.

    model: "emojiland" (the default), a folder or a hub id. preset: a name in `known_presets`, or
    several. out: the run folder; by default runs/<subject>-<n> in the current directory.
    resume: continue the run in `out`, or the newest unfinished one of this subject; it keeps its
    settings, of which only `resume.CHANGEABLE` ones may be given anew.
    method: a name in `METHODS`, or a class of your own. reward, stopping: used in place of the
    configured ones (a mapping is the section `reward` of the settings). judges: by name, what is
    measured of every validation's pictures besides.
    config: a Config or a TOML file. settings: "training.steps=200" and the like.
    fields: Config's own, as seed=1 or training={"steps": 200}.
    Precedence: preset < config < fields < settings; a Config is complete and takes no preset.
    The noun, and the kind that "auto" stands for, are the subject's.

    Raises UserError at once for whatever the user got wrong in these arguments, and from the
    generator, before anything is written, for what only the models can tell. Closing the generator
    saves last/; resuming then repeats and loses nothing.
    """
    own = None if method is None or isinstance(method, str) else method
    if isinstance(reward, Mapping | RewardConfig):
        fields, reward = {**fields, "reward": reward}, None
    base, file = (config, None) if isinstance(config, Config) else (None, config)
    sources: dict[str, Any] = {
        "preset": preset,
        "file": None if file is None else Path(file),
        "overrides": settings,
        "base": base,
        "known": known_presets(),
        "model": model,
        "method": own.__name__ if own else method,
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
        chosen = resume_config(RunFolder.open(path), subject, given(**sources))
    else:
        chosen = anchored(for_subject(load_config(**sources), subject.noun, subject.kind))
        path = expanded(out or next_free(Path("runs"), subject.name))
        check_free(path)
    photos = subject.paths[0].resolve().parent if subject.paths else None
    spec = JobSpec(photos, chosen, path, tensorboard)
    return Job(spec, subject, Parts(own, reward, stopping, judges or {})).events()


def run_job(spec: JobSpec) -> Generator[Event, None, None]:
    """The events of a job that was written down; a run that is there is continued.

    Raises UserError as `iterate` does.
    """
    from rpo.data.subject import Subject

    if spec.photos is None:
        raise UserError(f"{spec.path}: the photos of this job are in another process's memory")
    subject = Subject.from_folder(spec.photos, spec.config.noun)
    return Job(spec, subject, Parts()).events()
