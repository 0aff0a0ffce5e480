"""The loop against an independent computation, and what must hold whatever the settings."""

from __future__ import annotations

import copy
import dataclasses
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import LATENT_SHAPE, RESOLUTION, tiny_backbone
from torch import Tensor, nn

from rpo.config import Config, TrainingConfig, ValidationConfig
from rpo.errors import UserError
from rpo.events import Notice, Progress, StepDone, Stopped, Validated
from rpo.learners import learner_class
from rpo.learners.learner import Learner
from rpo.methods import method_class
from rpo.methods.method import Task
from rpo.methods.rpo import LabelledPairs
from rpo.models.backbone import Backbone
from rpo.rewards.harmonic import Scores
from rpo.runs.checkpoint import load_state, save_state
from rpo.training.loop import Trainer, refuse_absent_optimizer

PHOTOS, PICTURES = 3, 5
NOTHING: Any = (None, (), None)  # subject, prompts and reward, which a step does not read


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return tiny_backbone(request.param)


@pytest.fixture(scope="module")
def epsilon() -> Backbone:
    return tiny_backbone()


def make_data(backbone: Backbone) -> LabelledPairs:
    texts = [f"a [V] dog {k}" for k in range(PICTURES)]
    return LabelledPairs(
        reference_latents=normal(PHOTOS, *LATENT_SHAPE),
        generated_latents=normal(PICTURES, *LATENT_SHAPE, seed=1),
        reference_conditions=backbone.encode_prompts(["a photo of [V] dog"]),
        generated_conditions=backbone.encode_prompts(texts),
        probabilities=torch.linspace(0.05, 0.95, PHOTOS * PICTURES).view(PHOTOS, PICTURES),
    )


def make_config(seed: int = 3, every: int = 3, patience: int = 0, **training) -> Config:
    training = {"steps": 8, "learning_rate": 1e-3, "batch_size": 2, **training}
    return Config(
        noun="dog",
        seed=seed,
        training=TrainingConfig(**training),
        validation=ValidationConfig(every=every, patience=patience, steps=2),
    )


def first_step(trainer: Trainer) -> StepDone:
    trainer._advance()
    (step,) = trainer.unreported()
    return step


class Judge:
    """Stands in for a Validator: rewards from a list, else by the weights themselves."""

    prompts = ("a [V] dog on the Moon",)

    def __init__(self, rewards: list[float] | None = None) -> None:
        self.rewards = list(rewards or [])

    def run(self, learner: Learner):
        yield Progress("validation", 0, 1)
        total = sum(p.double().sum().item() for p in learner.denoiser.parameters())
        by_weights = 0.5 + 0.4 * math.sin(
            1e3 * total
        )  # up and down from one validation to the next
        value = torch.tensor([self.rewards.pop(0) if self.rewards else by_weights])
        return Scores(value, value), torch.zeros(1, 3, 4, 4, dtype=torch.uint8)

    def figures(self, pictures: Tensor) -> dict[str, float]:
        return {}


def make_trainer(backbone: Backbone, config: Config, rewards: list[float] | None = None) -> Trainer:
    method = method_class(config)(Task(backbone, config, *NOTHING))
    learner = learner_class(config.training.weights)(backbone, config)
    return Trainer(learner, method, make_data(backbone), config, Judge(rewards))


def drawn(trainer: Trainer, step: int) -> Any:
    """The batch of a step."""
    return trainer.method.batch(trainer.data, step)


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in trainer.denoiser.named_parameters()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def comparable(events) -> list:
    """Events without their pictures, which == cannot compare."""
    return [
        dataclasses.replace(event, images=None) if isinstance(event, Validated) else event
        for event in events
    ]


# --- one gradient step ------------------------------------------------------------------------


def alpha_bar(prediction_type: str) -> Tensor:
    """(1000,) in float64, from the schedules' own formulas."""
    if prediction_type == "epsilon":
        betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    else:
        power = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.minimum(1 - power[1:] / power[:-1], 0.999)
    return torch.from_numpy(np.cumprod(1 - betas))


