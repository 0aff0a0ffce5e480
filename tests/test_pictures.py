"""Batches of pictures, and what happens where one is too large for the memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import tiny_backbone

from rpo.config import SamplingConfig
from rpo.events import Notice, Progress
from rpo.models import pictures
from rpo.models.sampling import sample

PROMPTS = [f"a [V] dog {k}" for k in range(7)]


def drawn(batch_size: int) -> tuple[list[Any], tuple[torch.Tensor, torch.Tensor]]:
    backbone = tiny_backbone()
    events, work = (
        [],
        pictures.draw_pictures(
            backbone,
            backbone.denoiser,
            backbone.encode_prompts(PROMPTS),
            list(range(7)),
            SamplingConfig(steps=2, guidance_scale=2, batch_size=batch_size),
            "sampling",
        ),
    )
    while True:
        try:
            events.append(next(work))
        except StopIteration as end:
            return events, end.value


def test_progress_and_pictures() -> None:
    events, (latents, images) = drawn(3)
    assert events == [Progress("sampling", k, 7) for k in (0, 3, 6, 7)]
    assert latents.shape == (7, 4, 8, 8)
    assert images.shape == (7, 3, 16, 16)


def test_a_batch_that_does_not_fit_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    _, (expected, _) = drawn(7)
    sizes = []

    def small_device(backbone: Any, denoiser: Any, conditions: Any, seeds: Any, **how: Any) -> Any:
        sizes.append(len(seeds))
        if len(seeds) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return sample(backbone, denoiser, conditions, seeds, **how)

    monkeypatch.setattr(pictures, "sample", small_device)
    events, (latents, _) = drawn(100)
    assert sizes == [7, 4, 2, 2, 2, 1]
    torch.testing.assert_close(latents, expected, rtol=0, atol=1e-5)
    notices = [event.message for event in events if isinstance(event, Notice)]
    assert [text.split("drawing ")[1][:1] for text in notices] == ["4", "2"]
    assert "sampling.batch_size=2 would begin so" in notices[-1]


def test_a_single_picture_that_does_not_fit_is_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(pictures, "sample", full)
    with pytest.raises(torch.OutOfMemoryError):
        drawn(4)
