"""DreamBooth: its loss by an independent computation, its class pictures, and their cache."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import World, break_off, contents, make_world, measured, results
from safetensors import safe_open
from teaching import make_config, make_task, make_trainer, squared_error, steps_of
from tiny import LATENT_SHAPE, tiny_backbone, tiny_pipeline

import rpo
from rpo.cli import commands as cli
from rpo.config import METHODS, DreamBoothConfig, SamplingConfig, changed, load_config
from rpo.errors import UserError
from rpo.events import Drawn, Notice, Progress, StepDone
from rpo.methods import method_class
from rpo.methods.dreambooth import DreamBooth
from rpo.methods.similarity import Similarity
from rpo.models import class_pictures, pictures
from rpo.models.backbone import Backbone
from rpo.models.class_pictures import cache_folder

CLASS = 5


def dreambooth(weight: float = 1.0, **more: Any) -> Any:
    section = DreamBoothConfig(CLASS, weight)
    return make_config("dreambooth", dreambooth=section, sampling=SamplingConfig(2), **more)


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return tiny_backbone(request.param)


@pytest.fixture(scope="module")
def epsilon() -> Backbone:
    return tiny_backbone()


# --- the loss -----------------------------------------------------------------------------


@pytest.mark.parametrize("photos", [1, 3])
def test_loss_and_gradient_agree_with_an_independent_float64_computation(
    backbone: Backbone, photos: int
) -> None:
    weight = 0.7
    trainer = make_trainer(backbone, dreambooth(weight, training={"photos": photos}))
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
    ours = make_trainer(epsilon, dreambooth())
    theirs = make_trainer(epsilon, make_config("similarity"))
    for step in range(3):
        a, b = (trainer.method.batch(trainer.data, step) for trainer in (ours, theirs))
        assert torch.equal(a.photos, b.photos)
        assert torch.equal(a.timesteps[0], b.timesteps[0])
        assert torch.equal(a.noise[0], b.noise[0])
        assert not torch.equal(a.class_noise, a.noise[0])
        assert not torch.equal(a.class_timesteps, a.timesteps[0])


def test_each_class_picture_comes_once_an_epoch(epsilon: Backbone) -> None:
    trainer = make_trainer(epsilon, dreambooth())
    visits = [
        index for step in range(50) for index in trainer.method.batch(trainer.data, step).pictures
    ]
    epochs = [visits[start : start + CLASS] for start in range(0, 100, CLASS)]
    assert all(sorted(epoch) == list(range(CLASS)) for epoch in epochs)
    assert len({tuple(map(int, epoch)) for epoch in epochs}) > 5


def test_without_weight_the_prior_changes_nothing(epsilon: Backbone) -> None:
    ours = make_trainer(epsilon, dreambooth(0.0), DreamBooth)
    theirs = make_trainer(epsilon, make_config("similarity"))
    pairs = list(zip(steps_of(ours.run()), steps_of(theirs.run()), strict=True))
    assert len(pairs) == 8
    for a, b in pairs:
        assert a.figures["prior"] > 0
        assert a.loss == a.figures["similarity"] == pytest.approx(b.loss, rel=1e-5)


def test_without_weight_nothing_is_drawn_for_it(epsilon: Backbone) -> None:
    assert method_class(dreambooth(0.0)) is Similarity
    assert method_class(dreambooth(0.1)) is DreamBooth


def test_a_batch_accumulated_is_the_same_step(epsilon: Backbone) -> None:
    whole = make_trainer(epsilon, dreambooth(training={"batch_size": 4, "steps": 1, "photos": 2}))
    shares = {"batch_size": 1, "accumulate": 4, "steps": 1, "photos": 2}
    parts = make_trainer(epsilon, dreambooth(training=shares))
    (a,), (b,) = (steps_of(trainer.run()) for trainer in (whole, parts))
    assert b.loss == pytest.approx(a.loss, rel=1e-5)
    assert b.grad_norm == pytest.approx(a.grad_norm, rel=1e-4)
    assert b.figures == pytest.approx(dict(a.figures), rel=1e-5)


def test_class_pictures_are_the_base_models_own(epsilon: Backbone) -> None:
    """Those that `sample` draws of the plain prompt, each by its own seed."""
    config = dreambooth()
    events = list(_prepared(DreamBooth(make_task(epsilon, config))))
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


def _prepared(method: DreamBooth) -> Any:
    data = yield from method.prepare()
    yield data


def test_only_a_few_pictures_are_decoded(
    epsilon: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(class_pictures, "SHOWN", 2)
    events = list(_prepared(DreamBooth(make_task(epsilon, dreambooth()))))
    (drawn,) = [event for event in events if isinstance(event, Drawn)]
    assert drawn.images is not None
    assert len(drawn.images) == len(drawn.prompts) == 2
    assert len(events[-1].class_latents) == CLASS


# --- the whole job ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("kleine Welt"))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each call of `sample` draws; validations draw 2 at steps 0, 2 and 4."""
    calls: list[int] = []
    real = pictures.sample

    def sample(backbone: Any, denoiser: Any, conditions: Any, seeds: Any, **how: Any) -> Any:
        calls.append(len(seeds))
        return real(backbone, denoiser, conditions, seeds, **how)

    monkeypatch.setattr(pictures, "sample", sample)
    return calls


