"""DreamBooth: its loss by an independent computation, its class pictures, its settings."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import World
from teaching import (
    CLASS,
    dreambooth_config,
    make_config,
    make_task,
    make_trainer,
    prepared,
    squared_error,
    steps_of,
)
from tiny import LATENT_SHAPE

import rpo
from rpo.cli import commands as cli
from rpo.config import METHODS, load_config
from rpo.errors import UserError
from rpo.events import Drawn
from rpo.methods import method_class
from rpo.methods.dreambooth import DreamBooth
from rpo.methods.similarity import Similarity
from rpo.models import class_pictures, pictures
from rpo.models.backbone import Backbone

# --- the loss -----------------------------------------------------------------------------


@pytest.mark.parametrize("photos", [1, 3])
def test_loss_and_gradient_agree_with_an_independent_float64_computation(
    backbone: Backbone, photos: int
) -> None:
    weight = 0.7
    trainer = make_trainer(backbone, dreambooth_config(weight, training={"photos": photos}))
    data, kind = trainer.data, backbone.prediction_type
    tokens = [
        backbone.encode_prompts([text]).tokens for text in ("a photo of [V] dog", "a photo of dog")
    ]
    for step in range(3):
        model = copy.deepcopy(trainer.denoiser).double()
        batch = trainer.method.batch(data, step)
        error = squared_error(
            model,
            kind,
            data.reference_latents[batch.photos],
            tokens[0],
            batch.timesteps[0],
            batch.noise[0],
        )
        if photos > 1:
            index, timesteps, noise = batch.more
            assert len(index) == 2 * (photos - 1)
            further = data.reference_latents[index]
            error = torch.cat(
                [error, squared_error(model, kind, further, tokens[0], timesteps, noise)]
            )
        prior = squared_error(
            model,
            kind,
            data.class_latents[batch.pictures],
            tokens[1],
            batch.class_timesteps,
            batch.class_noise,
        )
        assert error.shape == (2 * photos,)
        assert prior.shape == (2,)
        loss = error.mean() + weight * prior.mean()
        loss.backward()
        norm = math.sqrt(sum((p.grad**2).sum().item() for p in model.parameters()))

        trainer._advance()
        (done,) = trainer.unreported()
        assert done.loss == pytest.approx(loss.item(), rel=1e-4)
        assert done.figures == pytest.approx(
            {"similarity": error.mean().item(), "prior": prior.mean().item()}, rel=1e-4
        )
        assert done.grad_norm == pytest.approx(norm, rel=2e-3)


def test_photos_and_their_noise_are_those_of_every_method(epsilon: Backbone) -> None:
    ours = make_trainer(epsilon, dreambooth_config())
    theirs = make_trainer(epsilon, make_config("similarity"))
    for step in range(3):
        a, b = (trainer.method.batch(trainer.data, step) for trainer in (ours, theirs))
        assert torch.equal(a.photos, b.photos)
        assert torch.equal(a.timesteps[0], b.timesteps[0])
        assert torch.equal(a.noise[0], b.noise[0])
        assert not torch.equal(a.class_noise, a.noise[0])
        assert not torch.equal(a.class_timesteps, a.timesteps[0])


def test_each_class_picture_comes_once_an_epoch(epsilon: Backbone) -> None:
    trainer = make_trainer(epsilon, dreambooth_config())
    visits = [
        index for step in range(50) for index in trainer.method.batch(trainer.data, step).pictures
    ]
    epochs = [visits[start : start + CLASS] for start in range(0, 100, CLASS)]
    assert all(sorted(epoch) == list(range(CLASS)) for epoch in epochs)
    assert len({tuple(map(int, epoch)) for epoch in epochs}) > 5


def test_without_weight_the_prior_changes_nothing(epsilon: Backbone) -> None:
    ours = make_trainer(epsilon, dreambooth_config(0.0), DreamBooth)
    theirs = make_trainer(epsilon, make_config("similarity"))
    pairs = list(zip(steps_of(ours.run()), steps_of(theirs.run()), strict=True))
    assert len(pairs) == 8
    for a, b in pairs:
        assert a.figures["prior"] > 0
        assert a.loss == a.figures["similarity"] == pytest.approx(b.loss, rel=1e-5)


def test_without_weight_nothing_is_drawn_for_it(epsilon: Backbone) -> None:
    assert method_class(dreambooth_config(0.0)) is Similarity
    assert method_class(dreambooth_config(0.1)) is DreamBooth


def test_a_batch_accumulated_is_the_same_step(epsilon: Backbone) -> None:
    whole = make_trainer(
        epsilon, dreambooth_config(training={"batch_size": 4, "steps": 1, "photos": 2})
    )
    shares = {"batch_size": 1, "accumulate": 4, "steps": 1, "photos": 2}
    parts = make_trainer(epsilon, dreambooth_config(training=shares))
    (a,), (b,) = (steps_of(trainer.run()) for trainer in (whole, parts))
    assert b.loss == pytest.approx(a.loss, rel=1e-5)
    assert b.grad_norm == pytest.approx(a.grad_norm, rel=1e-4)
    assert b.figures == pytest.approx(dict(a.figures), rel=1e-5)


def test_class_pictures_are_the_base_models_own(epsilon: Backbone) -> None:
    """Those that `sample` draws of the plain prompt, each by its own seed."""
    config = dreambooth_config()
    events = list(prepared(DreamBooth(make_task(epsilon, config))))
    data, (drawn,) = events[-1], [event for event in events if isinstance(event, Drawn)]
    assert drawn.prompts == ("a photo of dog",) * CLASS
    assert drawn.images is not None
    assert drawn.images.shape == (CLASS, 3, 16, 16)
    assert data.class_latents.shape == (CLASS, *LATENT_SHAPE)
    expected = pictures.sample(
        epsilon,
        epsilon.denoiser,
        epsilon.encode_prompts(["a photo of dog"]),
        [rpo.seeds.derive_seed(config.seed, "class picture", 3)],
        steps=config.sampling.steps,
        guidance_scale=config.sampling.guidance_scale,
        scheduler=config.sampling.scheduler,
    )
    torch.testing.assert_close(data.class_latents[3:4], expected, rtol=1e-4, atol=1e-4)
    assert len({row.sum().item() for row in data.class_latents}) == CLASS


def test_only_a_few_pictures_are_decoded(
    epsilon: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(class_pictures, "SHOWN", 2)
    events = list(prepared(DreamBooth(make_task(epsilon, dreambooth_config()))))
    (drawn,) = [event for event in events if isinstance(event, Drawn)]
    assert drawn.images is not None
    assert len(drawn.images) == len(drawn.prompts) == 2
    assert len(events[-1].class_latents) == CLASS


# --- settings and the command line --------------------------------------------------------


def test_the_papers_settings_and_the_small_worlds() -> None:
    paper = load_config("paper", method="dreambooth")
    assert (paper.dreambooth.class_images, paper.dreambooth.prior_weight) == (1000, 1.0)
    assert (paper.training.steps, paper.training.learning_rate) == (1000, 5e-6)
    small = load_config(method="dreambooth")
    assert (small.dreambooth.class_images, small.training.steps) == (64, 400)
    assert load_config(method="dreambooth", overrides=["training.steps=7"]).training.steps == 7
    with pytest.raises(UserError, match=r"dreambooth\.class_images must be >= 1, not 0"):
        load_config(overrides=["dreambooth.class_images=0"])
    with pytest.raises(UserError, match=r"dreambooth\.prior_weight must be >= 0"):
        load_config(overrides=["dreambooth.prior_weight=-1"])


def test_passes() -> None:
    config = load_config("paper", method="dreambooth", overrides=["training.photos=3"])
    passes = METHODS["dreambooth"].passes(config)
    assert (passes.learning, passes.base, passes.texts, passes.drawn) == (4, 0, 0, 0)
    assert passes.class_pictures == 1000


def test_method_and_presets_as_flags(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    flags = world.flags(**{"dreambooth.class_images": CLASS, "training.steps": 2})
    flags += ["--method", "dreambooth", "--preset", "lora", "--preset", "early-stop"]
    command = ["train", str(world.photos), *flags, "--out", str(out)]
    assert cli.run([*command, "--quiet"]) == 0
    config = rpo.load_run(out).config
    assert config.method == "dreambooth"
    assert (config.training.weights, config.validation.patience) == ("lora", 3)
    assert cli.run([*command, "--resume", "--quiet"]) == 0  # the same command goes on
    capsys.readouterr()
    assert cli.run(["train", str(world.photos), *world.flags(), "--method", "dreamboth"]) == 2
    assert "unknown method 'dreamboth'; did you mean dreambooth" in capsys.readouterr().err


def test_demo_takes_them_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(
        "rpo.cli.train._run_job", lambda subject, options, *_: given.update(options)
    )
    assert cli.run(["demo", "--method", "dreambooth", "--preset", "lora"]) == 0
    assert (given["method"], given["preset"]) == ("dreambooth", ["lora"])


def test_methods_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["methods"]) == 0
    out = capsys.readouterr().out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line}
    for name, facts in rpo.config.METHODS.items():
        assert f"{name}: {facts.title} ({facts.paper})" in out
        assert f"  {facts.learns}\n" in out
        assert name in rows
    learners = ["full,", "lora,", "dora"]
    assert rows["rpo"] == ["rpo", *learners, "2", "2", "0", "4", "a", "prompt"]
    assert rows["similarity"] == ["similarity", *learners, "1", "0", "0", "nothing"]
    assert rows["dreambooth"] == [
        "dreambooth",
        *learners,
        "2",
        "0",
        "0",
        "1000",
        "of",
        "the",
        "class",
    ]
