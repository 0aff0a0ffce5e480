"""The loop's settings beyond the paper: schedule, average, several photos, mirrored photos."""

from __future__ import annotations

import copy
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import World, break_off, make_world, measured, results
from safetensors.torch import load_file
from teaching import (
    PHOTOS,
    Judge,
    make_config,
    make_task,
    make_trainer,
    same,
    squared_error,
    steps_of,
    weights,
)
from tiny import RESOLUTION, tiny_backbone

import rpo
from rpo.config import METHODS, RewardConfig, SamplingConfig, TrainingConfig, load_config
from rpo.errors import UserError
from rpo.events import Progress, StepDone, Validated
from rpo.models.backbone import Backbone
from rpo.runs.checkpoint import load_state, save_state
from rpo.training.loop import Trainer
from rpo.training.schedule import learning_rate


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return tiny_backbone(request.param)


@pytest.fixture(scope="module")
def epsilon() -> Backbone:
    return tiny_backbone()


def similarity(**training: Any) -> Any:
    return make_config("similarity", training=training)


def rpo_config(**training: Any) -> Any:
    return make_config("rpo", training=training, sampling=SamplingConfig(2, images_per_prompt=2))


def test_the_paper_has_none_of_them() -> None:
    settings = load_config("paper").training
    names = ("schedule", "warmup", "ema", "photos", "flip")
    assert [getattr(settings, name) for name in names] == ["constant", 0, 0.0, 1, False]
    assert {learning_rate(step, settings) for step in range(400)} == {settings.learning_rate}


# --- training.schedule and training.warmup ------------------------------------------------

HALF = math.sqrt(0.5)
RATES = {
    # by hand: 8 steps at 1e-3
    ("constant", 0): [1.0] * 8,
    ("linear", 0): [1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125],
    ("cosine", 0): [(1 + math.cos(math.pi * k / 8)) / 2 for k in range(8)],
    ("constant", 4): [0.25, 0.5, 0.75, 1, 1, 1, 1, 1],
    ("linear", 4): [0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25],
    ("cosine", 4): [0.25, 0.5, 0.75, 1, 1, (1 + HALF) / 2, 0.5, (1 - HALF) / 2],
    ("linear", 8): [0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1],
    ("cosine", 16): [(k + 1) / 16 for k in range(8)],  # a warm-up that is never over
}


@pytest.mark.parametrize(("schedule", "warmup"), RATES)
def test_the_rate_of_each_step(schedule: Any, warmup: int) -> None:
    settings = TrainingConfig(steps=8, learning_rate=1e-3, schedule=schedule, warmup=warmup)
    found = [learning_rate(step, settings) for step in range(8)]
    assert found == pytest.approx([1e-3 * share for share in RATES[schedule, warmup]])


@pytest.mark.parametrize(("schedule", "warmup"), [("linear", 0), ("cosine", 4)])
def test_the_rate_is_that_of_the_optimiser(epsilon: Backbone, schedule: str, warmup: int) -> None:
    """By weight decay: with a gradient of zero, each step multiplies by 1 - rate * decay."""
    config = make_config(
        "rpo",
        training={
            "beta": 0.0,
            "similarity_weight": 0,
            "weight_decay": 0.5,
            "schedule": schedule,
            "warmup": warmup,
        },
        sampling=SamplingConfig(2, images_per_prompt=1),
    )
    trainer = make_trainer(epsilon, config)
    for share in RATES[schedule, warmup]:
        before = weights(trainer)
        trainer._advance()
        for name, now in weights(trainer).items():
            torch.testing.assert_close(now, before[name] * (1 - 1e-3 * share * 0.5))
        assert [g["lr"] for g in trainer.optimizer.param_groups] == pytest.approx([1e-3 * share])