VALIDATIONS = [2, 2, 2]
SETTINGS: dict[str, Any] = {"method": "dreambooth", "dreambooth.class_images": CLASS}


def train(world: World, out: Path, **more: Any) -> list[Any]:
    settings = world.settings(**{**SETTINGS, **more})
    subject = rpo.Subject.from_folder(world.photos, "dog")
    return list(rpo.iterate(subject, model=str(world.model), out=out, settings=settings))


def notices(events: list[Any]) -> list[str]:
    return [event.message for event in events if isinstance(event, Notice)]


def cached() -> list[Path]:
    return sorted((cache_folder() / "class-pictures").iterdir())


def test_a_second_run_draws_no_class_picture(
    world: World, tmp_path: Path, drawn: list[int]
) -> None:
    events = train(world, tmp_path / "first")
    assert drawn == [CLASS, *VALIDATIONS]
    assert notices(events) == []
    (file,) = cached()
    with safe_open(str(file), framework="pt") as opened:
        facts = json.loads(opened.metadata()["provenance"])
        assert opened.get_slice("latents").get_shape() == [CLASS, *LATENT_SHAPE]
    assert facts["prompt"] == "a photo of dog"
    assert (facts["seed"], facts["number"], facts["resolution"]) == (0, CLASS, 16)
    assert facts["model"].keys() >= {"unet/diffusion_pytorch_model.safetensors"}

    drawn.clear()
    again = train(world, tmp_path / "second")
    assert drawn == VALIDATIONS
    assert Progress("sampling", CLASS, CLASS) in [
        Progress(event.phase, event.done, event.total)
        for event in again
        if isinstance(event, Progress)
    ]
    assert results(tmp_path / "second") == results(tmp_path / "first")
    assert measured(tmp_path / "second") == measured(tmp_path / "first")
    assert len(list((tmp_path / "second" / "images" / "training").iterdir())) == CLASS
    # What only says how the work is done draws the same pictures.
    drawn.clear()
    train(world, tmp_path / "third", **{"sampling.batch_size": 3, "training.steps": 2})
    assert drawn == VALIDATIONS[:2]


def prepare(backbone: Backbone, config: Any, files: Any = None) -> tuple[Any, list[str]]:
    """What a DreamBooth of that model has prepared, and its notices."""
    known = files or {"unet/model.safetensors": "1"}
    task = replace(make_task(backbone, config), model_files=lambda: known)
    *events, data = _prepared(DreamBooth(task))
    return data, notices(events)


def test_what_decides_the_pictures_draws_them_anew(epsilon: Backbone, drawn: list[int]) -> None:
    config = dreambooth()
    prepare(epsilon, config)
    prepare(epsilon, config)
    assert drawn == [CLASS]
    larger = Backbone(tiny_pipeline(), device="cpu", resolution=32)
    others = [
        changed(config, {key: value})
        for key, value in (
            ("seed", 4),
            ("noun", "cat"),
            ("dreambooth.class_images", 4),
            ("sampling.steps", 3),
            ("sampling.guidance_scale", 3.0),
            ("sampling.scheduler", "dpm++"),
            ("precision", "bf16"),
            ("quantize", "int8"),
        )
    ]
    for other in others:
        prepare(epsilon, other)
    prepare(larger, config)
    prepare(epsilon, config, {"unet/model.safetensors": "2"})
    assert len(drawn) == len(cached()) == 1 + len(others) + 2
    # What only says how the work is done, or what is learned of them, does not.
    for key, value in (
        ("sampling.batch_size", 2),
        ("sampling.images_per_prompt", 9),
        ("identifier", "sks"),
        ("training.steps", 9),
        ("dreambooth.prior_weight", 0.5),
    ):
        prepare(epsilon, changed(config, {key: value}))
    assert len(drawn) == len(cached())


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def _flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-7] ^= 1
    file.write_bytes(content)


