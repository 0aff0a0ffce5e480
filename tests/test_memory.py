"""Memory and arithmetic: accumulation, checkpointing, bfloat16, compiling, exhausted memory."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections import Counter

import pytest
import torch
from looping import drawn, first_step, make_config, make_trainer, weights
from teaching import same
from tiny import RESOLUTION, tiny_backbone
from torch import nn

from rpo.config import TrainingConfig
from rpo.errors import UserError
from rpo.events import Notice, StepDone
from rpo.models.backbone import Backbone
from rpo.training.loop import refuse_absent_optimizer


def test_four_batches_of_one_are_one_batch_of_four(epsilon: Backbone) -> None:
    steps = []
    for settings in ({"batch_size": 4}, {"batch_size": 1, "accumulate": 4}):
        trainer = make_trainer(epsilon, make_config(weight_decay=0.0, **settings))
        events = [event for event in trainer.run(until=3) if isinstance(event, StepDone)]
        steps.append((events, weights(trainer)))
    (whole, whole_weights), (parts, parts_weights) = steps
    assert len(whole) == len(parts) == 3
    for one, other in zip(whole, parts, strict=True):
        assert one.figures["label_mean"] == other.figures["label_mean"]
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-4)
    # Of all that moved; a single weight with hardly a gradient may go the other way in AdamW.
    start = dict(epsilon.denoiser.named_parameters())
    apart = sum((w - parts_weights[n]).square().sum() for n, w in whole_weights.items())
    moved = sum((w - start[n]).square().sum() for n, w in whole_weights.items())
    assert apart.sqrt() < 1e-3 * moved.sqrt()


def test_checkpointing_changes_no_gradient(epsilon: Backbone) -> None:
    plain, frugal = (
        make_trainer(epsilon, make_config(checkpointing=wanted)) for wanted in (False, True)
    )
    assert frugal.denoiser.is_gradient_checkpointing
    assert not plain.denoiser.is_gradient_checkpointing
    for trainer in (plain, frugal):
        list(trainer.run(until=2))
    assert same(weights(plain), weights(frugal))


def test_bfloat16_keeps_what_learns_in_float32_and_delta_at_zero() -> None:
    backbone, exact = tiny_backbone(precision="bf16"), tiny_backbone()
    assert backbone.denoiser.dtype == backbone.vae.dtype == torch.bfloat16
    trainer = make_trainer(backbone, make_config())
    assert {p.dtype for p in trainer.parameters.values()} == {torch.float32}
    step = first_step(trainer)
    assert step.figures["margin"] == pytest.approx(
        0, abs=0.02
    )  # the base computes in bfloat16 throughout
    assert step.figures["preference"] == pytest.approx(math.log(2), abs=0.01)
    reference = first_step(make_trainer(exact, make_config()))
    assert step.figures["similarity"] == pytest.approx(reference.figures["similarity"], rel=0.02)
    assert step.grad_norm == pytest.approx(reference.grad_norm, rel=0.1)


def test_half_precision_is_refused_where_there_is_no_gpu() -> None:
    with pytest.raises(UserError, match="precision fp16 needs a GPU; use fp32, or bf16"):
        tiny_backbone(precision="fp16")


def test_compiling_without_a_compiler_is_refused_on_a_cpu(
    epsilon: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-c++")
    with pytest.raises(UserError, match="no-such-c.. is not installed.*or leave compile false"):
        make_trainer(epsilon, dataclasses.replace(make_config(), compile=True))


@pytest.mark.slow  # compiles for a minute
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_compiled_step_is_the_eager_one(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    if device == "cpu" and shutil.which("g++") is None:
        pytest.skip("no C++ compiler")
    pipeline = tiny_backbone().family.pipeline
    epsilon = Backbone(pipeline, device=device, resolution=RESOLUTION)
    config = make_config()
    plain = make_trainer(epsilon, config)
    compiled = make_trainer(epsilon, dataclasses.replace(config, compile=True))
    assert compiled.denoiser._compiled_call_impl is not None
    found = []
    for trainer in (plain, compiled):
        loss = trainer.method.loss(trainer.learner, trainer.data, drawn(trainer, 0)).loss
        loss.backward()
        gradients = [p.grad.flatten() for p in trainer.parameters.values()]
        found.append((loss.item(), torch.cat(gradients)))
    (loss, gradient), (compiled_loss, compiled_gradient) = found
    assert compiled_loss == pytest.approx(loss, rel=1e-5)
    # AdamW's first step is a gradient's sign: it would make much of what is nearly zero.
    assert (compiled_gradient - gradient).norm() < 1e-4 * gradient.norm()


def test_exhausted_memory_turns_checkpointing_on_once(
    epsilon: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, tight = (make_trainer(epsilon, make_config(steps=2)) for _ in range(2))
    compute = Backbone.denoising_error

    def exhausted(self: Backbone, denoiser, *batch):
        error = compute(self, denoiser, *batch)
        if denoiser is tight.denoiser and not tight.denoiser.is_gradient_checkpointing:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return error

    monkeypatch.setattr(Backbone, "denoising_error", exhausted)
    list(plain.run())
    kinds = [type(event) for event in tight.run() if isinstance(event, Notice | StepDone)]
    assert kinds == [Notice, StepDone, StepDone]
    assert same(weights(plain), weights(tight))

    def always(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Backbone, "denoising_error", always)
    events = make_trainer(epsilon, make_config()).run()
    with pytest.raises(torch.OutOfMemoryError):
        list(events)


@pytest.mark.parametrize("place", ["first forward", "second forward", "clip"])
def test_a_step_repeated_after_exhausted_memory_scales_its_gradients_once(
    epsilon: Backbone, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """As in fp16: in the clip the gradients of the abandoned step are unscaled already."""
    config = make_config(steps=3, accumulate=2)
    plain, tight = (make_trainer(epsilon, config) for _ in range(2))
    for trainer in (plain, tight):
        trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
    compute, clip = Backbone.denoising_error, nn.utils.clip_grad_norm_
    calls = Counter()

    def exhausted(what: str) -> None:
        calls[what] += 1
        at = {"first forward": ("forward", 1), "second forward": ("forward", 2)}
        if (what, calls[what]) == at.get(place, ("clip", 1)):
            raise torch.OutOfMemoryError("CUDA out of memory")

    def forward(self: Backbone, denoiser, *batch):
        if denoiser is tight.denoiser:
            exhausted("forward")
        return compute(self, denoiser, *batch)

    def clipped(parameters, norm):
        exhausted("clip")
        return clip(parameters, norm)

    list(plain.run())
    monkeypatch.setattr(Backbone, "denoising_error", forward)
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", clipped)
    kinds = [type(event) for event in tight.run() if isinstance(event, Notice | StepDone)]
    assert kinds == [Notice, StepDone, StepDone, StepDone]
    assert same(weights(plain), weights(tight))
    assert tight.scaler.get_scale() == 2.0**11  # grown after three steps, none counted twice
    assert tight.scaler.state_dict() == plain.scaler.state_dict()


def test_the_8_bit_optimizer_trains_and_resumes(epsilon: Backbone) -> None:
    pytest.importorskip("bitsandbytes")
    config = make_config(optimizer="adamw8bit", steps=6)
    whole, first, second = (make_trainer(epsilon, config) for _ in range(3))
    list(whole.run())
    list(first.run(until=3))
    second.load_state_dict(first.state_dict())
    list(second.run())
    assert same(weights(whole), weights(second))
    # Large tensors alone are quantised; the tiny model has none, so its steps are AdamW's own.
    exact = make_trainer(epsilon, make_config(steps=6))
    list(exact.run())
    for name, weight in weights(exact).items():
        torch.testing.assert_close(weight, weights(whole)[name], rtol=0, atol=2e-3)


def test_an_optimizer_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="training.optimizer adamw8bit .* pip install bitsandbytes"):
        refuse_absent_optimizer(TrainingConfig(optimizer="adamw8bit"))
    refuse_absent_optimizer(TrainingConfig())
