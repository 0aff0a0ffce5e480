"""The only place that draws images: batched, seeded per image, with classifier-free guidance."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from torch import Tensor, nn

from rpo.backbone import Backbone, quiet
from rpo.errors import UserError

# Both are deterministic given the first noise, so a picture is its seed's alone. What the model's
# own scheduler says of betas, prediction type and spacing is kept; only this is overruled:
# a stochastic solver would draw from a shared generator, and clipping is for pixels, not latents.
SOLVERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "dpm++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),  # arXiv 2211.01095
    "ddim": (DDIMScheduler, {"clip_sample": False}),  # arXiv 2010.02502, eta = 0
}


def derive_seed(seed: int, *stream: str | int) -> int:
    """A 63-bit seed for one use of randomness; unrelated for every (seed, stream)."""
    digest = hashlib.blake2b(repr((seed, *stream)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def make_generator(seed: int, *stream: str | int) -> torch.Generator:
    """A CPU generator of that stream: the same numbers whatever the device."""
    return torch.Generator().manual_seed(derive_seed(seed, *stream))


def make_solver(backbone: Backbone, name: str) -> Any:
    """A fresh diffusers scheduler from the model's configuration. UserError for another name."""
    if name not in SOLVERS:
        raise UserError(f"sampling.scheduler must be one of {', '.join(SOLVERS)}, not '{name}'")
    family, overrides = SOLVERS[name]
    with quiet():
        return family.from_config(backbone.scheduler.config, **overrides)


def initial_noise(shape: tuple[int, ...], seeds: Sequence[int]) -> Tensor:
    """(N, *shape) standard normal on the CPU; row k depends on seeds[k] alone."""
    return torch.stack(
        [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )


@torch.no_grad()
def sample(
    backbone: Backbone,
    denoiser: nn.Module,
    embeddings: Tensor,
    seeds: Sequence[int],
    *,
    steps: int,
    guidance_scale: float,
    batch_size: int = 8,
    scheduler: str = "dpm++",
    negative: Tensor | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Draw one picture for each embedding and seed; the batch size changes speed only.

    Args:
        embeddings: (N, L, D) prompts' embeddings.
        seeds: N integers, one a picture.
        guidance_scale: classifier-free guidance (arXiv 2207.12598); at 1 or less it is off.
        negative: (1, L, D), the embedding to be guided away from; the empty prompt's by default.
        on_step: called with (solver steps done, solver steps in all).

    Returns:
        (N, C, h, w) latents on the backbone's device.

    Raises:
        UserError: unknown scheduler, or the denoiser's output is not finite.
    """
    if not seeds or len(seeds) != len(embeddings):
        raise ValueError(f"{len(seeds)} seeds for {len(embeddings)} embeddings")
    solver = make_solver(backbone, scheduler)
    guided = guidance_scale > 1
    if guided and negative is None:
        negative = backbone.encode_prompts([""])

    starts = range(0, len(seeds), batch_size)
    done, total, pictures = 0, steps * len(starts), []
    for start in starts:
        context = embeddings[start : start + batch_size]
        noise = initial_noise(backbone.latent_shape, seeds[start : start + batch_size])
        if guided:
            context = torch.cat([negative.expand_as(context), context])  # type: ignore[union-attr]
        with quiet():
            solver.set_timesteps(steps, device=backbone.device)  # also forgets the last batch
        latents = noise.to(backbone.device) * solver.init_noise_sigma
        for timestep in solver.timesteps:
            inputs = solver.scale_model_input(latents, timestep)
            prediction = denoiser(
                torch.cat([inputs, inputs]) if guided else inputs,
                timestep,
                encoder_hidden_states=context,
                return_dict=False,
            )[0]
            if guided:
                without, with_prompt = prediction.chunk(2)
                prediction = torch.lerp(without, with_prompt, guidance_scale)
            latents = solver.step(prediction, timestep, latents, return_dict=False)[0]
            done += 1
            if on_step:
                on_step(done, total)
        if not latents.isfinite().all():
            raise UserError(
                "the model draws pictures that are not finite (NaN); "
                "lower training.learning_rate, or check the model's weights"
            )
        pictures.append(latents)
    return torch.cat(pictures)


def to_uint8(images: Tensor) -> Tensor:
    """(N, 3, H, W) in [0, 1] -> the same in 0..255, uint8, on the CPU."""
    return images.mul(255).round().to("cpu", torch.uint8)
