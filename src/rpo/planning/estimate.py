"""Memory and time of each phase of a job, estimated from the shapes of the networks alone.

The bytes that a phase's computation holds are those of `rpo.planning.footprint`; the weights are
counted. A phase's peak is their sum, and `OVERHEAD` for what no tensor shows: the CUDA context, the
gaps between the allocator's blocks, the workspaces of convolutions. Times are operations divided by
a rate; reading and writing of files, the optimiser's own step and the host's waiting are left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from rpo.config import METHODS, Config, Passes, values_of
from rpo.errors import UserError
from rpo.models.computing import FLOATS, REWARD_BATCH, TEXT_BATCH
from rpo.planning import recorded
from rpo.planning.architectures import Architecture
from rpo.planning.counting import Counter, TrainedWeights
from rpo.planning.footprint import Footprint
from rpo.planning.rates import Rate

OVERHEAD = 0.6e9, 0.08  # bytes, and a share of all tensors
DISK = 1e9  # bytes a second that weights are read at
PLANNED = ("full", "lora", "dora")  # the learners that can be counted
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
    pictures: int = 4
    decoder: str = "own"

    @staticmethod
    def of(config: Config) -> Choice:
        """What `config` says of them. Raises UserError for a learner that is not counted."""
        values = values_of(config)
        if (weights := config.training.weights) not in PLANNED:
            raise UserError(
                f"training.weights {weights}: rpo plan counts {', '.join(PLANNED)} only; a new "
                "token takes less memory than lora does"
            )
        return Choice(**{name: values[key] for name, key in KEYS.items() if key in values})

    @property
    def half(self) -> bool:
        return FLOATS[self.precision] != torch.float32

    @property
    def learner(self) -> TrainedWeights:
        return TrainedWeights(self.weights, self.rank, self.targets)


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
    "pictures": "online.pictures",
    "decoder": "online.decoder",
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
    """Estimates the phases of one model's job under any `Choice`; what was counted is kept."""

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
        known = recorded.load()
        self.counter = Counter(architecture, architecture.latent_shape(config.resolution), known)
        self.picture = self.counter.picture
        self.passes = METHODS[config.method].passes(config)

    # --- weights -------------------------------------------------------------------------

    def parts(self) -> dict[str, int]:
        """Parameters of each part."""
        shape = self.shape
        parts = {"denoiser": shape.denoiser, **shape.text_encoders, "autoencoder": shape.vae}
        parts["reward model"] = shape.reward
        return {name: self.counter.parameters(part) for name, part in parts.items()}

    def _resident(self, choice: Choice) -> dict[str, int]:
        """Bytes of the frozen parts on the device, by name."""
        element, count = 2 if choice.half else 4, self.counter.bytes
        saved = self.counter.saved(choice.quantize, element)
        return {
            "denoiser": count(self.shape.denoiser, element) - saved,
            "texts": sum(count(part, element) for part in self.shape.text_encoders.values()),
            # in float32 for fp16, whose range is too small for what autoencoders reach inside
            "vae": count(self.shape.vae, 4 if choice.precision == "fp16" else element),
            "reward": count(self.shape.reward, element),
        }

    def _learning(self, choice: Choice) -> tuple[int, int]:
        """Bytes of the weights that learn, and of the optimiser's moments of them."""
        learning = self.counter.learning(choice.learner)
        if choice.weights == "full":
            copied = self.counter.bytes(self.shape.denoiser, 4)
        else:
            copied = sum(4 * numbers * tensors for numbers, tensors in learning)
        return copied, sum(moment_bytes(n, choice.optimizer) * tensors for n, tensors in learning)

    # --- computations --------------------------------------------------------------------

    def _draw(self, choice: Choice, trained: bool, scale: float) -> Footprint:
        """One solver step of one picture."""
        learner = choice.learner if trained else None
        return self.counter.draw(choice.precision, self._rows(scale), learner)

    def _rows(self, scale: float) -> int:
        """Of one picture in a solver step: with and without the prompt where guidance compares."""
        family = self.shape.family
        return 2 if family.classifier_free and scale > family.unguided else 1

    def _step(self, choice: Choice) -> Footprint:
        """Forward and backward pass of one photo, or pair, and the base's forward pass (Eq. 9)."""
        return self.counter.step(
            choice.precision, self.passes, choice.learner, choice.checkpointing
        )

    def _rewarded(self, choice: Choice, step: Footprint) -> tuple[str, int, int]:
        """Of steps that reward drawings, as `rpo.methods.online` does; zeros without any.

        Networks that have to be there, bytes of the other losses and of the drawings together, and
        operations of the drawings in the whole run. What the other losses (`step`) keep for their
        backward pass is alive meanwhile. Then: what the drawing's step with gradient keeps, the
        pictures, and what decoder and reward model keep of them; recomputed, one picture is decoded
        at a time, when the reward's own have gone. Last the gradients, from the drawings first.
        """
        if not self.passes.rewarded:
            return "", 0, 0
        counter, settings, pictures = self.counter, self.config.online, choice.pictures
        own, again = choice.decoder == "own", choice.checkpointing
        scale = self.config.validation.guidance_scale
        draw, rows = self._draw(choice, True, scale), self._rows(scale)
        answer = counter.step(choice.precision, Passes(), choice.learner, again)
        decode = counter.decode_learning(choice.precision, again, not own)
        reward = counter.reward_learning(choice.precision)
        seen = pictures * 2 * 4 * math.prod(self.picture)  # with their gradient, in float32
        if again:
            after = max(pictures * reward.peak(), decode.peak()) + seen
        else:
            after = pictures * (reward.peak() + decode.peak())
        gradients, _ = self._learning(choice)  # four bytes each
        casts = gradients // 2 if choice.half else 0  # by autocast, of each of the two passes
        deep = min(settings.depth, settings.steps)
        earlier = (deep - 1) * pictures * answer.growing
        kept = pictures * answer.growing + casts + after
        held = choice.batch_size * step.growing + casts
        held += max(draw.peak(pictures), earlier + max(answer.peak(pictures), kept))
        if choice.accumulate > 1:
            held += gradients
        late = min(settings.late, settings.steps)
        # Solver steps without gradient, in the mean; at those with it the prompt's row is apart.
        before = settings.steps - (late + 1) / 2 - (deep - 1) + deep * (rows - 1) / rows
        each = before * draw.flops + deep * answer.flops + decode.flops + reward.flops
        count = self.passes.rewarding * pictures * choice.accumulate
        networks = "vae reward" if own else "reward"
        return networks, max(held, step.bound(choice.batch_size)), round(count * each)

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
            absent = {"texts", "vae", "reward"} - set(used.split()) if choice.offload else set()
            if choice.offload and used == "texts":
                absent.add("denoiser")  # it comes when the prompts are encoded
            return sum(base[name] for name in base.keys() - absent) + more, activations

        counter, precision = self.counter, choice.precision
        texts = [counter.encode_text(name, precision) for name in self.shape.text_encoders]
        reward, decode = counter.reward(precision), counter.decode(precision)
        encode, step = counter.encode(precision), self._step(choice)
        draw = self._draw(choice, False, sampling.guidance_scale)
        judge = self._draw(choice, True, validation.guidance_scale)
        prompts = sum(self.prompts) + 2  # the reference's and the empty one
        labelled = self.prompts[0] * self.passes.drawn
        drawn = labelled + self.passes.class_pictures
        judged = self.prompts[1] * validation.images_per_prompt
        networks, rewarding, reward_flops = self._rewarded(choice, step)
        times = -(-training.steps // validation.every) + 1
        at_once, batch = min(choice.sampling_batch, drawn or 1), choice.batch_size
        judged_at_once = min(choice.validation_batch, judged)

        def seconds(*work: tuple[float, bool]) -> float:
            return sum(rate.seconds(flops, half) for flops, half in work)

        half, vae_half = choice.half, choice.precision == "bf16"
        phases = (
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
                    stage("reward", reward.peak(min(REWARD_BATCH, labelled or PHOTOS))),
                    stage("vae", encode.peak(min(IMAGE_BATCH, PHOTOS))),
                ],
                seconds((labelled * reward.flops, half), (PHOTOS * encode.flops, vae_half)),
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
                ]
                + [stage(networks, rewarding, state)] * bool(rewarding),
                seconds(
                    (training.steps * batch * choice.accumulate * step.flops, half),
                    (reward_flops, half),
                ),
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
        return tuple(phase for phase in phases if drawn or phase.name != "sampling")

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
