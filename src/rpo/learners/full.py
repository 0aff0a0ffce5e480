"""The whole denoiser learns, as in the paper."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import nn

from rpo.learners.learner import Learner
from rpo.learners.sharing import snapshot_of


class Full(Learner):
    """A copy of the base denoiser; what it saves is a whole pipeline."""

    whole = True

    def build(self) -> nn.Module:
        return self.backbone.trainable_copy()

    def snapshot(self) -> Callable[[Path], None]:
        return partial(self.backbone.save, snapshot_of(self.denoiser))

    def load(self, folder: Path) -> nn.Module:
        """The backbone's: the pipeline in `folder` was loaded in the base model's place."""
        return self.backbone.denoiser
