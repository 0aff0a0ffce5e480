"""How good the weights are now: the validation prompts drawn, and their reward."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from rpo.config import Config
from rpo.data.prompts import Prompt
from rpo.events import Notice, Progress
from rpo.learners.learner import Learner
from rpo.models.backbone import Backbone
from rpo.models.conditions import Conditions
from rpo.models.pictures import draw_pictures
from rpo.models.sampling import to_uint8
from rpo.rewards.alignment import AlignmentReward
from rpo.rewards.harmonic import Scores
from rpo.seeds import derive_seed

Judge: TypeAlias = Callable[[Tensor, Sequence[str]], float]
"""(N, 3, H, W) uint8 pictures and their N prompts without the identifier, to one figure."""


class Validator:
    """Judges a learner on the same prompts and first noises every time."""

    def __init__(
        self,
        backbone: Backbone,
        reward: AlignmentReward,
        prompts: Sequence[Prompt],
        config: Config,
        judges: Mapping[str, Judge] | None = None,
    ) -> None:
        """judges: what else is measured of the pictures; none of it chooses a step."""
        self.backbone, self.reward, self.settings = backbone, reward, config.validation
        self.judges = judges or {}
        drawn = [p for p in prompts for _ in range(self.settings.images_per_prompt)]
        self.prompts = tuple(prompt.conditioning for prompt in drawn)
        self.plain = [prompt.plain for prompt in drawn]
        self.seeds = [derive_seed(config.seed, "validation", index) for index in range(len(drawn))]
        self._encoded: Conditions | None = None

    def _conditions(self, learner: Learner) -> Conditions:
        """The prompts as the learner tells them; encoded once, unless it is they that learn."""
        if learner.learns_text:
            with torch.no_grad():
                return learner.encode(self.prompts)
        if self._encoded is None:
            self._encoded = learner.encode(self.prompts)
        return self._encoded

    def run(self, learner: Learner) -> Generator[Progress | Notice, None, tuple[Scores, Tensor]]:
        """Yields its progress and returns (Scores, (N, 3, H, W) uint8 pictures on the CPU)."""
        _, pictures = yield from draw_pictures(
            self.backbone,
            learner.denoiser,
            self._conditions(learner),
            self.seeds,
            self.settings,
            "validation",
        )
        return self.reward.score(pictures, self.plain), to_uint8(pictures)

    def figures(self, pictures: Tensor) -> dict[str, float]:
        """What the judges say of (N, 3, H, W) uint8 pictures."""
        return {name: float(judge(pictures, self.plain)) for name, judge in self.judges.items()}

    def __call__(self, learner: Learner) -> tuple[Scores, Tensor]:
        """(Scores, (N, 3, H, W) uint8 pictures on the CPU)."""
        progress = self.run(learner)
        while True:
            try:
                next(progress)
            except StopIteration as end:
                return end.value