@pytest.mark.parametrize("independent_noise", [False, True])
def test_gradient_steps_agree_with_an_independent_float64_computation(
    backbone: Backbone, independent_noise: bool
) -> None:
    lr, decay, clip, beta, sim_weight, pref_weight = 1e-3, 0.1, 0.05, 7.0, 0.6, 1.7
    config = make_config(
        learning_rate=lr,
        weight_decay=decay,
        max_grad_norm=clip,
        beta=beta,
        similarity_weight=sim_weight,
        preference_weight=pref_weight,
        independent_noise=independent_noise,
    )
    trainer, data = make_trainer(backbone, config), make_data(backbone)
    base = copy.deepcopy(backbone.denoiser).double()
    model = copy.deepcopy(base).requires_grad_(True)
    first = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    second = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    solid = {name: torch.ones_like(p, dtype=torch.bool) for name, p in model.named_parameters()}
    power = alpha_bar(backbone.prediction_type)

    def error(denoiser, latents, embeddings, timesteps, noise):
        signal = power[timesteps].sqrt()[:, None, None, None]
        sigma = (1 - power[timesteps]).sqrt()[:, None, None, None]
        noise = noise.double()
        truth = noise if backbone.prediction_type == "epsilon" else signal * noise - sigma * latents
        said = denoiser(signal * latents + sigma * noise, timesteps, embeddings.double()).sample
        return ((truth - said) ** 2).mean(dim=(1, 2, 3))

    events = (event for event in trainer.run() if isinstance(event, StepDone))
    for step in range(3):
        pairs = drawn(trainer, step)
        assert (pairs.noise[0] is pairs.noise[1]) is not independent_noise
        assert torch.equal(pairs.timesteps[0], pairs.timesteps[1]) is not independent_noise
        ref = (
            data.reference_latents[pairs.photos].double(),
            data.reference_conditions.tokens.repeat(2, 1, 1),
            pairs.timesteps[0],
            pairs.noise[0],
        )
        gen = (
            data.generated_latents[pairs.generated].double(),
            data.generated_conditions.tokens[pairs.generated],
            pairs.timesteps[1],
            pairs.noise[1],
        )
        with torch.no_grad():
            base_ref, base_gen = error(base, *ref), error(base, *gen)
        error_ref, error_gen = error(model, *ref), error(model, *gen)
        margin = beta * ((base_ref - error_ref) - (base_gen - error_gen))
        wins = 1 / (1 + (-margin).exp())
        y = pairs.labels.double()
        preference = -(y * wins.log() + (1 - y) * (1 - wins).log()).mean()
        loss = sim_weight * error_ref.mean() + pref_weight * preference
        model.zero_grad()
        loss.backward()
        norm = math.sqrt(sum((p.grad**2).sum().item() for p in model.parameters()))
        assert norm > clip  # or the clipping would go untested

        for name, p in model.named_parameters():
            gradient = p.grad * clip / norm
            # Where the true gradient is zero, Adam blows rounding noise up to a full step.
            solid[name] &= gradient.abs() > 1e-6
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            unbiased = second[name] / (1 - 0.999 ** (step + 1))
            ratio = first[name] / (1 - 0.9 ** (step + 1)) / (unbiased.sqrt() + 1e-8)
            p.data = p.data * (1 - lr * decay) - lr * ratio

        done = next(events)
        assert done.step == step + 1
        assert done.figures["similarity"] == pytest.approx(error_ref.mean().item(), rel=1e-4)
        assert done.figures["preference"] == pytest.approx(preference.item(), rel=1e-4)
        assert done.figures["margin"] == pytest.approx(margin.mean().item(), abs=1e-4)
        assert done.loss == pytest.approx(loss.item(), rel=1e-4)
        assert done.grad_norm == pytest.approx(norm, rel=2e-3)
        assert done.figures["label_mean"] == y.mean().item()

    assert sum(mask.sum() for mask in solid.values()) > 0.7 * sum(m.numel() for m in solid.values())
    for name, p in trainer.denoiser.named_parameters():
        expected = dict(model.named_parameters())[name].data
        difference = (p.detach().double() - expected)[solid[name]].abs()
        assert difference.numel() == 0 or difference.max() < 0.02 * lr, name


