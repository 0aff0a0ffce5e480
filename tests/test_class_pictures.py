"""Class pictures in the whole job: drawn once, cached, and drawn again where damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import World, break_off, contents, measured, results
from safetensors import safe_open
from teaching import (
    CLASS,
    dreambooth_config,
    make_task,
    prepared,
)
from tiny import LATENT_SHAPE, tiny_pipeline

import rpo
from rpo.config import changed
from rpo.events import Notice, Progress, StepDone
from rpo.methods.dreambooth import DreamBooth
from rpo.models import class_pictures, pictures
from rpo.models.backbone import Backbone
from rpo.models.class_pictures import cache_folder


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
    *events, data = prepared(DreamBooth(task))
    return data, notices(events)


def test_what_decides_the_pictures_draws_them_anew(epsilon: Backbone, drawn: list[int]) -> None:
    config = dreambooth_config()
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
    first, _ = prepare(epsilon, dreambooth_config())
    (file,) = cached()
    damage(file)
    second, (message,) = prepare(epsilon, dreambooth_config())
    assert message.startswith(f"{file}: cannot be used (")
    assert "\n" not in message
    assert drawn == [CLASS, CLASS]
    assert torch.equal(second.class_latents, first.class_latents)
    assert cached() == [file]  # mended, and nothing else is left
    third, told = prepare(epsilon, dreambooth_config())
    assert (told, drawn) == ([], [CLASS, CLASS])
    assert torch.equal(third.class_latents, first.class_latents)


def test_pictures_of_something_else_under_the_right_name_are_refused(
    epsilon: Backbone, drawn: list[int]
) -> None:
    prepare(epsilon, dreambooth_config())
    (file,) = cached()
    prepare(epsilon, dreambooth_config(seed=4))
    (other,) = set(cached()) - {file}
    other.replace(file)
    _, (message,) = prepare(epsilon, dreambooth_config())
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
