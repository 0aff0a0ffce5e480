"""How a latent turns into noise, and what a denoiser should say: two processes, pure functions.

Both offer the same: `prediction_type`, `draw_timesteps`, `add_noise`, `target`, `clean` and `to`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor


@dataclass(frozen=True)
class VariancePreserving:
    """Diffusion in discrete steps (DDPM, arXiv 2006.11239): Stable Diffusion 1.x, 2.x, XL.

    Attributes:
        signal_power: (T,) cumulative signal power, alpha-bar_t, on the model's device.
        prediction_type: "epsilon" or "v_prediction".
    """

    signal_power: Tensor
    prediction_type: str

    PREDICTION_TYPES: ClassVar[tuple[str, ...]] = ("epsilon", "v_prediction")

    def to(self, device: torch.device) -> VariancePreserving:
        """The same on another device."""
        return replace(self, signal_power=self.signal_power.to(device))

    def draw_timesteps(self, size: int, generator: torch.Generator) -> Tensor:
        """(size,) integers, uniform over all T steps, as these models were trained."""
        return torch.randint(len(self.signal_power), (size,), generator=generator)

    def _signal_and_noise(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        power = self.signal_power[timesteps].view(-1, 1, 1, 1)
        return power.sqrt(), (1 - power).sqrt()

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps; (B, C, h, w), timesteps (B,) integers."""
        signal, sigma = self._signal_and_noise(timesteps)
        return signal * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """eps, or v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0; (B, C, h, w).

        v-prediction: arXiv 2202.00512, section 4.
        """
        if self.prediction_type == "epsilon":
            return noise
        signal, sigma = self._signal_and_noise(timesteps)
        return signal * noise - sigma * latents

    def clean(self, noisy: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
        """The x_0 that a prediction at x_t amounts to; (B, C, h, w), timesteps (B,) integers.

        (x_t - sqrt(1 - abar) eps) / sqrt(abar), or sqrt(abar) x_t - sqrt(1 - abar) v.
        """
        signal, sigma = self._signal_and_noise(timesteps.long())
        if self.prediction_type == "epsilon":
            return (noisy - sigma * prediction) / signal
        return signal * noisy - sigma * prediction


@dataclass(frozen=True)
class RectifiedFlow:
    """Straight lines from picture to noise (arXiv 2209.03003): Stable Diffusion 3 and FLUX.

    Attributes:
        location: mean of logit(sigma) in training; the scale is 1.
        steps: the timestep of pure noise; a timestep is sigma * steps, and need not be an integer.
    """

    location: float
    steps: int = 1000

    prediction_type: ClassVar[str] = "flow_prediction"

    def to(self, device: torch.device) -> RectifiedFlow:
        """Itself: it holds no tensor."""
        return self

    def draw_timesteps(self, size: int, generator: torch.Generator) -> Tensor:
        """(size,) real numbers in (0, steps), logit-normal: sigma = sigmoid(location + z).

        z is standard normal, as published for Stable Diffusion 3 (arXiv 2403.03206, section 3.1)
        and for FLUX.1 Kontext, which continues FLUX.1 (arXiv 2506.15742). A shift s of the schedule
        is a location of ln s: s u / (1 + (s - 1) u) = sigmoid(logit u + ln s).
        """
        draws = torch.randn(size, generator=generator)
        return torch.sigmoid(self.location + draws) * self.steps

    def _sigma(self, timesteps: Tensor) -> Tensor:
        return (timesteps / self.steps).view(-1, 1, 1, 1)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t = (1 - sigma) x_0 + sigma eps; (B, C, h, w), timesteps (B,) = sigma * steps."""
        sigma = self._sigma(timesteps)
        return (1 - sigma) * latents + sigma * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The velocity d x_t / d sigma = eps - x_0; (B, C, h, w)."""
        return noise - latents

    def clean(self, noisy: Tensor, prediction: Tensor, timesteps: Tensor) -> Tensor:
        """The x_0 that a velocity at x_t amounts to, x_t - sigma v; (B, C, h, w)."""
        return noisy - self._sigma(timesteps) * prediction


NoiseProcess: TypeAlias = VariancePreserving | RectifiedFlow


def dynamic_shift(config: Mapping[str, Any], image_tokens: int) -> float:
    """mu of a flow scheduler whose shift grows with the picture: linear in its number of tokens.

    config: of diffusers' FlowMatchEulerDiscreteScheduler.
    """
    few, many = config["base_image_seq_len"], config["max_image_seq_len"]
    low, high = config["base_shift"], config["max_shift"]
    return low + (high - low) * (image_tokens - few) / (many - few)


def flow_location(config: Mapping[str, Any], image_tokens: int) -> float:
    """The mean of logit(sigma) that a flow scheduler's shift amounts to.

    config: of diffusers' FlowMatchEulerDiscreteScheduler. A fixed shift s gives ln s, a dynamic
    one mu itself ("exponential") or ln mu ("linear").
    """
    if not config["use_dynamic_shifting"]:
        return math.log(config["shift"])
    mu = dynamic_shift(config, image_tokens)
    return mu if config["time_shift_type"] == "exponential" else math.log(mu)
