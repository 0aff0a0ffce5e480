"""What an adapter that learned on a quantised base draws on the base model as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rpo.data.prompts import Prompt
from rpo.errors import UserError
from rpo.events import Event, Notice, Redrawn
from rpo.runs.meter import naming_exhausted_memory
from rpo.runs.result import Run

if TYPE_CHECKING:
    from rpo.rewards.alignment import AlignmentReward


def redraw(run: Run, prompts: Sequence[Prompt], reward: AlignmentReward) -> Iterator[Event]:
    """The validation once more with the chosen weights: its progress, then `Redrawn`.

    run: one that draws unquantised. Where the base model is too large as it is, a Notice says so.
    """
    from rpo.training.validation import Validator

    try:
        with naming_exhausted_memory():
            learner = run.learner_for([prompt.conditioning for prompt in prompts])
            validator = Validator(learner.backbone, reward, prompts, run.config)
            scores, images = yield from validator.run(learner)
    except UserError as error:
        reason = str(error).partition("; ")[0]
        yield Notice(
            f"the report does not show the base model's own weights: {reason}; on a larger machine "
            "rpo generate --unquantised draws with them"
        )
        return
    settings = run.config.reward
    value = scores.combine(settings.lambda_val, settings.mean).mean().item()
    yield Redrawn(run.best_step or 0, value, images, validator.prompts)
