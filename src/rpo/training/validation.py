"""How good the weights are now: the validation prompts drawn, and their reward."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from torch import Tensor, nn

from rpo.config import Config
from rpo.data.prompts import Prompt
from rpo.events import Notice, Progress
from rpo.models.backbone import Backbone
from rpo.models.pictures import draw_pictures
from rpo.models.sampling import to_uint8
from rpo.rewards.alignment import AlignmentReward
from rpo.rewards.harmonic import Scores
from rpo.seeds import derive_seed


class Validator:
    """Judges a denoiser on the same prompts and first noises every time."""

    def __init__(
        self, backbone: Backbone, reward: AlignmentReward, prompts: Sequence[Prompt], config: Config
    ) -> None:
        self.backbone, self.reward, self.settings = backbone, reward, config.validation
        drawn = [p for p in prompts for _ in range(self.settings.images_per_prompt)]
        self.prompts = tuple(prompt.conditioning for prompt in drawn)
        self.plain = [prompt.plain for prompt in drawn]
        self.seeds = [derive_seed(config.seed, "validation", index) for index in range(len(drawn))]
        self.conditions = backbone.encode_prompts(self.prompts)

    def run(self, denoiser: nn.Module) -> Generator[Progress | Notice, None, tuple[Scores, Tensor]]:
        """Yields its progress and returns (Scores, (N, 3, H, W) uint8 pictures on the CPU)."""
        _, pictures = yield from draw_pictures(
            self.backbone, denoiser, self.conditions, self.seeds, self.settings, "validation"
        )
        return self.reward.score(pictures, self.plain), to_uint8(pictures)

    def __call__(self, denoiser: nn.Module) -> tuple[Scores, Tensor]:
        """(Scores, (N, 3, H, W) uint8 pictures on the CPU)."""
        progress = self.run(denoiser)
        while True:
            try:
                next(progress)
            except StopIteration as end:
                return end.value