def test_a_schedule_resumes(epsilon: Backbone, tmp_path: Path) -> None:
    """The rate is a function of the step and the settings: no state of a scheduler is kept."""
    through = make_trainer(epsilon, similarity(schedule="cosine", warmup=3))
    list(through.run())
    before = make_trainer(epsilon, similarity(schedule="cosine", warmup=3))
    list(before.run(until=5))
    save_state(before.state_dict(), tmp_path / "state")
    after = make_trainer(epsilon, similarity(schedule="cosine", warmup=3))
    after.load_state_dict(load_state(tmp_path / "state"))
    list(after.run())
    assert same(weights(after), weights(through))


# --- training.ema -------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.6, 0.99])
def test_the_average_by_an_independent_recursion(epsilon: Backbone, decay: float) -> None:
    """a_0 = w_0; a_k = d a_(k-1) + (1 - d) w_k with d = min(decay, k / (k + 1))."""
    trainer = make_trainer(epsilon, similarity(ema=decay, steps=12))
    expected = {name: w.double() for name, w in weights(trainer).items()}
    history = [weights(trainer)]
    for k in range(1, 13):
        trainer._advance()
        history.append(weights(trainer))
        d = min(decay, k / (k + 1))
        for name, weight in history[-1].items():
            expected[name] = d * expected[name] + (1 - d) * weight.double()
            close = {"rtol": 1e-5, "atol": 1e-6}
            torch.testing.assert_close(trainer.average[name].double(), expected[name], **close)
    if decay == 0.99:  # never reached: the plain mean of all weights so far
        name = max(expected, key=lambda name: expected[name].numel())
        mean = torch.stack([past[name].double() for past in history]).mean(0)
        torch.testing.assert_close(expected[name], mean)
    assert not same(dict(trainer.average), weights(trainer))


def test_the_average_is_judged_and_the_weights_go_on(epsilon: Backbone) -> None:
    averaged = make_trainer(epsilon, similarity(ema=0.5))
    plain = make_trainer(epsilon, similarity())
    averages = {}
    for event in averaged.run():
        if isinstance(event, Validated):
            averages[event.step] = {n: a.clone() for n, a in averaged.average.items()}
    list(plain.run())
    assert same(weights(averaged), weights(plain))  # what learns knows nothing of it
    judge: Any = averaged.validator
    assert list(averages) == [0, 3, 6, 8]
    for seen, step in zip(judge.seen, averages, strict=True):
        assert same(seen, averages[step])
    assert not same(judge.seen[-1], weights(averaged))


def test_weights_come_back_where_a_validation_is_broken_off(epsilon: Backbone) -> None:
    class Impatient(Judge):
        def run(self, learner: Any) -> Any:
            yield from ()
            raise RuntimeError("broken off")

    trainer = make_trainer(epsilon, similarity(ema=0.5))
    list(trainer.run(until=2))
    before, average = weights(trainer), {n: a.clone() for n, a in trainer.average.items()}
    trainer.validator = Impatient()  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match="broken off"):
        list(trainer.run())
    assert trainer.step == 3
    assert not same(weights(trainer), before)
    assert not same(weights(trainer), dict(trainer.average))
    with trainer.averaged():
        assert not same(weights(trainer), average)
    through = make_trainer(epsilon, similarity(ema=0.5))
    list(through.run(until=3))
    assert same(weights(trainer), weights(through))


@pytest.mark.parametrize("pause", [0, 2, 3, 7])
def test_an_average_resumes(epsilon: Backbone, tmp_path: Path, pause: int) -> None:
    through = make_trainer(epsilon, similarity(ema=0.9))
    list(through.run())
    before = make_trainer(epsilon, similarity(ema=0.9))
    list(before.run(until=pause))
    save_state(before.state_dict(), tmp_path / "state")
    after = make_trainer(epsilon, similarity(ema=0.9))
    after.load_state_dict(load_state(tmp_path / "state"))
    list(after.run())
    assert same(weights(after), weights(through))
    assert same(dict(after.average), dict(through.average))


