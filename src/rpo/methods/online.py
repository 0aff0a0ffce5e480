"""Online RPO: the reward teaches while the model learns.

    L = L_sim + α L_pref - w E[r_λ(x_θ, c)]

The paper's first wish (arXiv 2407.12164, section 6): x_θ are the present model's own drawings of
the training prompts, and the λ-harmonic reward's gradient goes back through the encoder, the
decoder and `online.depth` late steps of the drawing (ReFL, arXiv 2304.05977, section 3.2; DRaFT,
2309.17400; AlignProp, 2310.03739). L_sim, the few rewarded steps, and random shifts and mirrors of
what the reward model sees hold back reward hacking; the best step is still chosen on held-out
prompts. A departure from the paper: see docs/differences.md.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rpo.errors import UserError
from rpo.events import Event
from rpo.learners.learner import Learner
from rpo.methods.method import Method, Task, Terms
from rpo.methods.rpo import RPO
from rpo.methods.similarity import Similarity
from rpo.models.rows import Rows
from rpo.models.sampling import draw_with_gradient
from rpo.models.tiny_decoder import TinyDecoder, load_tiny_decoder, refuse_unlike
from rpo.seeds import derive_seed, make_generator


@dataclass(frozen=True)
class Rewarded(Rows):
    """A step's batch and the P drawings that it rewards; none in most steps.

    Attributes:
        rest: what the other losses see.
        prompts: (P,) indices of training prompts.
        seeds: (P,) of the first noises.
        before_end: (P,) solver steps from the end, equal within a batch.
        shifts: (P, 2) pixels down and right; mirrored: (P,) 1 where the picture is.
    """

    rest: Rows
    prompts: Tensor
    seeds: Tensor
    before_end: Tensor
    shifts: Tensor
    mirrored: Tensor


class Online(Method):
    """L_sim, L_pref where `training.preference_weight` is above 0, and the reward of drawings."""

    heeds_photos = True

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        if not hasattr(task.reward, "score_pixels"):
            raise UserError(
                f"method online: the reward {type(task.reward).__name__} has no gradient; "
                "use method rpo, or a reward with score_pixels"
            )
        prefers = self.config.training.preference_weight > 0
        self.rest: Method = RPO(task) if prefers else Similarity(task)
        self.Data = self.rest.Data  # type: ignore[misc]
        self.tiny: TinyDecoder | None = None
        if (name := self.config.online.decoder) != "own":
            if name == "tiny":
                name = self.backbone.family.tiny_decoder
            self.tiny = load_tiny_decoder(name, self.backbone)
            refuse_unlike(self.tiny, self.backbone, self.encode_photos(), name)
        self.told = self.backbone.encode_prompts([prompt.conditioning for prompt in task.prompts])

    def prepare(self) -> Generator[Event, None, Any]:
        return (yield from self.rest.prepare())

    def batch(self, data: Any, step: int) -> Rewarded:
        settings, training = self.config.online, self.config.training
        due = step >= settings.start and (step - settings.start) % settings.every == 0
        size = settings.pictures * training.accumulate if due and settings.weight else 0
        generator = make_generator(self.config.seed, "online", step)
        prompts = torch.randint(len(self.task.prompts), (size,), generator=generator)
        seeds = [derive_seed(self.config.seed, "online picture", step, k) for k in range(size)]
        late = min(settings.late, settings.steps)
        ends = torch.randint(1, late + 1, (training.accumulate,), generator=generator)
        reach = round(settings.shift * self.backbone.resolution)
        shifts = torch.randint(-reach, reach + 1, (size, 2), generator=generator)
        return Rewarded(
            self.rest.batch(data, step),
            prompts,
            torch.tensor(seeds, dtype=torch.long),
            ends.repeat_interleave(size // training.accumulate),
            shifts,
            torch.randint(2, (size,), generator=generator),
        )

    def loss(self, learner: Learner, data: Any, batch: Rewarded) -> Terms:
        found = self.rest.loss(learner, data, batch.rest)
        if not len(batch.prompts):
            return found
        reward = self.reward(learner, batch)
        loss = found.loss - self.config.online.weight * reward
        return Terms(loss, {**found.figures, "drawing_reward": reward.detach()})

    def draw(
        self, learner: Learner, rows: list[int], seeds: list[int], before_end: int = 1
    ) -> Tensor:
        """(P, C, h, w) latents of the present model's drawings of these training prompts."""
        settings, drawing = self.config.online, self.config.validation
        return draw_with_gradient(
            self.backbone,
            learner.denoiser,
            self.told[rows],
            seeds,
            steps=settings.steps,
            guidance_scale=drawing.guidance_scale,
            scheduler=drawing.scheduler,
            before_end=before_end,
            depth=settings.depth,
        )

    def reward(self, learner: Learner, batch: Rewarded) -> Tensor:
        """Mean r_λ of the batch's drawings by the present model, a scalar with gradient."""
        settings, rows = self.config.online, batch.prompts.tolist()
        before_end = int(batch.before_end[0])
        latents = self.draw(learner, rows, batch.seeds.tolist(), before_end)
        pictures = self.backbone.decode_with_gradient(
            latents, self.config.training.checkpointing, self.tiny
        )
        seen = moved(pictures, batch.shifts, batch.mirrored)
        scores = self.task.reward.score_pixels(seen, [self.task.prompts[k].plain for k in rows])
        return scores.combine(settings.lambda_online, self.config.reward.mean).mean()


def moved(pictures: Tensor, shifts: Tensor, mirrored: Tensor) -> Tensor:
    """(N, 3, H, W) pictures, each shifted by its (down, right) pixels and mirrored where it says 1.

    What comes in at an edge repeats the outermost row or column.
    """
    reach = int(shifts.abs().max())
    height, width = pictures.shape[-2:]
    padded = F.pad(pictures, (reach, reach, reach, reach), mode="replicate")
    views = []
    for picture, (down, right), mirror in zip(
        padded, shifts.tolist(), mirrored.tolist(), strict=True
    ):
        top, left = reach - down, reach - right
        view = picture[:, top : top + height, left : left + width]
        views.append(view.flip(-1) if mirror else view)
    return torch.stack(views)