def _write_nonsense(file: Path) -> None:
    file.write_bytes(b"\xff" * 50)


def _empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("damage", [_truncate, _flip_a_bit, _write_nonsense, _empty])
def test_a_damaged_cache_is_drawn_again(
    epsilon: Backbone, drawn: list[int], damage: Callable[[Path], None]
) -> None:
    first, _ = prepare(epsilon, dreambooth())
    (file,) = cached()
    damage(file)
    second, (message,) = prepare(epsilon, dreambooth())
    assert message.startswith(f"{file}: cannot be used (")
    assert "\n" not in message
    assert drawn == [CLASS, CLASS]
    assert torch.equal(second.class_latents, first.class_latents)
    assert cached() == [file]  # mended, and nothing else is left
    third, told = prepare(epsilon, dreambooth())
    assert (told, drawn) == ([], [CLASS, CLASS])
    assert torch.equal(third.class_latents, first.class_latents)


def test_pictures_of_something_else_under_the_right_name_are_refused(
    epsilon: Backbone, drawn: list[int]
) -> None:
    prepare(epsilon, dreambooth())
    (file,) = cached()
    prepare(epsilon, dreambooth(seed=4))
    (other,) = set(cached()) - {file}
    other.replace(file)
    _, (message,) = prepare(epsilon, dreambooth())
    assert "(it holds other pictures)" in message
    assert drawn == [CLASS] * 3


def test_a_cache_that_cannot_be_written_is_a_notice(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("mine", encoding="utf-8")
    monkeypatch.setenv("RPO_CACHE", str(in_the_way))
    events = train(world, tmp_path / "run")
    (message,) = notices(events)
    assert "cannot be written" in message
    assert "RPO_CACHE" in message
    assert in_the_way.read_text(encoding="utf-8") == "mine"
    assert isinstance(events[-1], rpo.events.Finished)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RPO_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("RPO_CACHE")
    monkeypatch.setattr(class_pictures.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "rpo"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "rpo"
    monkeypatch.setattr(class_pictures.sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "Local"))
    assert cache_folder() == tmp_path / "Local" / "rpo"


@pytest.mark.parametrize("weights", ["full", "lora"])
def test_resumed_equals_uninterrupted_without_the_cache(
    world: World, tmp_path: Path, drawn: list[int], weights: str
) -> None:
    how = {**SETTINGS, "training.weights": weights}
    train(world, tmp_path / "through", **how)
    for number, step in enumerate((1, 3)):
        out = tmp_path / f"broken at {step}"
        break_off(world, out, StepDone, step, **how)
        for file in cached():
            file.unlink()  # a run has its own copy
        drawn.clear()
        subject = rpo.Subject.from_folder(world.photos, "dog")
        list(rpo.iterate(subject, out=out, resume=True))
        assert drawn == VALIDATIONS[number + 1 :]
        assert results(out) == results(tmp_path / "through")
        assert measured(out) == measured(tmp_path / "through")
    best = set(contents(tmp_path / "through" / "best"))
    assert ("pytorch_lora_weights.safetensors" in best) is (weights == "lora")


def test_broken_off_while_drawing_leaves_no_half_of_a_cache(world: World, tmp_path: Path) -> None:
    how = {**SETTINGS, "sampling.batch_size": 1}
    break_off(world, tmp_path / "run", Progress, 2, **how)
    assert not (cache_folder() / "class-pictures").exists()


def test_prior_weight_0_is_the_similarity_run(
    world: World, tmp_path: Path, drawn: list[int]
) -> None:
    train(world, tmp_path / "ours", **{"dreambooth.prior_weight": 0.0})
    train(world, tmp_path / "theirs", method="similarity")
    assert drawn == VALIDATIONS * 2
    assert measured(tmp_path / "ours") == measured(tmp_path / "theirs")
    assert results(tmp_path / "ours") == results(tmp_path / "theirs")


def test_offloaded_text_encoders_tell_the_class_prompt_first(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: list[str] = []
    real = Backbone.remember_prompts

    def remember(self: Backbone, given: Any) -> None:
        texts.extend(given)
        real(self, given)

    monkeypatch.setattr(Backbone, "remember_prompts", remember)
    train(world, tmp_path / "run", offload=True)
    assert texts.count("a photo of dog") == 1
    texts.clear()
    train(world, tmp_path / "other", offload=True, method="similarity")
    assert "a photo of dog" not in texts


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
