"""The one training loop of every method: yields events; prints and writes nothing.

All randomness is derived from the seed and the place where it is used (which picture, which step),
never from a running generator, so a resumed run repeats exactly what an uninterrupted one does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rpo.config import Config, TrainingConfig
from rpo.errors import UserError
from rpo.events import Event, Notice, StepDone, Stopped, Validated
from rpo.learners.learner import Learner
from rpo.methods.method import Method
from rpo.models.quantization import refuse_absent_bitsandbytes
from rpo.models.rows import Rows
from rpo.training.schedule import learning_rate
from rpo.training.stopping import KeepBest, StoppingRule
from rpo.training.validation import Validator

# On a GPU a step's figures are asked for together with those of the steps after it: to ask is to
# wait, and while the host waits it prepares no further step.
REPORT_EVERY = 10


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
    """Teaches a learner by a method, validates it, and says which step was best.

    Attributes:
        learner: the model now; what learns of it is float32.
        step: gradient steps done.
        stopping: which step was best, and whether the patience ran out.
    """

    def __init__(
        self,
        learner: Learner,
        method: Method,
        data: Rows,
        config: Config,
        validator: Validator,
        stopping: StoppingRule | None = None,
    ) -> None:
        self.backbone, self.config, self.validator = learner.backbone, config, validator
        self.learner, self.method = learner, method
        self.data = data.to(self.backbone.device)
        self.parameters = learner.parameters()
        for name, network in method.networks().items():
            more = network.to(self.backbone.device).named_parameters()
            self.parameters |= {f"{name}.{key}": parameter for key, parameter in more}
        self.optimizer = make_optimizer(self.parameters.values(), config.training)
        # Gradients in half precision vanish unless they are scaled up; elsewhere this does nothing.
        self.scaler = torch.amp.GradScaler(
            self.backbone.device.type, enabled=self.backbone.dtype == torch.float16
        )
        self.stopping: StoppingRule = stopping or KeepBest(
            config.validation.patience, config.validation.keep
        )
        self.average: dict[str, Tensor] = {}
        if config.training.ema:
            self.average = {name: p.detach().clone() for name, p in self.parameters.items()}
        self._swapped = False  # whether the weights and their average have changed places
        self.step = 0
        self.whole = True  # False while a step changes the weights
        self.report_every = 1 if self.backbone.device.type == "cpu" else REPORT_EVERY
        self._computed: dict[int, tuple[tuple[str, ...], Tensor]] = {}  # by step; not yet asked for
        self._reports: dict[int, StepDone] = {}  # and those that nobody has seen yet
        self._validated = -1  # the step of the last validation
        self._patience_out = False

    @property
    def denoiser(self) -> Any:
        """The learner's."""
        return self.learner.denoiser

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """While it lasts, the weights are their average, where one is kept (`training.ema`)."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, average in self.average.items():
            parameter = self.parameters[name]
            now = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(now)
        self._swapped = not self._swapped

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
        # Of a step that was interrupted the figures may be there, and the weights not yet.
        return [event for event in self._report() if event.step <= self.step]

    def _report(self) -> Iterator[StepDone]:
        """The events of the steps since the last report."""
        self._ask()
        while self._reports:
            yield self._reports.pop(min(self._reports))

    def _ask(self) -> None:
        """Waits for the device. Raises UserError where what it computed is not finite."""
        if not self._computed:
            return
        # An interrupt while it waits loses no step.
        values = iter(torch.cat([row for _, row in self._computed.values()]).tolist())
        computed, self._computed = self._computed, {}
        for step, (names, _) in computed.items():
            norm, loss = next(values), next(values)
            event = StepDone(step, loss, norm, {name: next(values) for name in names})
            self._refuse_non_finite("loss", event.loss, step)
            # The scaler leaves out a step whose scaled gradient overflowed, and lowers its scale.
            if not self.scaler.is_enabled() or self.scaler.get_scale() < 1:
                self._refuse_non_finite("gradient", event.grad_norm, step)
            self._reports[step] = event

    def _validate(self) -> Iterator[Event]:
        self.optimizer.zero_grad()  # so that drawing has their memory
        with self.averaged(), self._naming_step():
            scores, images = yield from self.validator.run(self.learner)
        settings = self.config.reward
        reward = scores.combine(settings.lambda_val, settings.mean).mean().item()
        if not math.isfinite(reward):
            source = type(self.validator.reward).__name__
            raise UserError(
                f"step {self.step}, validation: the reward ({source}) became {reward}; check "
                "what it returns, or the weights of reward.model"
            )
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
            figures=self.validator.figures(images),
        )

    @contextmanager
    def _naming_step(self) -> Iterator[None]:
        try:
            yield
        except UserError as error:
            raise UserError(f"step {self.step}, {error}") from error

    def _advance(self) -> None:
        """One gradient step. It waits for the device only to `_ask`, or for fp16's scaler."""
        settings, method = self.config.training, self.method
        batch = method.batch(self.data, self.step).to(self.backbone.device)
        terms: Tensor | float = 0.0  # means over the step's batches
        names: tuple[str, ...] = ()
        for number, part in enumerate(batch.split(settings.accumulate)):
            found = method.loss(self.learner, self.data, part)
            # Freed now, a CPU uses the memory again at once. Freed sooner, it goes back to the
            # system in between, and to fetch it anew takes a tenth of the step.
            if number == 0:
                self.optimizer.zero_grad()
            self.scaler.scale(found.loss / settings.accumulate).backward()
            names = tuple(found.figures)
            figures = [found.loss.detach(), *found.figures.values()]
            terms = terms + torch.stack(figures) / settings.accumulate
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), settings.max_grad_norm)
        assert isinstance(terms, Tensor)
        self._computed[self.step + 1] = names, torch.cat([norm[None], terms])
        if len(self._computed) >= self.report_every:
            self._ask()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, settings)
        self.whole = False
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._follow()
        if self.backbone.device.type != "cpu":
            self.optimizer.zero_grad()  # so that the next forward pass has their memory
        self.step += 1
        self.whole = True

    @torch.no_grad()
    def _follow(self) -> None:
        """The average after one more step; at first it is the plain mean of the weights."""
        if self.average:
            decay = min(self.config.training.ema, (self.step + 1) / (self.step + 2))
            weights: list[Tensor] = [self.parameters[name] for name in self.average]
            torch._foreach_lerp_(list(self.average.values()), weights, 1 - decay)

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

    def _refuse_non_finite(self, what: str, value: float, step: int) -> None:
        if not math.isfinite(value):
            raise UserError(
                f"step {step}, training: the {what} became {value}, most likely because "
                f"training.learning_rate {self.config.training.learning_rate:g} is too high; "
                "lower it (a tenth is a good try), or check the model's weights"
            )

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain numbers only. The tensors are the live ones: save or copy them at once.

        The best weights are not among them: whoever wants them copies them when `Validated` says
        that the present ones are.
        """
        moments = {name: self.optimizer.state.get(p, {}) for name, p in self.parameters.items()}
        weights, average = {n: p.detach() for n, p in self.parameters.items()}, dict(self.average)
        if self._swapped and average:  # a validation is under way
            weights, average = average, {name: weights[name] for name in average}
        return {
            "step": self.step,
            "validated": self._validated,
            "stopping": self.stopping.state_dict(),
            "weights": weights,
            "average": average,
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
                _copy(state["weights"][name], parameter)
            for name, average in self.average.items():
                _copy(state["average"][name], average)
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
            self._patience_out = self.stopping.exhausted
        except (*_MISFITS, RuntimeError) as error:
            raise UserError(
                "the saved training state belongs to another model, method, stopping rule or "
                "version; resume with those it was made with, or start a new run"
            ) from error


_MISFITS = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)


def _copy(saved: Tensor, into: Tensor) -> None:
    """`copy_` that stretches nothing. Raises ValueError for another shape."""
    if saved.shape != into.shape:
        raise ValueError(f"{tuple(saved.shape)} for {tuple(into.shape)}")
    into.copy_(saved)
