"""What is counted of an architecture's networks: numbers of weights, and footprints of calls.

All of it follows from the shapes of the networks and of what they are given. So each count is named
by these, and what `rpo.planning.recorded` has under its name is not counted again; counting builds
the networks on the meta device, and takes seconds.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rpo.config import LoraConfig, Passes
from rpo.models.computing import FLOATS
from rpo.models.conditions import Conditions
from rpo.planning.architectures import Architecture, Part
from rpo.planning.footprint import Footprint, footprint, module_bytes, parameter_count, recomputing


@dataclass(frozen=True)
class TrainedWeights:
    """What learns of the denoiser: "full" is all; "lora" and "dora" have a rank and layers."""

    weights: str = "full"
    rank: int = 16
    targets: str = "auto"

    def __str__(self) -> str:
        full = self.weights == "full"
        return self.weights if full else f"{self.weights} {self.rank} {self.targets}"


class Counter:
    """Counts of one architecture at one size of latents, each made once.

    known: counts by their names, as `counted` has them afterwards; they are not made again.
    """

    def __init__(
        self,
        architecture: Architecture,
        latent_shape: tuple[int, int, int],
        known: Mapping[str, Any] | None = None,
    ) -> None:
        self.shape, self.latent_shape = architecture, latent_shape
        self.picture = (3, *(side * architecture.factor for side in latent_shape[1:]))
        self.counted: dict[str, Any] = {}
        self._known = known or {}
        self._built = cache(Part.build)
        self._trained = cache(self._build_learner)

    def _once(self, part: Part, name: str, count: Callable[[], Any]) -> Any:
        """A number, list or mapping as JSON has it; `part` and `name` say all it depends on."""
        key = f"{part.fingerprint} {name}"
        if key not in self.counted:
            self.counted[key] = self._known[key] if key in self._known else count()
        return self.counted[key]

    def _footprint(self, part: Part, name: str, measure: Callable[[], Footprint]) -> Footprint:
        def count() -> list[Any]:
            found = measure()
            return [found.flops, [list(moment) for moment in found.moments]]

        flops, moments = self._once(part, name, count)
        return Footprint(tuple((fixed, growing) for fixed, growing in moments), flops)

    # --- weights -------------------------------------------------------------------------

    def _single(self, part: Part) -> Any:
        return self._built(part, torch.float32)

    def parameters(self, part: Part) -> int:
        """All of a network's."""
        return self._once(part, "parameters", lambda: parameter_count(self._single(part)))

    def bytes(self, part: Part, element: int) -> int:
        """Of parameters and floating-point buffers, at so many bytes each."""
        return element * self._once(part, "elements", lambda: module_bytes(self._single(part), 1))

    def saved(self, quantize: str, element: int) -> int:
        """Bytes that quantising the denoiser saves where weights take `element` bytes each."""
        if quantize == "no":
            return 0
        part = self.shape.denoiser

        def count() -> int:
            from rpo.models.quantization import saved_bytes

            return saved_bytes(self._single(part), quantize, element)

        return self._once(part, f"saved {quantize} {element}", count)

    def learning(self, learner: TrainedWeights) -> list[tuple[int, int]]:
        """(numbers in a tensor that learns, how many such tensors there are).

        Raises UserError for targets that no layer has.
        """

        def count() -> list[list[int]]:
            parameters = self._trained(learner, "fp32").parameters()
            sizes = Tally(p.numel() for p in parameters if p.requires_grad)
            return [list(pair) for pair in sorted(sizes.items())]

        found = self._once(self.shape.denoiser, f"learning {learner}", count)
        return [(numbers, tensors) for numbers, tensors in found]

    def _build_learner(self, learner: TrainedWeights, precision: str) -> nn.Module:
        if learner.weights == "full":
            return self.shape.denoiser.build().requires_grad_(True)
        from rpo.learners.lora import adapted

        settings = LoraConfig(rank=learner.rank, targets=learner.targets)
        base = self.shape.denoiser.build(FLOATS[precision])
        return adapted(base, settings, dora=learner.weights == "dora", seed=0)

    # --- computations --------------------------------------------------------------------

    def _forward(
        self, part: Part, name: str, call: Any, given: Tensor, dtype: torch.dtype
    ) -> Footprint:
        """One row through a frozen part, by `call`, which `name` stands for."""

        def measure() -> Footprint:
            network = self._built(part, dtype)
            with torch.no_grad():
                return footprint(lambda rows: call(network, rows), [given])

        return self._footprint(part, f"{name} {_size(given)} {_short(dtype)}", measure)

    def encode_text(self, encoder: str, precision: str) -> Footprint:
        """A prompt through the text encoder of that name."""

        def call(network: Any, ids: Tensor) -> Any:
            return network(ids, output_hidden_states=True)

        ids = torch.zeros(1, self.shape.tokens(encoder), dtype=torch.long, device="meta")
        part = self.shape.text_encoders[encoder]
        return self._forward(part, "encode", call, ids, FLOATS[precision])

    def decode(self, precision: str) -> Footprint:
        """A latent through the autoencoder's decoder."""
        dtype = _of_autoencoder(precision)
        latents = torch.empty(1, *self.latent_shape, dtype=dtype, device="meta")
        return self._forward(
            self.shape.vae,
            "decode",
            lambda vae, x: vae.decode(x, return_dict=False),
            latents,
            dtype,
        )

    def encode(self, precision: str) -> Footprint:
        """A picture through the autoencoder's encoder."""
        dtype = _of_autoencoder(precision)
        pictures = torch.empty(1, *self.picture, dtype=dtype, device="meta")
        return self._forward(
            self.shape.vae,
            "encode",
            lambda vae, x: vae.encode(x, return_dict=False),
            pictures,
            dtype,
        )

    def reward(self, precision: str) -> Footprint:
        """A picture through the reward model."""
        dtype = FLOATS[precision]
        return self._forward(
            self.shape.reward,
            "features",
            lambda model, x: model.get_image_features(pixel_values=x),
            self.shape.reward_pictures(1).to(dtype),
            dtype,
        )

    def decode_learning(self, precision: str, recomputed: bool, tiny: bool = False) -> Footprint:
        """A latent through a decoder and the picture's gradient back, as a drawing's reward asks.

        tiny: a TAESD's decoder, whose shapes are the same in all families.
        """
        dtype, part = _of_autoencoder(precision), self.shape.vae
        if tiny:
            part = Part("AutoencoderTiny", {"latent_channels": self.latent_shape[0]})
        latents = torch.empty(1, *self.latent_shape, dtype=dtype, device="meta", requires_grad=True)

        def measure() -> Footprint:
            network = self._built(part, dtype)

            def decode(encoded: Tensor) -> Tensor:
                return network.decode(encoded, return_dict=False)[0].float().clamp(-1, 1)

            def learn(encoded: Tensor) -> None:
                picture = recomputing(None)(decode, encoded) if recomputed else decode(encoded)
                picture.sum().backward()

            return footprint(learn, [latents])

        how = " recomputed" if recomputed else ""
        return self._footprint(
            part, f"decode {_size(latents)} {_short(dtype)} learning{how}", measure
        )

    def reward_learning(self, precision: str) -> Footprint:
        """A picture, resized, through the reward model and the gradient back to its pixels."""
        dtype, part, side = FLOATS[precision], self.shape.reward, self.shape.reward_size
        pictures = torch.empty(1, *self.picture, device="meta", requires_grad=True)

        def measure() -> Footprint:
            network = self._built(part, dtype)

            def learn(seen: Tensor) -> None:
                if seen.shape[-1] != side:
                    seen = F.interpolate(seen, (side, side), mode="bilinear", antialias=True)
                features = network.get_image_features(pixel_values=seen.to(dtype)).pooler_output
                features.float().sum().backward()

            return footprint(learn, [pictures])

        name = f"features {_size(pictures)} to {side} {_short(dtype)} learning"
        return self._footprint(part, name, measure)

    def _told(self, rows: int, precision: str) -> tuple[list[Any], str]:
        """What the denoiser is given for so many rows, and a name for it."""
        conditions = self.shape.conditions(rows).tensors()
        latents = torch.empty(rows, *self.latent_shape, device="meta")
        sizes = " ".join(_size(tensor) for tensor in (latents, *conditions.values()))
        name = f"{sizes} {_short(FLOATS[precision])}"
        return [latents, torch.empty(rows, device="meta"), conditions], name

    def _predict(self, network: nn.Module, precision: str) -> Callable[..., Tensor]:
        """A call of a denoiser as the engine makes it."""
        family, dtype = self.shape.describe(), FLOATS[precision]

        def predict(noisy: Tensor, times: Tensor, told: dict[str, Tensor]) -> Tensor:
            heard = Conditions.from_tensors(told).to(dtype)
            return family.predict(network, noisy.to(dtype), times, heard, 7.5).float()

        return predict

    def _frozen(self, precision: str) -> nn.Module:
        return self._built(self.shape.denoiser, FLOATS[precision])

    def _learns(self, learner: TrainedWeights, precision: str) -> Any:
        return self._trained(learner, "fp32" if learner.weights == "full" else precision)

    def draw(self, precision: str, rows: int, learner: TrainedWeights | None = None) -> Footprint:
        """One solver step of one picture, of so many rows, by the base or by what learns."""
        inputs, told = self._told(rows, precision)

        def measure() -> Footprint:
            network = self._learns(learner, precision) if learner else self._frozen(precision)
            with torch.no_grad():
                return footprint(
                    self._predict(network, precision), inputs, autocast=_half(precision)
                )

        return self._footprint(self.shape.denoiser, f"draw {told} {learner or 'base'}", measure)

    def step(
        self, precision: str, passes: Passes, learner: TrainedWeights, checkpointing: bool
    ) -> Footprint:
        """Forward and backward pass of a photo and what comes with it; the base's too (Eq. 9)."""
        inputs, told = self._told(passes.learning, precision)

        def measure() -> Footprint:
            trained = self._learns(learner, precision)
            predict = self._predict(trained, precision)
            base = self._predict(self._frozen(precision), precision)
            if checkpointing:
                trained.enable_gradient_checkpointing(recomputing(_half(precision)))

            def step(noisy: Tensor, times: Tensor, told: dict[str, Tensor]) -> None:
                error = (noisy - predict(noisy, times, told)).square().flatten(1).mean(1)
                if passes.base == len(noisy):
                    with torch.no_grad():
                        wrong = noisy - base(noisy, times, told)
                    error = wrong.square().flatten(1).mean(1) - error
                elif count := passes.base:
                    heard = {name: rows[:count] for name, rows in told.items()}
                    with torch.no_grad():
                        wrong = noisy[:count] - base(noisy[:count], times[:count], heard)
                    better = wrong.square().flatten(1).mean(1) - error[:count]
                    error = torch.cat([better, error[count:]])
                error.sum().backward()

            try:
                return footprint(step, inputs, [trained], _half(precision))
            finally:
                if checkpointing:
                    trained.disable_gradient_checkpointing()

        how = " recomputed" if checkpointing else ""
        name = f"step {told} {learner}{how} +{passes.base}"
        return self._footprint(self.shape.denoiser, name, measure)


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _of_autoencoder(precision: str) -> torch.dtype:
    """float32 for fp16, whose range is too small for what autoencoders reach inside."""
    return torch.bfloat16 if precision == "bf16" else torch.float32


def _half(precision: str) -> torch.dtype | None:
    """What autocast lowers to, None where it is off."""
    return None if FLOATS[precision] == torch.float32 else FLOATS[precision]
