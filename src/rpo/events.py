"""What a job tells its callers: small frozen records. Consumers see a job through nothing else.

`to_record` gives an event as plain JSON-able values, `from_record` takes them back. Pictures are
tensors within the process alone: outside it an event says in which files they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

_IN_PROCESS = {"in_process": True}  # of fields that do not leave it


@dataclass(frozen=True)
class Event:
    """What all events have, once the job has stamped them.

    Attributes:
        run: the run's name, that of its folder.
        number: counts the run's events from 0, on over its sessions.
        time: when it happened, in seconds since 1970 (UTC).
    """

    run: str = field(default="", kw_only=True)
    number: int = field(default=-1, kw_only=True)
    time: float = field(default=0.0, kw_only=True)


@dataclass(frozen=True)
class Started(Event):
    """The first event: what will be done, and in which folder. Nothing but its lock is written.

    photo_prompts: each photo's own, where some have captions; "", and none, is `reference_prompt`.
    """

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
    method: str = "rpo"
    photo_prompts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Progress(Event):
    """`done` of `total` pieces of the phase's work (pictures, pairs)."""

    phase: Literal["sampling", "labelling", "training", "validation", "judging"]
    done: int
    total: int


@dataclass(frozen=True)
class Notice(Event):
    """What a person should know: the work goes on, but not as it was set."""

    message: str


@dataclass(frozen=True)
class Labelled(Event):
    """The preference model over all pairs (reference photo, generated picture).

    Attributes:
        mean_probability: mean p(reference preferred to generated), Eq. 6.
        flip_rate: expected share of labels that contradict the reward's order, mean min(p, 1 - p).
        mean_gap: mean r(reference) - r(generated).
        pairs: how many pairs there are, M * G.
        labels: "drawn" anew at each visit, or the probability itself ("expected").
    """

    mean_probability: float
    flip_rate: float
    mean_gap: float
    pairs: int
    labels: str = "drawn"


@dataclass(frozen=True)
class Drawn(Event):
    """Pictures of the base model that a method learns from, each with the prompt that drew it.

    images: (G, 3, H, W) uint8 on the CPU; files: where they are, relative to the run.
    """

    images: Tensor | None = field(metadata=_IN_PROCESS)
    prompts: tuple[str, ...]
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class StepDone(Event):
    """One gradient step; `step` counts from 1.

    Attributes:
        loss: the total, as it was minimised.
        grad_norm: before clipping.
        figures: what the method says of the step, by name ("similarity", "margin").
    """

    step: int
    loss: float
    grad_norm: float
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Validated(Event):
    """The validation pictures after `step` steps: (N, 3, H, W) uint8 on the CPU, and their means.

    Attributes:
        reward: mean of r_lambda_val (Eq. 5).
        improved: these weights are the best so far.
        figures: what further judges say, by name.
        files: where the pictures are, relative to the run.
    """

    step: int
    reward: float
    image_alignment: float
    text_alignment: float
    improved: bool
    images: Tensor | None = field(metadata=_IN_PROCESS)
    prompts: tuple[str, ...]
    figures: Mapping[str, float] = field(default_factory=dict)
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Redrawn(Event):
    """The validation pictures of the chosen step on the base model as it is: of a quantised run.

    Attributes:
        step: of the adapter.
        reward: their mean of r_lambda_val (Eq. 5); it chose nothing.
        images: (N, 3, H, W) uint8 on the CPU, from the noises of the validations.
        files: where they are, relative to the run.
    """

    step: int
    reward: float
    images: Tensor | None = field(metadata=_IN_PROCESS)
    prompts: tuple[str, ...]
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stopped(Event):
    """The end of the training: all steps are done, or the patience ran out."""

    step: int
    best_step: int
    reason: Literal["finished", "patience"]


@dataclass(frozen=True)
class PhaseDone(Event):
    """What a phase took in this session: seconds, peak memory in MB."""

    phase: str
    seconds: float
    memory_mb: float | None
    gpu_memory_mb: float | None


@dataclass(frozen=True)
class Finished(Event):
    """The last event of a complete run."""

    path: Path
    best_step: int
    report: Path


@dataclass(frozen=True)
class Interrupted(Event):
    """The last event of a session that was broken off; what there is by `step` is saved."""

    step: int


@dataclass(frozen=True)
class Failed(Event):
    """The last event of a session that ended in an error, whatever it was.

    kind: "wrong input" for what the user can mend, else the error's class.
    """

    message: str
    kind: str = "wrong input"


KINDS: dict[str, type[Event]] = {
    "started": Started,
    "progress": Progress,
    "notice": Notice,
    "labelled": Labelled,
    "drawn": Drawn,
    "step": StepDone,
    "validated": Validated,
    "redrawn": Redrawn,
    "stopped": Stopped,
    "phase": PhaseDone,
    "finished": Finished,
    "interrupted": Interrupted,
    "failed": Failed,
}
_NAMES = {kind: name for name, kind in KINDS.items()}
# Names that files have kept since the first version.
_WRITTEN = {"files": "images"}
# What the records of each kind hold besides figures.
FIELDS = {
    name: {
        "event",
        *(_WRITTEN.get(item.name, item.name) for item in dataclasses.fields(kind)),
    }
    for name, kind in KINDS.items()
}


def to_record(event: Event) -> dict[str, Any]:
    """An event as JSON-able values, its kind under "event"; figures stand beside the other fields.

    Tuples become lists and paths become strings. ValueError for a figure with a field's name.
    """
    record: dict[str, Any] = {"event": _NAMES[type(event)]}
    for item in dataclasses.fields(event):
        value = getattr(event, item.name)
        if "in_process" in item.metadata:
            continue
        if item.name == "figures":
            if taken := FIELDS[record["event"]] & set(value):
                raise ValueError(f"{type(event).__name__} has fields of its own of these: {taken}")
            record |= dict(value)
        elif isinstance(value, Path):
            record[item.name] = str(value)
        else:
            name = _WRITTEN.get(item.name, item.name)
            record[name] = list(value) if isinstance(value, tuple) else value
    return record


def from_record(record: Mapping[str, Any]) -> Event:
    """The inverse of `to_record`, without pictures. ValueError for what is no event's record.

    What older versions did not write has its default.
    """
    kind = KINDS.get(record.get("event", ""))
    if kind is None:
        raise ValueError(f"{record.get('event')!r} is no kind of event")
    rest = {name: value for name, value in record.items() if name != "event"}
    values: dict[str, Any] = {}
    for item in dataclasses.fields(kind):
        name = _WRITTEN.get(item.name, item.name)
        if "in_process" in item.metadata:
            values[item.name] = None
        elif name in rest:
            value = rest.pop(name)
            if isinstance(value, list):
                value = tuple(value)
            values[item.name] = Path(value) if item.type == "Path" else value
    if kind in (StepDone, Validated):
        values["figures"] = rest
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"an incomplete record of '{record['event']}': {error}") from None