def test_untouched_weights_have_delta_zero_and_loss_log_2(backbone: Backbone) -> None:
    trainer = make_trainer(backbone, make_config(beta=5.0))
    step = next(event for event in trainer.run() if isinstance(event, StepDone))
    assert step.figures["margin"] == pytest.approx(0, abs=1e-6)
    assert step.figures["preference"] == pytest.approx(math.log(2), abs=1e-6)
    assert step.loss == pytest.approx(step.figures["similarity"] + math.log(2), abs=1e-6)


def test_without_any_pull_nothing_moves(epsilon: Backbone) -> None:
    trainer = make_trainer(epsilon, make_config(beta=0.0, similarity_weight=0, weight_decay=0))
    before = weights(trainer)
    steps = [event for event in trainer.run() if isinstance(event, StepDone)]
    assert len(steps) == 8
    assert all(step.grad_norm == 0 for step in steps)  # so every gradient is exactly zero
    assert same(weights(trainer), before)


def test_weight_decay_alone_shrinks(epsilon: Backbone) -> None:
    config = make_config(beta=0.0, similarity_weight=0, weight_decay=0.5, steps=1)
    trainer = make_trainer(epsilon, config)
    before = weights(trainer)
    list(trainer.run())
    for name, weight in weights(trainer).items():
        torch.testing.assert_close(weight, before[name] * (1 - 1e-3 * 0.5))


def test_similarity_alone_never_asks_the_base_model(epsilon: Backbone) -> None:
    rows: dict[str, list[int]] = {"base": [], "trained": []}
    trainer = make_trainer(epsilon, make_config(preference_weight=0, steps=2))
    hooks = [
        module.register_forward_pre_hook(lambda _, args, who=who: rows[who].append(len(args[0])))
        for who, module in (("base", epsilon.denoiser), ("trained", trainer.denoiser))
    ]
    alone = [event for event in trainer.run() if isinstance(event, StepDone)]
    for hook in hooks:
        hook.remove()
    assert rows == {"base": [], "trained": [2, 2]}
    assert all(step.figures == {"similarity": step.loss} for step in alone)
    # An ablation sees the very photos and noises of the full method.
    full = make_trainer(epsilon, make_config(steps=2))
    first = next(event for event in full.run() if isinstance(event, StepDone))
    assert first.figures["similarity"] == pytest.approx(alone[0].figures["similarity"], rel=1e-5)


def test_preference_alone(epsilon: Backbone) -> None:
    trainer = make_trainer(epsilon, make_config(similarity_weight=0, preference_weight=2, steps=2))
    for step in (event for event in trainer.run() if isinstance(event, StepDone)):
        assert step.loss == pytest.approx(2 * step.figures["preference"])
        assert step.grad_norm > 0


# --- what a step draws ------------------------------------------------------------------------


def test_labels_have_their_pairs_frequency(epsilon: Backbone) -> None:
    trainer = make_trainer(epsilon, make_config())
    seen: dict[tuple[int, int], list[float]] = {}
    for step in range(3000):
        pairs = drawn(trainer, step)
        rows = torch.stack([pairs.photos, pairs.generated, pairs.labels], dim=1)
        for i, j, label in rows.tolist():
            seen.setdefault((i, j), []).append(label)
    assert len(seen) == PHOTOS * PICTURES
    for (i, j), labels in seen.items():
        p = 0.05 + 0.9 * (i * PICTURES + j) / (PHOTOS * PICTURES - 1)
        assert set(labels) == {0.0, 1.0}
        assert abs(np.mean(labels) - p) < 4 * math.sqrt(p * (1 - p) / len(labels))


