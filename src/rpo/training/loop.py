"""The one training loop of RPO (arXiv 2407.12164): yields events; prints and writes nothing.

All randomness is derived from the seed and the place where it is used (which picture, which step),
never from a running generator, so a resumed run repeats exactly what an uninterrupted one does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rpo.config import Config, TrainingConfig
from rpo.errors import UserError
from rpo.events import Event, Notice, StepDone, Stopped, Validated
from rpo.methods.losses import improvement, preference_loss, similarity_loss
from rpo.methods.preparation import TrainingData
from rpo.models.backbone import Backbone
from rpo.models.conditions import Conditions
from rpo.models.quantization import refuse_absent_bitsandbytes
from rpo.rewards.harmonic import draw_labels
from rpo.seeds import make_generator
from rpo.training.stopping import KeepBest
from rpo.training.validation import Validator

# On a GPU a step's figures are asked for together with those of the steps after it: to ask is to
# wait, and while the host waits it prepares no further step.
REPORT_EVERY = 10


@dataclass(frozen=True)
class _Pairs:
    """B pairs that a gradient step sees; the two halves' noise is the same tensor if shared."""

    reference: Tensor  # (B,) indices
    generated: Tensor  # (B,) indices
    labels: Tensor  # (B,)
    timesteps: tuple[Tensor, Tensor]  # (B,) of the reference half, of the generated half
    noise: tuple[Tensor, Tensor]  # (B, C, h, w)

    def split(self, size: int) -> Iterator[_Pairs]:
        """The same pairs in batches of `size`."""
        for start in range(0, len(self.labels), size):
            rows = slice(start, start + size)
            yield _Pairs(
                self.reference[rows],
                self.generated[rows],
                self.labels[rows],
                (self.timesteps[0][rows], self.timesteps[1][rows]),
                (self.noise[0][rows], self.noise[1][rows]),
            )


def make_optimizer(
    parameters: Iterable[nn.Parameter], settings: TrainingConfig
) -> torch.optim.Optimizer:
    """AdamW with the settings' rate and decay. Raises UserError for one that is not installed."""
    parameters = list(parameters)
    common: Any = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    if settings.optimizer == "adamw8bit":
        refuse_absent_optimizer(settings)
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(parameters, **common)
    fused = {p.device.type for p in parameters} <= {"cpu", "cuda"}
    return torch.optim.AdamW(parameters, fused=fused, **common)


def refuse_absent_optimizer(settings: TrainingConfig) -> None:
    """Raises UserError where the optimiser is another package's, and that is not installed."""
    if settings.optimizer == "adamw8bit":
        refuse_absent_bitsandbytes("training.optimizer adamw8bit", "adamw")