def test_a_state_taken_while_the_average_is_judged_resumes(epsilon: Backbone) -> None:
    """Then the weights and their average have changed places."""
    through = make_trainer(epsilon, similarity(ema=0.9))
    list(through.run())
    broken, state = make_trainer(epsilon, similarity(ema=0.9)), {}
    for event in broken.run():
        if isinstance(event, Progress) and broken.step == 3:
            state = copy.deepcopy(broken.state_dict())
            break
    after = make_trainer(epsilon, similarity(ema=0.9))
    after.load_state_dict(state)
    list(after.run())
    assert same(weights(after), weights(through))
    assert same(dict(after.average), dict(through.average))


def test_a_state_without_an_average_is_refused(epsilon: Backbone) -> None:
    plain = make_trainer(epsilon, similarity())
    with pytest.raises(UserError, match="another model"):
        make_trainer(epsilon, similarity(ema=0.9)).load_state_dict(plain.state_dict())


# --- training.photos ----------------------------------------------------------------------


@pytest.mark.parametrize("method", ["similarity", "rpo"])
def test_several_photos_by_an_independent_float64_computation(
    backbone: Backbone, method: str
) -> None:
    """L_sim is the mean over all of them; L_pref knows only the first of each pair."""
    make = similarity if method == "similarity" else rpo_config
    trainer = make_trainer(backbone, make(photos=3))
    data, kind = trainer.data, backbone.prediction_type
    tokens = backbone.encode_prompts(["a photo of [V] dog"]).tokens
    base = copy.deepcopy(backbone.denoiser).double()
    for step in range(2):
        model = copy.deepcopy(trainer.denoiser).double()
        batch = trainer.method.batch(data, step)
        index, timesteps, noise = batch.more
        assert (len(batch.photos), len(index)) == (2, 4)
        assert not torch.equal(noise[:2], batch.noise[0])
        with torch.no_grad():
            rows = (
                data.reference_latents[torch.cat([batch.photos, index])],
                tokens,
                torch.cat([batch.timesteps[0], timesteps]),
                torch.cat([batch.noise[0], noise]),
            )
            error = squared_error(model, kind, *rows)
            loss = error.mean()
            if method == "rpo":
                delta_ref = squared_error(base, kind, *rows)[:2] - error[:2]
                delta_gen = []
                for row in range(2):
                    one = (
                        data.generated_latents[batch.generated[row]][None],
                        data.generated_conditions[[int(batch.generated[row])]].tokens,
                        batch.timesteps[1][[row]],
                        batch.noise[1][[row]],
                    )
                    difference = squared_error(base, kind, *one) - squared_error(model, kind, *one)
                    delta_gen.append(difference)
                margin = delta_ref - torch.cat(delta_gen)
                wins, y = torch.sigmoid(margin), batch.labels.double()
                loss = loss - (y * wins.log() + (1 - y) * (1 - wins).log()).mean()
        trainer._advance()
        (done,) = trainer.unreported()
        assert done.figures["similarity"] == pytest.approx(error.mean().item(), rel=1e-4)
        assert done.loss == pytest.approx(loss.item(), rel=1e-4)


@pytest.mark.parametrize("method", ["similarity", "rpo"])
def test_several_photos_accumulated_are_the_same_step(epsilon: Backbone, method: str) -> None:
    make = similarity if method == "similarity" else rpo_config
    whole = make_trainer(epsilon, make(photos=3, batch_size=4, steps=1))
    parts = make_trainer(epsilon, make(photos=3, batch_size=1, accumulate=4, steps=1))
    (a,), (b,) = (steps_of(trainer.run()) for trainer in (whole, parts))
    assert b.loss == pytest.approx(a.loss, rel=1e-5)
    assert b.grad_norm == pytest.approx(a.grad_norm, rel=1e-4)


