"""The base model as a row: it draws the test prompts with the plain noun, "a dog on the beach"."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch

from rpo.config import Config
from rpo.evaluation.drawn import Drawn
from rpo.evaluation.dreambench import NumberedPrompt, Reference
from rpo.models.backbone import Backbone
from rpo.models.resolve import resolve_model
from rpo.models.sampling import sample
from rpo.runs.meter import naming_exhausted_memory
from rpo.runs.pictures import as_pictures
from rpo.seeds import derive_seed


def open_base(config: Config) -> tuple[Config, Backbone]:
    """The model that the settings name; a worker loads it once."""
    model = _loaded(
        config.model,
        config.device,
        config.resolution,
        config.precision,
        config.quantize,
        config.offload,
    )
    return config, model


@lru_cache(1)
def _loaded(
    model: str, device: str, resolution: int, precision: str, quantize: str, offload: bool
) -> Backbone:
    how = {"precision": precision, "quantize": quantize, "offload": offload}
    return Backbone.load(resolve_model(model), device, resolution, **how)


def draw_base(
    base: tuple[Config, Backbone],
    subject: Reference,
    prompts: Sequence[NumberedPrompt],
    images_per_prompt: int,
    on_step: Callable[[int, int], None] | None = None,
) -> Drawn:
    """The pictures begin from the same noises as those of `draw_run` by the same seed."""
    config, backbone = base
    listed = [prompt for prompt in prompts for _ in range(images_per_prompt)]
    texts = [prompt.plain(subject.noun) for prompt in listed]
    with naming_exhausted_memory(), torch.no_grad():
        if config.offload:  # before the denoiser is there
            backbone.remember_prompts(list(dict.fromkeys(texts)))
        latents = sample(
            backbone,
            backbone.denoiser,
            backbone.encode_prompts(texts),
            [derive_seed(config.seed, "test", k) for k in range(len(listed))],
            steps=config.sampling.steps,
            guidance_scale=config.sampling.guidance_scale,
            batch_size=config.sampling.batch_size,
            scheduler=config.sampling.scheduler,
            on_step=on_step,
        )
        pictures = as_pictures(backbone.decode(latents, config.sampling.batch_size))
    numbers = [k % images_per_prompt + 1 for k in range(len(listed))]
    return Drawn(subject, tuple(pictures), tuple(listed), tuple(numbers))