class Trainer:
    """Fine-tunes a copy of the base denoiser, or an adapter, on L = L_sim + L_pref (Eq. 7 to 9).

    Attributes:
        denoiser: the model now; what learns of it is float32.
        step: gradient steps done.
        stopping: which step was best, and whether the patience ran out.
    """

    def __init__(
        self, backbone: Backbone, data: TrainingData, config: Config, validator: Validator
    ) -> None:
        self.backbone, self.config, self.validator = backbone, config, validator
        self.data = data.to(backbone.device)
        self.denoiser = backbone.trainable(config)
        self.parameters = {
            name: p for name, p in self.denoiser.named_parameters() if p.requires_grad
        }
        self.optimizer = make_optimizer(self.parameters.values(), config.training)
        # Gradients in half precision vanish unless they are scaled up; elsewhere this does nothing.
        self.scaler = torch.amp.GradScaler(
            backbone.device.type, enabled=backbone.dtype == torch.float16
        )
        self.stopping = KeepBest(config.validation.patience, config.validation.keep)
        self.step = 0
        self.report_every = 1 if backbone.device.type == "cpu" else REPORT_EVERY
        self._computed: dict[int, Tensor] = {}  # by step, the figures that are not yet asked for
        self._reports: dict[int, StepDone] = {}  # and those that nobody has seen yet
        self._validated = -1  # the step of the last validation
        self._patience_out = False

    def run(self, until: int | None = None) -> Iterator[Event]:
        """Train to the end, or pause after step `until` (and its validation, if one is due).

        Validates before the first step, after every `validation.every` and after the last one.
        Whenever an event arrives, `state_dict` may be taken; on a GPU it may be some steps ahead of
        the last StepDone (`unreported`). Raises UserError when the loss is no longer finite, before
        the weights follow it; on a GPU some steps may have done so already.
        """
        last, every = self.config.training.steps, self.config.validation.every
        while True:
            due = self.step % every == 0 or self.step == last
            paused = until is not None and self.step >= until
            if due or paused or self._patience_out or self._reports:
                yield from self._report()
            if due and self._validated < self.step:
                yield from self._validate()
            best_step = self.stopping.best_step or 0
            if self._patience_out or self.step >= last:
                done = self.step >= last
                yield Stopped(self.step, best_step, "finished" if done else "patience")
                return
            if paused:
                return
            yield from self._advance_within_memory()

    def unreported(self) -> list[StepDone]:
        """The events of steps already done that `run`, left where it stands, has not yielded."""
        return list(self._report())

    def _report(self) -> Iterator[StepDone]:
        """The events of the steps since the last report."""
        self._ask()
        while self._reports:
            yield self._reports.pop(min(self._reports))

    def _ask(self) -> None:
        """Waits for the device. Raises UserError where what it computed is not finite."""
        if not self._computed:
            return
        steps, rows = list(self._computed), torch.stack(list(self._computed.values())).tolist()
        self._computed.clear()
        for step, row in zip(steps, rows, strict=True):
            event = StepDone(step, *row)
            self._refuse_non_finite("loss", event.loss, step)
            # The scaler leaves out a step whose scaled gradient overflowed, and lowers its scale.
            if not self.scaler.is_enabled() or self.scaler.get_scale() < 1:
                self._refuse_non_finite("gradient", event.grad_norm, step)
            self._reports[step] = event

    def _validate(self) -> Iterator[Event]:
        self.optimizer.zero_grad()  # so that drawing has their memory
        scores, images = yield from self.validator.run(self.denoiser)
        settings = self.config.reward
        reward = scores.combine(settings.lambda_val, settings.mean).mean().item()
        decision = self.stopping.update(self.step, reward)
        self._validated, self._patience_out = self.step, decision.stop
        yield Validated(
            step=self.step,
            reward=reward,
            image_alignment=scores.image.mean().item(),
            text_alignment=scores.text.mean().item(),
            improved=decision.improved,
            images=images,
            prompts=self.validator.prompts,
        )

    def _draw(self, step: int) -> _Pairs:
        """The pairs of a step. Every generated picture comes once an epoch, in a shuffled order."""
        settings = self.config.training
        size = settings.batch_size * settings.accumulate
        references, pictures = self.data.probabilities.shape
        order = []
        for position in range(step * size, (step + 1) * size):
            epoch, place = divmod(position, pictures)
            shuffle = make_generator(self.config.seed, "epoch", epoch)
            order.append(torch.randperm(pictures, generator=shuffle)[place])
        generated = torch.stack(order)
        generator = make_generator(self.config.seed, "step", step)
        reference = torch.randint(references, (size,), generator=generator)
        labels = self.data.probabilities[reference, generated]
        if self.config.reward.labels == "drawn":
            labels = draw_labels(labels, generator)

        def diffusion() -> tuple[Tensor, Tensor]:
            timesteps = self.backbone.process.draw_timesteps(size, generator)
            noise = torch.randn(size, *self.backbone.latent_shape, generator=generator)
            return self._sent(timesteps), self._sent(noise)

        first = diffusion()
        # Sharing removes the noise's own difficulty from the comparison, as in Diffusion-DPO.
        second = diffusion() if settings.independent_noise else first
        timesteps, noise = (first[0], second[0]), (first[1], second[1])
        reference, generated, labels = map(self._sent, (reference, generated, labels))
        return _Pairs(reference, generated, labels, timesteps, noise)

    def _sent(self, tensor: Tensor) -> Tensor:
        """It on the device, to which the host sends it without waiting."""
        if self.backbone.device.type == "cuda":
            return tensor.pin_memory().to(self.backbone.device, non_blocking=True)
        return tensor.to(self.backbone.device)

    def _advance(self) -> None:
        """One gradient step. It waits for the device only to `_ask`, or for fp16's scaler."""
        settings, pairs = self.config.training, self._draw(self.step)
        terms = torch.zeros(4, device=self.backbone.device)  # means over the step's batches
        for number, batch in enumerate(pairs.split(settings.batch_size)):
            batch_loss, *parts = self._loss(batch)
            # Freed now, a CPU uses the memory again at once. Freed sooner, it goes back to the
            # system in between, and to fetch it anew takes a tenth of the step.
            if number == 0:
                self.optimizer.zero_grad()
            self.scaler.scale(batch_loss / settings.accumulate).backward()
            terms += torch.stack([batch_loss.detach(), *parts]) / settings.accumulate
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), settings.max_grad_norm)
        figures = torch.cat([terms, torch.stack([norm, pairs.labels.mean()])])
        self._computed[self.step + 1] = figures
        if len(self._computed) >= self.report_every:
            self._ask()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.backbone.device.type != "cpu":
            self.optimizer.zero_grad()  # so that the next forward pass has their memory
        self.step += 1

    def _advance_within_memory(self) -> Iterator[Event]:
        """A step; once, if the memory is exhausted, again with gradient checkpointing."""
        denoiser: Any = self.denoiser
        try:
            self._advance()
            return
        except torch.OutOfMemoryError:
            if denoiser.is_gradient_checkpointing:
                raise
        # Not in the handler: while it runs, the error's traceback holds the step's tensors.
        self.optimizer.zero_grad()
        self._forget_unscaling()
        torch.cuda.empty_cache()
        denoiser.enable_gradient_checkpointing()
        yield Notice(
            f"the memory of {self.backbone.device} is exhausted: computing activations twice from "
            "here on; training.checkpointing=true would begin so"
        )
        self._advance()

    def _forget_unscaling(self) -> None:
        """A new scaler at the old one's scale, which refuses to unscale twice between two steps."""
        scale, enabled = self.scaler.state_dict(), self.scaler.is_enabled()
        self.scaler = torch.amp.GradScaler(self.backbone.device.type, enabled=enabled)
        self.scaler.load_state_dict(scale)

    def _loss(self, pairs: _Pairs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The loss, and detached L_sim, L_pref and margin, all of them scalars."""
        settings, data, size = self.config.training, self.data, len(pairs.labels)
        latents = data.reference_latents[pairs.reference]
        conditions = data.reference_conditions.expand(size)
        timesteps, noise = pairs.timesteps[0], pairs.noise[0]
        prefers = settings.preference_weight > 0
        if prefers:  # both halves in one forward pass: reference first, generated second
            latents = torch.cat([latents, data.generated_latents[pairs.generated]])
            drawn_by = data.generated_conditions[pairs.generated]
            conditions = Conditions.cat([conditions, drawn_by])
            timesteps, noise = torch.cat(pairs.timesteps), torch.cat(pairs.noise)
        batch = (latents, noise, timesteps, conditions)

        error = self.backbone.denoising_error(self.denoiser, *batch)  # (B,) or (2B,)
        similarity = similarity_loss(error[:size])
        loss = settings.similarity_weight * similarity
        preference = margin = torch.zeros((), device=loss.device)
        if prefers:
            with torch.inference_mode():  # no_grad without its bookkeeping
                base_error = self.backbone.denoising_error(self.backbone.denoiser, *batch)
            delta = improvement(base_error, error)
            result = preference_loss(delta[:size], delta[size:], pairs.labels, settings.beta)
            preference, margin = result.loss, result.margin
            loss = loss + settings.preference_weight * preference
        return loss, similarity.detach(), preference.detach(), margin

    def _refuse_non_finite(self, what: str, value: float, step: int) -> None:
        if not math.isfinite(value):
            raise UserError(
                f"the {what} became {value} at step {step}, most likely because "
                f"training.learning_rate {self.config.training.learning_rate:g} is too high; "
                "lower it (a tenth is a good try), or check the model's weights"
            )

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain numbers only. The tensors are the live ones: save or copy them at once.

        The best weights are not among them: whoever wants them copies them when `Validated` says
        that the present ones are.
        """
        moments = {name: self.optimizer.state.get(p, {}) for name, p in self.parameters.items()}
        return {
            "step": self.step,
            "validated": self._validated,
            "stopping": self.stopping.state_dict(),
            "weights": {name: p.detach() for name, p in self.parameters.items()},
            "moments": {name: dict(moment) for name, moment in moments.items()},
            "scaler": self.scaler.state_dict(),
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state_dict` was taken. Raises UserError if it does not fit."""
        try:
            if state["weights"].keys() != self.parameters.keys():
                raise KeyError("weights")
            for name, parameter in self.parameters.items():
                parameter.copy_(state["weights"][name])
            groups = self.optimizer.state_dict()["param_groups"]
            moments = {
                index: {
                    key: value.clone() if isinstance(value, Tensor) else value
                    for key, value in state["moments"][name].items()
                }
                for index, name in enumerate(self.parameters)
                if state["moments"][name]
            }
            self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
            self.scaler.load_state_dict(state["scaler"])
            self.stopping.load_state_dict(state["stopping"])
            self.step, self._validated = int(state["step"]), int(state["validated"])
            # From the present patience, so that a raised one lets a stopped run go on.
            self._patience_out = 0 < self.stopping.patience <= self.stopping.stale
        except (KeyError, TypeError, RuntimeError) as error:
            raise UserError(
                "the saved training state belongs to another model or version; "
                "resume with the model it was made with, or start a new run"
            ) from error