def test_further_photos_leave_the_pairs_as_they_are(epsilon: Backbone) -> None:
    one, three = (make_trainer(epsilon, rpo_config(photos=photos)) for photos in (1, 3))
    for step in range(3):
        a, b = (trainer.method.batch(trainer.data, step) for trainer in (one, three))
        for name in ("photos", "labels", "generated"):
            assert torch.equal(getattr(a, name), getattr(b, name))
        assert torch.equal(a.noise[0], b.noise[0])
        assert a.more == ()
    rows: list[int] = []
    hook = three.denoiser.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    three._advance()
    hook.remove()
    assert rows == [2 * METHODS[three.config.method].passes(three.config).learning]


def test_all_photos_are_seen_equally(epsilon: Backbone) -> None:
    trainer = make_trainer(epsilon, similarity(photos=3))
    batches = [trainer.method.batch(trainer.data, step) for step in range(200)]
    seen = Counter(index for batch in batches for index in batch.more[0].tolist())
    assert all(abs(seen[photo] - 800 / PHOTOS) < 5 * 13.4 for photo in range(PHOTOS))  # 5 sigma


# --- training.flip ------------------------------------------------------------------------


@pytest.mark.parametrize("photos", [1, 2])
def test_mirrored_photos_are_seen_half_of_the_time(epsilon: Backbone, photos: int) -> None:
    trainer = make_trainer(epsilon, rpo_config(flip=True, photos=photos))
    plain = make_trainer(epsilon, rpo_config(photos=photos))
    pixels = make_task(epsilon, trainer.config).subject.tensor(RESOLUTION)
    latents = trainer.data.reference_latents
    assert len(latents) == 2 * PHOTOS
    assert torch.equal(latents[:PHOTOS], plain.data.reference_latents)
    mirrored = epsilon.encode_images(pixels.flip(-1))
    assert torch.equal(latents[PHOTOS:], mirrored)
    assert not torch.allclose(mirrored, latents[:PHOTOS])
    flips = []
    for step in range(300):
        a, b = (one.method.batch(one.data, step) for one in (trainer, plain))
        # The same photos, labels and noise as without; only the side changes.
        assert torch.equal(a.photos % PHOTOS, b.photos)
        assert torch.equal(a.labels, b.labels)
        assert torch.equal(a.noise[0], b.noise[0])
        flips += (a.photos >= PHOTOS).tolist()
        if photos > 1:
            assert torch.equal(a.more[0] % PHOTOS, b.more[0])
            assert torch.equal(a.more[2], b.more[2])
            flips += (a.more[0] >= PHOTOS).tolist()
    assert abs(sum(flips) - len(flips) / 2) < 5 * math.sqrt(len(flips)) / 2  # 5 sigma


def test_a_mirrored_photo_has_its_photos_labels(epsilon: Backbone) -> None:
    config = rpo_config(flip=True)
    expected = make_config(
        "rpo",
        training={"flip": True},
        sampling=config.sampling,
        reward=RewardConfig(labels="expected"),
    )
    trainer = make_trainer(epsilon, expected)
    pictures = len(trainer.data.generated_latents)
    # What make_task's reward gives: photo i, picture j have a gap of their own.
    gaps = torch.linspace(-3, 3, PHOTOS * pictures).view(PHOTOS, pictures)
    for step in range(50):
        batch = trainer.method.batch(trainer.data, step)
        wanted = torch.sigmoid(gaps)[batch.photos % PHOTOS, batch.generated]
        torch.testing.assert_close(batch.labels, wanted)


