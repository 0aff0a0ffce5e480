"""Memory and time of each phase of a job, estimated from the shapes of the networks alone.

The bytes that a phase's computation holds are those of `rpo.planning.footprint`; the weights are
counted. A phase's peak is their sum, and `OVERHEAD` for what no tensor shows: the CUDA context, the
gaps between the allocator's blocks, the workspaces of convolutions. Times are operations divided by
a rate; reading and writing of files, the optimiser's own step and the host's waiting are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from rpo.config import Config, LoraConfig, values_of
from rpo.learners.adapters import adapted
from rpo.models.backbone import FLOATS, TEXT_BATCH
from rpo.models.conditions import Conditions
from rpo.models.encoders import BATCH_SIZE as REWARD_BATCH
from rpo.models.quantization import saved_bytes
from rpo.planning.architectures import Architecture, Part
from rpo.planning.footprint import Footprint, footprint, module_bytes, parameter_count, recomputing
from rpo.planning.rates import Rate

OVERHEAD = 0.6e9, 0.08  # bytes, and a share of all tensors
DISK = 1e9  # bytes a second that weights are read at
PHOTOS = 5  # of the subject; they are not known yet
IMAGE_BATCH = 1  # photos encoded at once, as in Backbone.encode_images


@dataclass(frozen=True)
class Choice:
    """The settings that decide how much memory a run takes; `KEYS` has their dotted names."""

    resolution: int = 0
    precision: str = "fp32"
    quantize: str = "no"
    offload: bool = False
    weights: str = "full"
    rank: int = 16
    targets: str = "auto"
    batch_size: int = 1
    accumulate: int = 1
    checkpointing: bool = False
    optimizer: str = "adamw"
    sampling_batch: int = 8
    validation_batch: int = 8

    @staticmethod
    def of(config: Config) -> Choice:
        """What `config` says of them."""
        values = values_of(config)
        return Choice(**{name: values[key] for name, key in KEYS.items() if key in values})

    @property
    def half(self) -> bool:
        return FLOATS[self.precision] != torch.float32


KEYS = {
    "resolution": "resolution",
    "precision": "precision",
    "quantize": "quantize",
    "offload": "offload",
    "weights": "training.weights",
    "rank": "lora.rank",
    "targets": "lora.targets",
    "batch_size": "training.batch_size",
    "accumulate": "training.accumulate",
    "checkpointing": "training.checkpointing",
    "optimizer": "training.optimizer",
    "sampling_batch": "sampling.batch_size",
    "validation_batch": "validation.batch_size",
}


@dataclass(frozen=True)
class Phase:
    """One phase at its fullest moment, in bytes; peak includes `OVERHEAD` on an accelerator."""

    name: str
    weights: int
    activations: int
    peak: int
    seconds: float


class Estimator:
    """Estimates the phases of one model's job under any `Choice`; what was measured is kept."""

    def __init__(
        self,
        architecture: Architecture,
        config: Config,
        training_prompts: int,
        validation_prompts: int,
        accelerator: bool = True,
    ) -> None:
        self.shape, self.config, self.accelerator = architecture, config, accelerator
        self.prompts = (training_prompts, validation_prompts)
        self.latent_shape = architecture.latent_shape(config.resolution)
        side = self.latent_shape[1] * architecture.factor
        self.picture = (3, side, side)
        self._built = cache(Part.build)
        self._bytes = cache(self._count_bytes)
        self._denoiser = cache(self._build_learning)
        self._measured: dict[tuple[Any, ...], Footprint] = {}

    # --- weights -------------------------------------------------------------------------

    def parts(self) -> dict[str, int]:
        """Parameters of each part."""
        shape = self.shape
        parts = {"denoiser": shape.denoiser, **shape.text_encoders, "autoencoder": shape.vae}
        parts["reward model"] = shape.reward
        return {name: parameter_count(part.build()) for name, part in parts.items()}

    def _count_bytes(self, part: Part, element: int) -> int:
        return module_bytes(self._built(part, torch.float32), element)

    def _resident(self, choice: Choice) -> dict[str, int]:
        """Bytes of the frozen parts on the device, by name."""
        element = 2 if choice.half else 4
        texts = sum(self._bytes(part, element) for part in self.shape.text_encoders.values())
        denoiser = self._bytes(self.shape.denoiser, element)
        base = self._built(self.shape.denoiser, torch.float32)
        return {
            "denoiser": denoiser - saved_bytes(base, choice.quantize, element),
            "texts": texts,
            # in float32 for fp16, whose range is too small for what autoencoders reach inside
            "vae": self._bytes(self.shape.vae, 4 if choice.precision == "fp16" else element),
            "reward": self._bytes(self.shape.reward, element),
        }

    def _learning(self, choice: Choice) -> tuple[int, int]:
        """Bytes of the weights that learn, and of the optimiser's moments of them."""
        trained = self._trained(choice)
        learning = [p.numel() for p in trained.parameters() if p.requires_grad]
        copied = module_bytes(trained, 4) if choice.weights == "full" else 4 * sum(learning)
        return copied, sum(moment_bytes(n, choice.optimizer) for n in learning)

    def _build_learning(self, weights: str, precision: str, rank: int, targets: str) -> nn.Module:
        if weights == "full":
            return self.shape.denoiser.build().requires_grad_(True)
        settings = LoraConfig(rank=rank, targets=targets)
        base = self.shape.denoiser.build(FLOATS[precision])
        return adapted(base, settings, dora=weights == "dora", seed=0)

    def _trained(self, choice: Choice) -> nn.Module:
        precision = "fp32" if choice.weights == "full" else choice.precision
        return self._denoiser(choice.weights, precision, choice.rank, choice.targets)

    # --- computations --------------------------------------------------------------------

    def _once(self, key: tuple[Any, ...], measure: Callable[[], Footprint]) -> Footprint:
        if key not in self._measured:
            self._measured[key] = measure()
        return self._measured[key]

    def _forward(self, part: Part, call: Any, given: Tensor, dtype: torch.dtype) -> Footprint:
        """One row through a frozen part."""
        network = self._built(part, dtype)

        def measure() -> Footprint:
            with torch.no_grad():
                return footprint(lambda rows: call(network, rows), [given])

        return self._once((part.kind, id(part), dtype, tuple(given.shape)), measure)

    def _texts(self, choice: Choice) -> list[Footprint]:
        def call(network: Any, ids: Tensor) -> Any:
            return network(ids, output_hidden_states=True)

        found = []
        for name, part in self.shape.text_encoders.items():
            ids = torch.zeros(1, self.shape.tokens(name), dtype=torch.long, device="meta")
            found.append(self._forward(part, call, ids, FLOATS[choice.precision]))
        return found

    def _decode(self, choice: Choice) -> Footprint:
        dtype = torch.bfloat16 if choice.precision == "bf16" else torch.float32
        latents = torch.empty(1, *self.latent_shape, dtype=dtype, device="meta")
        return self._forward(
            self.shape.vae, lambda vae, x: vae.decode(x, return_dict=False), latents, dtype
        )

    def _encode(self, choice: Choice) -> Footprint:
        dtype = torch.bfloat16 if choice.precision == "bf16" else torch.float32
        pictures = torch.empty(1, *self.picture, dtype=dtype, device="meta")
        return self._forward(
            self.shape.vae, lambda vae, x: vae.encode(x, return_dict=False), pictures, dtype
        )

    def _reward(self, choice: Choice) -> Footprint:
        dtype = FLOATS[choice.precision]
        return self._forward(
            self.shape.reward,
            lambda model, x: model.get_image_features(pixel_values=x),
            self.shape.reward_pictures(1).to(dtype),
            dtype,
        )

    def _predict(self, network: nn.Module, rows: int, precision: str) -> tuple[Any, list[Any]]:
        """A call of a denoiser as the engine makes it, and its inputs for so many rows."""
        family = self.shape.describe(self._built(self.shape.denoiser, torch.float32))
        dtype = FLOATS[precision]
        conditions = self.shape.conditions(rows)
        latents = torch.empty(rows, *self.latent_shape, device="meta")
        timesteps = torch.empty(rows, device="meta")

        def predict(
            noisy: Tensor, times: Tensor, told: dict[str, Tensor], by: Any = None
        ) -> Tensor:
            heard = Conditions.from_tensors(told).to(dtype)
            return family.predict(by or network, noisy.to(dtype), times, heard, 7.5).float()

        return predict, [latents, timesteps, conditions.tensors()]

    def _draw(self, choice: Choice, trained: bool, scale: float) -> Footprint:
        """One solver step of one picture."""
        family = self.shape.family
        rows = 2 if family.classifier_free and scale > family.unguided else 1
        learns = (choice.weights, choice.rank, choice.targets) if trained else ()

        def measure() -> Footprint:
            frozen = self._built(self.shape.denoiser, FLOATS[choice.precision])
            network = self._trained(choice) if trained else frozen
            predict, inputs = self._predict(network, rows, choice.precision)
            with torch.no_grad():
                return footprint(predict, inputs, autocast=_lower(choice))

        return self._once(("draw", rows, choice.precision, learns), measure)

    def _step(self, choice: Choice) -> Footprint:
        """Forward and backward pass of one pair, and the reference's forward pass (Eq. 9)."""
        prefers = self.config.training.preference_weight > 0

        def measure() -> Footprint:
            trained: Any = self._trained(choice)
            frozen = self._built(self.shape.denoiser, FLOATS[choice.precision])
            predict, inputs = self._predict(trained, 2 if prefers else 1, choice.precision)
            if choice.checkpointing:
                trained.enable_gradient_checkpointing(recomputing(_lower(choice)))

            def step(noisy: Tensor, times: Tensor, told: dict[str, Tensor]) -> None:
                error = (noisy - predict(noisy, times, told)).square().flatten(1).mean(1)
                if prefers:
                    with torch.no_grad():
                        base = noisy - predict(noisy, times, told, by=frozen)
                    error = base.square().flatten(1).mean(1) - error
                error.sum().backward()

            try:
                return footprint(step, inputs, [trained], _lower(choice))
            finally:
                if choice.checkpointing:
                    trained.disable_gradient_checkpointing()

        learns = (choice.weights, choice.rank, choice.targets)
        return self._once(("step", choice.precision, choice.checkpointing, *learns), measure)

    # --- phases --------------------------------------------------------------------------

    def phases(self, choice: Choice, rate: Rate) -> tuple[Phase, ...]:
        """The job's phases in order. UserError for `choice.targets` that no layer has."""
        sampling, training, validation = (
            self.config.sampling,
            self.config.training,
            self.config.validation,
        )
        base = self._resident(choice)
        learning, moments = self._learning(choice)
        state = learning + moments

        def stage(used: str, activations: int, more: int = 0) -> tuple[int, int]:
            """Bytes of weights and activations where, of what comes and goes, `used` is there."""
            absent = {"texts", "vae", "reward"} - {used} if choice.offload else set()
            if choice.offload and used == "texts":
                absent.add("denoiser")  # it comes when the prompts are encoded
            return sum(base[name] for name in base.keys() - absent) + more, activations

        texts, reward, decode = self._texts(choice), self._reward(choice), self._decode(choice)
        encode, step = self._encode(choice), self._step(choice)
        draw = self._draw(choice, False, sampling.guidance_scale)
        judge = self._draw(choice, True, validation.guidance_scale)
        prompts = sum(self.prompts) + 2  # the reference's and the empty one
        drawn = self.prompts[0] * sampling.images_per_prompt
        judged = self.prompts[1] * validation.images_per_prompt
        times = -(-training.steps // validation.every) + 1
        at_once, batch = min(choice.sampling_batch, drawn), choice.batch_size
        judged_at_once = min(choice.validation_batch, judged)

        def seconds(*work: tuple[float, bool]) -> float:
            return sum(rate.seconds(flops, half) for flops, half in work)

        half, vae_half = choice.half, choice.precision == "bf16"
        return (
            self._phase(
                "loading",
                [
                    stage("texts", max(t.peak(min(TEXT_BATCH, prompts)) for t in texts)),
                    stage("reward", reward.peak(min(REWARD_BATCH, PHOTOS))),
                ],
                sum(base.values()) / DISK + seconds((prompts * sum(t.flops for t in texts), half)),
            ),
            self._phase(
                "sampling",
                [stage("", draw.peak(at_once)), stage("vae", decode.peak(at_once))],
                seconds((drawn * sampling.steps * draw.flops, half))
                + seconds((drawn * decode.flops, vae_half)),
            ),
            self._phase(
                "labelling",
                [
                    stage("reward", reward.peak(min(REWARD_BATCH, drawn))),
                    stage("vae", encode.peak(min(IMAGE_BATCH, PHOTOS))),
                ],
                seconds((drawn * reward.flops, half), (PHOTOS * encode.flops, vae_half)),
            ),
            self._phase(
                "training",
                [
                    stage(
                        "",
                        # Gradients that are added up are there from the second batch's beginning.
                        step.bound(batch) if choice.accumulate > 1 else step.peak(batch),
                        state,
                    )
                ],
                seconds((training.steps * batch * choice.accumulate * step.flops, half)),
            ),
            self._phase(
                "validation",
                [
                    stage("", judge.peak(judged_at_once), state),
                    stage("vae", decode.peak(judged_at_once), state),
                    stage("reward", reward.peak(min(REWARD_BATCH, judged)), state),
                ],
                times
                * (
                    seconds((judged * validation.steps * judge.flops, half))
                    + seconds((judged * decode.flops, vae_half), (judged * reward.flops, half))
                ),
            ),
        )

    def _phase(self, name: str, stages: list[tuple[int, int]], seconds: float) -> Phase:
        weights, activations = max(stages, key=sum)
        context, share = OVERHEAD if self.accelerator else (0, 0)
        peak = round((weights + activations) * (1 + share) + context)
        return Phase(name, weights, activations, peak, seconds)


def moment_bytes(parameters: int, optimizer: str) -> int:
    """Of AdamW's two moments of one tensor: float32, or a byte each with a scale per 256.

    The 8-bit optimiser (arXiv 2110.02861) leaves tensors of fewer than 4096 numbers in float32.
    """
    if optimizer == "adamw" or parameters < 4096:
        return 8 * parameters
    return 2 * (parameters + 4 * -(-parameters // 256))


def _lower(choice: Choice) -> torch.dtype | None:
    return FLOATS[choice.precision] if choice.half else None