def test_all_generated_pictures_are_used_equally(epsilon: Backbone) -> None:
    trainer = make_trainer(epsilon, make_config())
    visits = [j for step in range(50) for j in drawn(trainer, step).generated.tolist()]
    epochs = [visits[k : k + PICTURES] for k in range(0, 100, PICTURES)]
    assert all(sorted(epoch) == list(range(PICTURES)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 10  # shuffled anew
    photos = Counter(i for step in range(600) for i in drawn(trainer, step).photos.tolist())
    assert all(abs(photos[i] - 400) < 80 for i in range(PHOTOS))  # 5 sigma


def test_noise_and_timesteps_are_fresh_and_well_spread(epsilon: Backbone) -> None:
    trainer = make_trainer(epsilon, make_config())
    seen = [drawn(trainer, step) for step in range(500)]
    timesteps = torch.cat([pairs.timesteps[0] for pairs in seen]).double()
    assert 0 <= timesteps.min() < 20
    assert 980 <= timesteps.max() <= 999
    assert abs(timesteps.mean() - 499.5) < 5 * 288.7 / math.sqrt(1000)
    noise = torch.cat([pairs.noise[0] for pairs in seen]).double()
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01
    assert len({row[0, 0, 0].item() for row in noise}) == 1000


# --- the course of a run ----------------------------------------------------------------------


def test_events_in_order(epsilon: Backbone) -> None:
    trainer = make_trainer(epsilon, make_config(steps=7), rewards=[0.3, 0.5, 0.5, 0.4])
    events = list(trainer.run())
    validated = [event for event in events if isinstance(event, Validated)]
    assert [(v.step, v.improved) for v in validated] == [(0, 1), (3, 1), (6, 0), (7, 0)]
    assert [v.reward for v in validated] == pytest.approx([0.3, 0.5, 0.5, 0.4])
    assert [e.step for e in events if isinstance(e, StepDone)] == list(range(1, 8))
    assert events[-1] == Stopped(7, 3, "finished")
    kinds = "".join(type(event).__name__[0] for event in events)
    assert kinds == "PV" + "SSSPV" + "SSSPV" + "SPV" + "S"


def test_all_steps_done_is_finished_though_the_patience_ran_out(epsilon: Backbone) -> None:
    trainer = make_trainer(epsilon, make_config(steps=6, patience=1), rewards=[0.5, 0.9, 0.1])
    assert list(trainer.run())[-1] == Stopped(6, 3, "finished")


def test_gradients_do_not_outlive_their_step(epsilon: Backbone) -> None:
    trainer = make_trainer(epsilon, make_config(steps=1))
    list(trainer.run())
    assert [p for p in trainer.parameters.values() if p.grad is not None] == []


@pytest.mark.parametrize("every", [2, 100])
def test_steps_reported_together_are_the_same_steps(epsilon: Backbone, every: int) -> None:
    """As on a GPU, which the host asks for its figures only now and then."""
    single, grouped = (make_trainer(epsilon, make_config(steps=8)) for _ in range(2))
    grouped.report_every = every
    expected, ahead = comparable(single.run()), 0
    events = []
    for event in grouped.run():
        events += comparable([event])
        if isinstance(event, StepDone):
            ahead = max(ahead, grouped.step - event.step)
    assert events == expected
    assert ahead == min(every, 3) - 1  # a validation every 3 steps comes in between
    assert same(weights(single), weights(grouped))


def test_steps_that_nobody_saw_are_not_forgotten(epsilon: Backbone) -> None:
    trainer = make_trainer(epsilon, make_config(steps=8, every=100))
    trainer.report_every = 5
    seen = []
    for event in trainer.run():
        if isinstance(event, StepDone):
            seen.append(event.step)
            if event.step == 2:
                break
    assert trainer.step == 5
    assert seen + [event.step for event in trainer.unreported()] == [1, 2, 3, 4, 5]
    assert trainer.unreported() == []


def test_patience_stops(epsilon: Backbone) -> None:
    trainer = make_trainer(epsilon, make_config(steps=30, patience=2), rewards=[0.1, 0.9, 0.2, 0.3])
    assert list(trainer.run())[-1] == Stopped(9, 3, "patience")
    assert list(trainer.run()) == [Stopped(9, 3, "patience")]
    patient = make_trainer(epsilon, make_config(steps=30, patience=3), rewards=[0.1, 0.95])
    patient.load_state_dict(trainer.state_dict())
    assert isinstance(next(patient.run()), StepDone)  # a raised patience goes on


@pytest.mark.parametrize("pause", [0, 3, 4, 7])
def test_resumed_equals_uninterrupted(backbone: Backbone, pause: int, tmp_path: Path) -> None:
    config = make_config()
    through = make_trainer(backbone, config)
    expected = comparable(through.run())

    before = make_trainer(backbone, config)
    events = comparable(before.run(until=pause))
    save_state(before.state_dict(), tmp_path / "state.safetensors")
    after = make_trainer(backbone, config)
    after.load_state_dict(load_state(tmp_path / "state.safetensors"))
    events += comparable(after.run())
    assert events == expected
    assert same(weights(after), weights(through))


@pytest.mark.parametrize("last_seen", [StepDone, Progress, Validated])
def test_a_state_taken_at_any_event_resumes(epsilon: Backbone, last_seen: type) -> None:
    """Even between a step and the validation that is due after it."""
    through = make_trainer(epsilon, make_config())
    expected = comparable(through.run())
    broken, events, state = make_trainer(epsilon, make_config()), [], {}
    for event in broken.run():
        events += comparable([event])
        if broken.step == 3 and isinstance(event, last_seen):
            state = broken.state_dict()
            break
    after = make_trainer(epsilon, make_config())
    after.load_state_dict(state)
    list(broken.run())  # the source of the state may go on: nothing is shared
    events += comparable(after.run())
    skip = Progress("validation", 0, 1)
    assert [e for e in events if e != skip] == [e for e in expected if e != skip]
    assert same(weights(after), weights(through))


def test_the_seed_decides_everything(epsilon: Backbone) -> None:
    def outcome(seed: int) -> tuple[list, dict[str, Tensor]]:
        torch.manual_seed(torch.seed())  # the global generator has no say
        trainer = make_trainer(epsilon, make_config(seed=seed))
        return comparable(trainer.run()), weights(trainer)

    (events, first), (again, second), (_, other) = outcome(0), outcome(0), outcome(1)
    assert events == again
    assert same(first, second)
    assert not same(first, other)


def test_a_state_of_another_model_is_refused(epsilon: Backbone) -> None:
    trainer = make_trainer(epsilon, make_config())
    state = trainer.state_dict()
    state["weights"] = dict(list(state["weights"].items())[1:])
    with pytest.raises(UserError, match="another model"):
        trainer.load_state_dict(state)
    with pytest.raises(UserError, match="another model"):
        trainer.load_state_dict({})


def test_not_a_number_stops_with_a_remedy(epsilon: Backbone) -> None:
    trainer = make_trainer(epsilon, make_config())
    trainer.data.reference_latents[:] = math.nan
    before = weights(trainer)
    with pytest.raises(UserError, match=r"loss became nan at step 1.*learning_rate") as caught:
        list(trainer.run())
    assert "\n" not in str(caught.value)
    assert same(weights(trainer), before)

    runaway = make_trainer(epsilon, make_config(learning_rate=1e20))
    with pytest.raises(UserError, match=r"at step [2-8].*training.learning_rate 1e\+20"):
        list(runaway.run())


# --- memory and arithmetic --------------------------------------------------------------------


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


def test_expected_labels_are_the_pairs_own_probabilities(epsilon: Backbone) -> None:
    config = make_config()
    reward = dataclasses.replace(config.reward, labels="expected")
    trainer = make_trainer(epsilon, dataclasses.replace(config, reward=reward))
    for step in range(4):
        pairs = drawn(trainer, step)
        assert torch.equal(pairs.labels, trainer.data.probabilities[pairs.photos, pairs.generated])