def test_the_mirrored_latents_reach_the_loss(epsilon: Backbone) -> None:
    trainer = make_trainer(epsilon, similarity(flip=True, steps=20))
    tokens = epsilon.encode_prompts(["a photo of [V] dog"]).tokens
    found = 0
    for step in range(20):
        batch = trainer.method.batch(trainer.data, step)
        model = copy.deepcopy(trainer.denoiser).double()
        pixels = make_task(epsilon, trainer.config).subject.tensor(RESOLUTION)
        shown = torch.stack(
            [pixels[i % PHOTOS].flip(-1) if i >= PHOTOS else pixels[i] for i in batch.photos]
        )
        with torch.no_grad():
            error = squared_error(
                model,
                "epsilon",
                epsilon.encode_images(shown),
                tokens,
                batch.timesteps[0],
                batch.noise[0],
            )
        trainer._advance()
        (done,) = trainer.unreported()
        assert done.loss == pytest.approx(error.mean().item(), rel=1e-4)
        found += int((batch.photos >= PHOTOS).sum())
    assert 0 < found < 40


# --- all together, in the real job --------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("kleine Welt"))


ALL = {
    "training.schedule": "cosine",
    "training.warmup": 2,
    "training.ema": 0.9,
    "training.photos": 2,
    "training.flip": True,
}


@pytest.mark.parametrize("weights", ["full", "lora"])
def test_resumed_equals_uninterrupted_with_all_of_them(
    world: World, tmp_path: Path, weights: str
) -> None:
    how = {**ALL, "training.weights": weights}
    subject = rpo.Subject.from_folder(world.photos, "dog")
    through = tmp_path / "through"
    settings = world.settings(**how)
    list(rpo.iterate(subject, model=str(world.model), out=through, settings=settings))
    for step in (1, 3):
        out = tmp_path / f"broken at {step}"
        break_off(world, out, StepDone, step, **how)
        list(rpo.iterate(subject, out=out, resume=True))
        assert results(out) == results(through)
        assert measured(out) == measured(through)


def test_broken_off_while_the_average_is_judged(world: World, tmp_path: Path) -> None:
    subject = rpo.Subject.from_folder(world.photos, "dog")

    def events(out: Path) -> Any:
        settings = world.settings(**ALL)
        return rpo.iterate(subject, model=str(world.model), out=out, settings=settings)

    list(events(tmp_path / "through"))
    broken, steps = events(tmp_path / "broken"), 0
    for event in broken:
        steps += isinstance(event, StepDone)
        if steps == 2 and isinstance(event, Progress) and event.phase == "validation":
            break
    broken.close()
    list(rpo.iterate(subject, out=tmp_path / "broken", resume=True))
    assert results(tmp_path / "broken") == results(tmp_path / "through")


def test_more_steps_do_not_fit_a_schedule_that_ends(world: World, tmp_path: Path) -> None:
    """Its earlier steps would have had other rates."""
    subject, out = rpo.Subject.from_folder(world.photos, "dog"), tmp_path / "run"
    break_off(world, out, StepDone, 1, **{"training.schedule": "linear"})
    with pytest.raises(UserError, match=r"training\.steps = 4, not 8.*leave that out"):
        list(rpo.iterate(subject, out=out, resume=True, settings=["training.steps=8"]))
    constant = tmp_path / "constant"
    break_off(world, constant, StepDone, 1, **{"training.warmup": 2})
    list(rpo.iterate(subject, out=constant, resume=True, settings=["training.steps=6"]))
    assert rpo.load_run(constant).finished


def test_what_is_kept_is_the_average(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    averages: list[dict[str, Any]] = []
    real = Trainer._validate

    def validate(self: Trainer) -> Any:
        yield from real(self)
        averages.append({name: a.clone() for name, a in self.average.items()})
        assert not same(averages[-1], weights(self)) or self.step == 0

    monkeypatch.setattr(Trainer, "_validate", validate)
    settings = world.settings(**{"training.ema": 0.9, "validation.keep": "last"})
    subject = rpo.Subject.from_folder(world.photos, "dog")
    list(rpo.iterate(subject, model=str(world.model), out=tmp_path / "run", settings=settings))
    kept = load_file(tmp_path / "run" / "best" / "unet" / "diffusion_pytorch_model.safetensors")
    assert len(averages) == 3
    assert same(kept, averages[-1])
