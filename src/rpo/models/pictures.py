"""Many pictures, in batches that fit into the device's memory."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from rpo.config import SamplingConfig, ValidationConfig
from rpo.errors import UserError
from rpo.events import Notice, Progress
from rpo.models.backbone import Backbone
from rpo.models.conditions import Conditions
from rpo.models.sampling import sample


def draw_pictures(
    backbone: Backbone,
    denoiser: nn.Module,
    conditions: Conditions,
    seeds: Sequence[int],
    settings: SamplingConfig | ValidationConfig,
    phase: Literal["sampling", "validation"],
    decode: bool = True,
    negative: Conditions | None = None,
) -> Generator[Progress | Notice, None, tuple[Tensor, Tensor]]:
    """Yields its progress and returns latents (N, C, h, w) and (N, 3, H, W) in [0, 1] on the CPU.

    Without `decode` the latents are all, and the pictures are (0,). negative: as of `sample`.
    Where a batch exhausts the memory, it and all that follow are drawn in halves: the batch size
    changes no picture. Raises torch.OutOfMemoryError where a single picture does, and UserError
    where one is not finite.
    """
    latents, pictures = [], []
    size, done, total = settings.batch_size, 0, len(seeds)
    while done < total:
        yield Progress(phase, done, total)
        rows = slice(done, min(done + size, total))
        try:
            drawn = sample(
                backbone,
                denoiser,
                conditions[rows],
                seeds[rows],
                steps=settings.steps,
                guidance_scale=settings.guidance_scale,
                batch_size=size,
                scheduler=settings.scheduler,
                negative=negative,
            )
            if decode:
                pictures.append(backbone.decode(drawn, size).cpu())
        except UserError as error:
            raise UserError(f"{phase}: {error}") from error
        except torch.OutOfMemoryError:
            if size == 1:
                raise
        else:
            latents.append(drawn)
            done = rows.stop
            continue
        # Not in the handler: while it runs, the error's traceback holds the batch's tensors.
        size = min(size, rows.stop - done)
        size -= size // 2
        torch.cuda.empty_cache()
        yield Notice(
            f"the memory of {backbone.device} is exhausted: drawing {size} at once from here on; "
            f"{phase}.batch_size={size} would begin so"
        )
    yield Progress(phase, total, total)
    return torch.cat(latents), torch.cat(pictures) if decode else torch.empty(0)
