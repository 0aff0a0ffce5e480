"""Settings with which a job fits a card: as few and as harmless changes as the memory demands.

`SACRIFICES` lists the changes in the order in which they are tried. Each is made as often as it
lowers a peak that is too high, and only then; a setting that the user gave is never changed.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rpo.config import Config
from rpo.planning.estimate import KEYS, Choice, Estimator, Phase
from rpo.planning.rates import Rate


@dataclass(frozen=True)
class Sacrifice:
    """A change: what it is, its next step from a choice (None: no further), its fields."""

    text: str
    fields: tuple[str, ...]
    next: Callable[[Choice], Choice | None]


def _halved(field: str) -> Callable[[Choice], Choice | None]:
    def change(choice: Choice) -> Choice | None:
        size = getattr(choice, field)
        return replace(choice, **{field: size // 2}) if size > 1 else None

    return change


def _set(field: str, value: Any, others: Collection[Any]) -> Callable[[Choice], Choice | None]:
    def change(choice: Choice) -> Choice | None:
        return replace(choice, **{field: value}) if getattr(choice, field) in others else None

    return change


def _accumulated(choice: Choice) -> Choice | None:
    """The same pairs in each step, half as many at once."""
    if choice.batch_size % 2:
        return None
    size, times = choice.batch_size // 2, choice.accumulate * 2
    return replace(choice, batch_size=size, accumulate=times)


def _lower_rank(choice: Choice) -> Choice | None:
    if choice.weights == "full" or choice.rank <= 4:
        return None
    return replace(choice, rank=max(4, choice.rank // 2))


def _fewer_bits(choice: Choice) -> Choice | None:
    following = {"no": "int8", "int8": "nf4"}.get(choice.quantize)
    if choice.weights == "full" or following is None:
        return None
    return replace(choice, quantize=following)


SACRIFICES = (
    Sacrifice(
        "fewer training pictures drawn at once", ("sampling_batch",), _halved("sampling_batch")
    ),
    Sacrifice(
        "fewer validation pictures drawn at once",
        ("validation_batch",),
        _halved("validation_batch"),
    ),
    Sacrifice("smaller batches, added up", ("batch_size", "accumulate"), _accumulated),
    Sacrifice(
        "activations recomputed, a third slower",
        ("checkpointing",),
        _set("checkpointing", True, (False,)),
    ),
    Sacrifice(
        "all networks but the denoiser come and go",
        ("offload",),
        _set("offload", True, (False,)),
    ),
    Sacrifice(
        "a tiny autoencoder decodes for the reward's gradient",
        ("decoder",),
        _set("decoder", "tiny", ("own",)),
    ),
    Sacrifice(
        "frozen weights and arithmetic in bfloat16",
        ("precision",),
        _set("precision", "bf16", ("fp32", "tf32")),
    ),
    Sacrifice("fewer drawings rewarded at once", ("pictures",), _halved("pictures")),
    Sacrifice("a LoRA in place of all weights", ("weights",), _set("weights", "lora", ("full",))),
    Sacrifice("the frozen denoiser in 8, then in 4 bits", ("quantize",), _fewer_bits),
    Sacrifice(
        "the optimiser's moments in 8 bits",
        ("optimizer",),
        _set("optimizer", "adamw8bit", ("adamw",)),
    ),
    Sacrifice("a lower rank", ("rank",), _lower_rank),
)
# Worse, slower or more laborious than doing without: undone where what came later makes them
# needless, the worst first.
_UNDONE = ("pictures", "checkpointing", "offload", "decoder")


@dataclass(frozen=True)
class Change:
    """A sacrifice that was made: the settings before and after, and what it saved where.

    saved: bytes by which the peak of `phase` fell, the phase in which it fell most.
    """

    text: str
    settings: tuple[tuple[str, Any, Any], ...]  # (dotted name, before, after)
    phase: str
    saved: int


@dataclass(frozen=True)
class Plan:
    """What a job takes with the settings chosen for a card.

    Attributes:
        wanted: the phases with the settings as they were given.
        phases: the phases with the chosen ones.
        choice: the chosen settings.
        changes: from the given settings to these, in order.
        limit: bytes of the card, None where none was named: then nothing is changed.
    """

    wanted: tuple[Phase, ...]
    phases: tuple[Phase, ...]
    choice: Choice
    changes: tuple[Change, ...]
    limit: float | None

    @property
    def peak(self) -> int:
        """Bytes of the fullest phase."""
        return max(phase.peak for phase in self.phases)

    @property
    def fits(self) -> bool:
        return self.limit is None or self.peak <= self.limit

    @property
    def seconds(self) -> float:
        return sum(phase.seconds for phase in self.phases)

    def settings(self) -> dict[str, Any]:
        """The chosen values that are not as given, under their dotted names."""
        return {key: after for change in self.changes for key, _, after in change.settings}


def make_plan(
    estimator: Estimator,
    config: Config,
    rate: Rate,
    limit: float | None = None,
    held: Collection[str] = (),
) -> Plan:
    """The plan for a card of `limit` bytes; held: dotted names of settings that stay as they are.

    It may not fit: then it is the one that comes nearest.
    """
    choice = Choice.of(config)
    wanted = phases = estimator.phases(choice, rate)
    if limit is None:
        return Plan(wanted, phases, choice, (), None)
    changes: list[Change] = []
    for sacrifice in SACRIFICES:
        if any(KEYS[field] in held for field in sacrifice.fields):
            continue
        before, start = phases, choice
        while _excess(phases, limit) > 0:
            following = sacrifice.next(choice)
            if following is None:
                break
            after = estimator.phases(following, rate)
            if _excess(after, limit) >= _excess(phases, limit):
                break
            choice, phases = following, after
        if choice != start:
            changes.append(_change(sacrifice, start, choice, before, phases))
    for field in _UNDONE:
        made = [change for change in changes if change.settings[0][0] == KEYS[field]]
        if made and _excess(phases, limit) == 0:
            without = replace(choice, **{field: made[0].settings[0][1]})
            after = estimator.phases(without, rate)
            if _excess(after, limit) == 0:
                choice, phases = without, after
                changes.remove(made[0])
    return Plan(wanted, phases, choice, tuple(changes), limit)


def _excess(phases: Sequence[Phase], limit: float) -> float:
    """Bytes beyond the limit, of all phases together."""
    return sum(max(0.0, phase.peak - limit) for phase in phases)


def _change(
    sacrifice: Sacrifice,
    start: Choice,
    choice: Choice,
    before: Sequence[Phase],
    after: Sequence[Phase],
) -> Change:
    settings = tuple(
        (KEYS[field], getattr(start, field), getattr(choice, field)) for field in sacrifice.fields
    )
    saved, phase = max(
        (old.peak - new.peak, new.name) for old, new in zip(before, after, strict=True)
    )
    return Change(sacrifice.text, settings, phase, saved)


def command(
    plan: Plan, model: str, method: str | None, presets: Sequence[str], given: Sequence[str]
) -> str:
    """The command line that trains with the plan; PHOTOS and dog stand for the user's own."""
    words = ["rpo", "train", "PHOTOS", "--noun", "dog", "--model", model]
    if method:
        words += ["--method", method]
    for preset in presets:
        words += ["--preset", preset]
    for setting in (*given, *(f"{key}={_text(value)}" for key, value in plan.settings().items())):
        words += ["--set", setting]
    return shlex.join(words)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
