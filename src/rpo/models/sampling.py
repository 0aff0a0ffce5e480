"""The only place that draws images: batched, seeded per image, with classifier-free guidance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor, nn

from rpo.config import FLOW_SOLVER
from rpo.errors import UserError
from rpo.models.backbone import Backbone
from rpo.models.conditions import Conditions
from rpo.models.noise import RectifiedFlow
from rpo.quiet import quiet

# All are deterministic given the first noise, so a picture is its seed's alone. What the model's
# own scheduler says of betas, prediction type, spacing and shift is kept; only this is overruled:
# a stochastic solver would draw from a shared generator, and clipping is for pixels, not latents.
SOLVERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "dpm++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),  # arXiv 2211.01095
    "ddim": (DDIMScheduler, {"clip_sample": False}),  # arXiv 2010.02502, eta = 0
}
# Flow-matching models have this one, whatever `sampling.scheduler` says: it is their own.
_FLOW = (FlowMatchEulerDiscreteScheduler, {"stochastic_sampling": False})  # arXiv 2403.03206


def solver_name(backbone: Backbone, name: str) -> str:
    """The solver that draws where `name` is asked for. UserError for an unknown name."""
    flow = isinstance(backbone.process, RectifiedFlow)
    if name not in SOLVERS and not (flow and name == FLOW_SOLVER):
        raise UserError(f"sampling.scheduler must be one of {', '.join(SOLVERS)}, not '{name}'")
    return FLOW_SOLVER if flow else name


def make_solver(backbone: Backbone, name: str) -> Any:
    """A fresh diffusers scheduler from the model's configuration. UserError for another name."""
    name = solver_name(backbone, name)
    family, overrides = _FLOW if name == FLOW_SOLVER else SOLVERS[name]
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
    conditions: Conditions,
    seeds: Sequence[int],
    *,
    steps: int,
    guidance_scale: float,
    batch_size: int = 8,
    scheduler: str = "dpm++",
    negative: Conditions | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Draw one picture for each prompt and seed; the batch size changes speed only.

    Args:
        conditions: N encoded prompts.
        seeds: N integers, one a picture.
        guidance_scale: classifier-free guidance (arXiv 2207.12598) as the model's own pipeline
            counts it: at the family's `unguided`, 1 for most, or less it is off; FLUX is told the
            scale instead, and FLUX.1-schnell does not read it.
        scheduler: a name in `SOLVERS`; flow-matching models have one solver and do not read it.
        negative: one encoded prompt to be guided away from; the model's unconditional by default.
        on_step: called with (solver steps done, solver steps in all).

    Returns:
        (N, C, h, w) latents on the backbone's device.

    Raises:
        UserError: unknown scheduler, a negative prompt for a model without classifier-free
            guidance, or the text encoder's or the denoiser's output is not finite.
    """
    if not seeds or len(seeds) != len(conditions):
        raise ValueError(f"{len(seeds)} seeds for {len(conditions)} prompts")
    solver, classifier_free = make_solver(backbone, scheduler), backbone.family.classifier_free
    if negative is not None and not classifier_free:
        raise UserError("this model has no classifier-free guidance; leave out the negative prompt")
    guided = classifier_free and guidance_scale > backbone.family.unguided
    if guided and negative is None:
        negative = backbone.unconditional()

    starts = range(0, len(seeds), batch_size)
    done, total, pictures = 0, steps * len(starts), []
    for start in starts:
        rows = slice(start, start + batch_size)
        drawing = _Drawing(
            backbone, denoiser, conditions[rows], negative if guided else None, guidance_scale
        )
        latents = drawing.begin(solver, steps, seeds[rows])
        for timestep in solver.timesteps:
            latents = drawing.advance(latents, timestep)
            done += 1
            if on_step:
                on_step(done, total)
        if not latents.isfinite().all():
            part, remedy = "denoiser", "lower training.learning_rate, or check the model's weights"
            if not all(told.is_finite() for told in (conditions, negative) if told is not None):
                part, remedy = "text encoder", "check the model's weights, or set precision=fp32"
            raise UserError(f"the {part} gives what is not finite (NaN); {remedy}")
        pictures.append(latents)
    return torch.cat(pictures)


def draw_with_gradient(
    backbone: Backbone,
    denoiser: nn.Module,
    conditions: Conditions,
    seeds: Sequence[int],
    *,
    steps: int,
    guidance_scale: float,
    scheduler: str = "dpm++",
    before_end: int = 1,
    depth: int = 1,
) -> Tensor:
    """(N, C, h, w) latents of N drawings, with the gradient of `depth` steps of the denoiser.

    As `sample` draws, but only until `before_end` steps from the end; the answer there gives x_0
    at once (ReFL, arXiv 2304.05977, section 3.2). The gradient goes through this answer and the
    depth - 1 before it, or as many as there are (with before_end = 1 DRaFT-K, arXiv 2309.17400),
    and in each through the guided answer, its unconditional half detached. ValueError unless
    1 <= before_end <= steps.
    """
    if not 1 <= before_end <= steps:
        raise ValueError(f"before_end must be in 1 .. {steps}, not {before_end}")
    guided = backbone.family.classifier_free and guidance_scale > backbone.family.unguided
    negative = backbone.unconditional() if guided else None
    solver = make_solver(backbone, scheduler)
    drawing = _Drawing(backbone, denoiser, conditions, negative, guidance_scale)
    with torch.no_grad():
        latents = drawing.begin(solver, steps, seeds)
        *earlier, last = solver.timesteps[: len(solver.timesteps) + 1 - before_end]
        without = max(0, len(earlier) + 1 - depth)
        for timestep in earlier[:without]:
            latents = drawing.advance(latents, timestep)
    for timestep in earlier[without:]:
        latents = drawing.advance(latents, timestep, learns=True)
    answer = drawing.answer(latents, last, learns=True)
    return backbone.process.clean(latents, answer, last.expand(len(latents)))


@dataclass
class _Drawing:
    """One batch under way; negative: what guidance goes away from, None where there is none."""

    backbone: Backbone
    denoiser: nn.Module
    context: Conditions
    negative: Conditions | None
    guidance_scale: float
    solver: Any = field(init=False)
    both: Conditions = field(init=False)

    def begin(self, solver: Any, steps: int, seeds: Sequence[int]) -> Tensor:
        """The first noise, (N, C, h, w); the solver starts anew."""
        self.solver, backbone = solver, self.backbone
        if self.negative is not None:
            self.negative = self.negative.expand(len(seeds))
            self.both = Conditions.cat([self.negative, self.context])
        with quiet():  # also forgets the last batch
            backbone.family.set_timesteps(solver, steps, backbone.image_tokens, backbone.device)
        # All of these solvers start from unit noise and show the denoiser their latents unscaled.
        return initial_noise(backbone.latent_shape, seeds).to(backbone.device)

    def advance(self, latents: Tensor, timestep: Tensor, learns: bool = False) -> Tensor:
        """The latents after one more solver step."""
        answer = self.answer(latents, timestep, learns)
        return self.solver.step(answer, timestep, latents, return_dict=False)[0]

    def answer(self, latents: Tensor, timestep: Tensor, learns: bool = False) -> Tensor:
        """The guided prediction; where it learns, the unconditional half is computed apart."""
        predict, scale = self.backbone.predict, self.guidance_scale
        if self.negative is None:
            return predict(self.denoiser, latents, timestep, self.context, scale)
        if learns:
            with torch.no_grad():
                without = predict(self.denoiser, latents, timestep, self.negative, scale)
            with_prompt = predict(self.denoiser, latents, timestep, self.context, scale)
        else:
            twice = torch.cat([latents, latents])
            answers = predict(self.denoiser, twice, timestep, self.both, scale)
            without, with_prompt = answers.chunk(2)
        weight = scale + (1 - self.backbone.family.unguided)  # 1: the prompt alone
        return torch.lerp(without, with_prompt, weight)


def to_uint8(images: Tensor) -> Tensor:
    """(N, 3, H, W) in [0, 1] -> the same in 0..255, uint8, on the CPU."""
    return images.mul(255).round().to("cpu", torch.uint8)
