"""What of a training reaches the run folder: the best pipeline, and what --resume goes on from."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from rpo.events import Validated
from rpo.models.sampling import solver_name
from rpo.runs.background import Background
from rpo.runs.folder import RunFolder
from rpo.runs.result import drawing

if TYPE_CHECKING:
    from rpo.training.loop import Trainer

# Moments and weights of Stable Diffusion are 10 GB. Between two checkpoints lies at least a minute,
# and nine times what the last one took: so little is lost when a machine stops without a word.
CHECKPOINT_SECONDS = 60.0


class Keeper:
    """Saves for one trainer. best/ is written in the background, from a copy of what learns."""

    def __init__(self, folder: RunFolder, trainer: Trainer) -> None:
        self.folder, self.trainer = folder, trainer
        self._background = Background()
        self._due = time.monotonic() + CHECKPOINT_SECONDS

    def keep_best(self, event: Validated) -> None:
        """Replaces best/ by the model as it is now. Raises what went wrong with the one before."""
        self.keep(event.step, event.reward)

    def keep(self, step: int, reward: float) -> None:
        """As `keep_best`, of that step and its reward."""
        self.wait()  # before there is a second copy
        with self.trainer.averaged():
            write = self.trainer.learner.snapshot()
        self._background.start(partial(self.folder.save_best, write, self._card(step, reward)))

    def checkpoint_if_due(self) -> None:
        """Replaces last/, but not too often."""
        if time.monotonic() >= self._due:
            self.checkpoint()

    def checkpoint(self, finished: bool = False) -> None:
        """Replaces last/ now. best/ is never behind it."""
        self.wait()
        trainer, start = self.trainer, time.monotonic()
        summary = {
            "step": trainer.step,
            "best_step": trainer.stopping.best_step,
            "best_reward": trainer.stopping.best_reward,
            "goal": [trainer.config.training.steps, trainer.config.validation.patience],
            "finished": finished,
        }
        self.folder.save_last(trainer.state_dict(), summary)
        end = time.monotonic()
        self._due = end + max(CHECKPOINT_SECONDS, 9 * (end - start))

    def wait(self) -> None:
        """Returns when best/ is complete. Raises what went wrong with it."""
        self._background.wait()

    def _card(self, step: int, reward: float) -> dict[str, Any]:
        """How to draw with best/ in other software."""
        config = self.trainer.config
        return {
            "step": step,
            "subject": f"{config.identifier} {config.noun}",
            "reward": reward,
            **drawing(config),
            "scheduler": solver_name(self.trainer.backbone, config.sampling.scheduler),
            "base_model": config.model,
        }
