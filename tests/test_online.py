"""Online RPO: the gradient's path from the reward to the weights, and what a step rewards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jobs import World, break_off, make_world, measured, results
from PIL import Image
from tiny import KINDS, LATENT_SHAPE, RESOLUTION, tiny_backbone
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessorPil,
    EfficientNetImageProcessorPil,
    ViTImageProcessorPil,
)

import rpo
from rpo.config import Config, OnlineConfig, TrainingConfig, ValidationConfig
from rpo.data.prompts import Prompt
from rpo.errors import UserError
from rpo.events import StepDone
from rpo.learners import learner_class
from rpo.methods.method import Task
from rpo.methods.online import Online, moved
from rpo.models.backbone import Backbone
from rpo.models.encoders import load_encoder
from rpo.models.noise import RectifiedFlow
from rpo.models.pixels import PixelProcessor
from rpo.models.sampling import draw_with_gradient, sample
from rpo.rewards.alignment import AlignmentReward

PROMPTS = [Prompt.from_template(t, "dog", "[V]") for t in ("a {} on the Moon", "a green {}")]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("online"), "v_prediction")


class Photos:
    noun = "dog"
    images = paths = ()

    def tensor(self, size: int) -> Tensor:
        return normal(3, 3, size, size, seed=9).clamp(-1, 1)


def make_method(backbone: Backbone, world: World, **online: Any) -> Online:
    config = Config(
        method="online",
        noun="dog",
        seed=2,
        training=TrainingConfig(preference_weight=0.0, batch_size=2),
        validation=ValidationConfig(guidance_scale=3.0, scheduler="ddim"),
        online=OnlineConfig(**{"start": 4, "every": 3, "pictures": 2, "steps": 4, **online}),
    )
    encoder = load_encoder(world.reward)
    reward = AlignmentReward(encoder, Photos().tensor(RESOLUTION) / 2 + 0.5)
    return Online(Task(backbone, config, Photos(), PROMPTS, reward))  # type: ignore[arg-type]


# --- the path ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_x_0_follows_from_the_target(kind: str) -> None:
    process = tiny_backbone(kind).process
    latents, noise = normal(3, *LATENT_SHAPE), normal(3, *LATENT_SHAPE, seed=1)
    times = torch.tensor([1, 500, 900])
    if isinstance(process, RectifiedFlow):
        times = torch.tensor([3.5, 500.0, 900.0])
    noisy = process.add_noise(latents, noise, times)
    target = process.target(latents, noise, times)
    torch.testing.assert_close(process.clean(noisy, target, times), latents, rtol=1e-3, atol=1e-3)


def draw(backbone: Backbone, denoiser: nn.Module, **options: Any) -> Tensor:
    settings = {"steps": 4, "guidance_scale": 3.0, "scheduler": "ddim"} | options
    conditions = backbone.encode_prompts(["a dog", "a cat"])
    return draw_with_gradient(backbone, denoiser, conditions, [5, 6], **settings)


@pytest.mark.parametrize("kind", ["v_prediction", "flux-dev", "sd3"])
def test_through_the_last_step_it_is_an_ordinary_drawing(kind: str) -> None:
    """DDIM's and Euler's last step ends at x_0 itself."""
    backbone = tiny_backbone(kind)
    denoiser = backbone.trainable_copy()
    latents = draw(backbone, denoiser)
    expected = sample(
        backbone,
        denoiser,
        backbone.encode_prompts(["a dog", "a cat"]),
        [5, 6],
        steps=4,
        guidance_scale=3.0,
        scheduler="ddim",
    )
    torch.testing.assert_close(latents.detach(), expected, rtol=1e-4, atol=1e-4)
    latents.sum().backward()
    assert sum(p.grad.abs().sum() for p in denoiser.parameters() if p.grad is not None) > 0
    earlier = draw(backbone, denoiser, before_end=3).detach()
    assert not torch.allclose(earlier, expected, atol=1e-3)
    with pytest.raises(ValueError, match=r"1 \.\. 4, not 5"):
        draw(backbone, denoiser, before_end=5)


def test_the_unconditional_half_is_detached() -> None:
    """Its pull would be (1 - guidance) times the negative prompt's: against any picture."""
    backbone = tiny_backbone("v_prediction")
    denoiser = backbone.trainable_copy()
    rows: list[tuple[int, bool]] = []
    predict = backbone.predict

    def noted(*arguments: Any) -> Tensor:
        answer = predict(*arguments)
        rows.append((len(answer), answer.requires_grad))
        return answer

    backbone.predict = noted  # type: ignore[method-assign]
    draw(backbone, denoiser, before_end=2)
    free, learning = [(4, False)], [(2, False), (2, True)]
    assert rows == 2 * free + learning
    for depth, expected in ((2, free + 2 * learning), (3, 3 * learning), (9, 3 * learning)):
        rows.clear()
        draw(backbone, denoiser, before_end=2, depth=depth)
        assert rows == expected


@pytest.mark.parametrize("scheduler", ["ddim", "dpm++"])
@pytest.mark.parametrize("kind", ["v_prediction", "sd3"])
def test_the_gradient_of_the_whole_drawing_is_its_slope(kind: str, scheduler: str) -> None:
    """Without guidance nothing is detached: finite differences along a way of all weights."""
    backbone = tiny_backbone(kind)
    denoiser = backbone.trainable_copy()
    options = {"guidance_scale": 1.0, "scheduler": scheduler}
    draw(backbone, denoiser, depth=4, **options).sum().backward()
    weights = [p for p in denoiser.parameters() if p.grad is not None]
    ways = [normal(*p.shape, seed=30 + k) * p.detach().std() for k, p in enumerate(weights)]
    learned = sum((p.grad * way).sum() for p, way in zip(weights, ways, strict=True))

    def moved_by(amount: float) -> float:
        with torch.no_grad():
            for p, way in zip(weights, ways, strict=True):
                p.add_(way, alpha=amount)
            total = draw(backbone, denoiser, **options).double().sum().item()
            for p, way in zip(weights, ways, strict=True):
                p.sub_(way, alpha=amount)
        return total

    slope = (moved_by(1e-3) - moved_by(-1e-3)) / 2e-3
    assert float(learned) == pytest.approx(slope, rel=0.02)
    one = draw(backbone, denoiser, **options)
    torch.testing.assert_close(one, draw(backbone, denoiser, depth=3, **options), rtol=0, atol=0)


@pytest.mark.parametrize("recompute", [False, True])
def test_decoding_gives_the_same_pictures_and_a_gradient(recompute: bool) -> None:
    backbone = tiny_backbone()
    latents = (0.3 * normal(3, *LATENT_SHAPE)).requires_grad_(True)
    pictures = backbone.decode_with_gradient(latents, recompute)
    torch.testing.assert_close(pictures.detach(), backbone.decode(latents.detach()))
    (pictures * normal(*pictures.shape, seed=3)).sum().backward()
    assert latents.grad is not None
    by_hand = latents.detach().clone().requires_grad_(True)
    raw = backbone.vae.decode(by_hand / backbone.vae.config.scaling_factor).sample
    ((raw / 2 + 0.5).clamp(0, 1) * normal(*pictures.shape, seed=3)).sum().backward()
    torch.testing.assert_close(latents.grad, by_hand.grad, rtol=1e-4, atol=2e-5)
    assert all(p.grad is None for p in backbone.vae.parameters())


PROCESSORS = {
    "CLIP": CLIPImageProcessorPil(
        size={"shortest_edge": 24}, crop_size={"height": 20, "width": 20}
    ),
    "CLIP that pads": CLIPImageProcessorPil(
        size={"shortest_edge": 24}, crop_size={"height": 30, "width": 28}
    ),
    # as kakaobrain/align-base's: to [-1, 1] by one rescaling, no normalising
    "ALIGN": EfficientNetImageProcessorPil(
        size={"height": 23, "width": 23},
        crop_size={"height": 23, "width": 23},
        do_center_crop=True,
        rescale_factor=1 / 127.5,
        rescale_offset=True,
        do_normalize=False,
        include_top=False,
        resample=2,
    ),
    "EfficientNet": EfficientNetImageProcessorPil(size={"height": 40, "width": 30}, resample=3),
    "ViT": ViTImageProcessorPil(size={"height": 16, "width": 16}, resample=2),
    "as it is": ViTImageProcessorPil(do_resize=False),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_are_the_processors(name: str) -> None:
    processor = PROCESSORS[name]
    levels = torch.randint(0, 256, (3, 3, 36, 44), generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.avg_pool2d(levels.float(), 5, 1, 2).round()  # as photos are
    pictures = [Image.fromarray(p.permute(1, 2, 0).byte().numpy()) for p in smooth]
    expected = processor(images=pictures, return_tensors="pt")["pixel_values"]
    ours = PixelProcessor.of(processor)
    found = ours(smooth / 255)
    assert found.shape == expected.shape
    # Pillow rounds to 8 bits between its two passes and after them.
    assert ((found - expected).abs() / ours.scale.view(3, 1, 1)).max() < 1.6 / 255


def test_a_filter_without_gradient_is_refused() -> None:
    with pytest.raises(UserError, match="resized by lanczos.*bilinear or bicubic"):
        PixelProcessor.of(ViTImageProcessorPil(resample=1))


def test_features_with_gradient_are_the_features(world: World) -> None:
    encoder = load_encoder(world.reward)
    pictures = (torch.randint(0, 256, (4, 3, 16, 16)) / 255).float()
    torch.testing.assert_close(
        encoder.encode_pixels(pictures).detach(), encoder.encode_images(pictures)
    )


def test_the_rewards_gradient_agrees_with_finite_differences(world: World) -> None:
    backbone = tiny_backbone("v_prediction")
    method = make_method(backbone, world)
    for part in (backbone.vae, method.task.reward.encoder.model):
        part.double()
    shifts, mirrored = torch.tensor([[1, -1], [0, 1]]), torch.tensor([1, 0])

    def reward(latents: Tensor) -> Tensor:
        encoded = (latents * backbone._spread + backbone._centre).double()
        pictures = (backbone.vae.decode(encoded).sample / 2 + 0.5).clamp(0, 1)
        seen = moved(pictures, shifts, mirrored)
        encoder = method.task.reward.encoder
        features = encoder._tower.image(encoder.model, encoder._preprocess(seen))
        photos = method.task.reward.references.double()
        texts = method.task.reward._encode_texts([p.plain for p in PROMPTS]).double()
        features = features / features.norm(dim=1, keepdim=True)
        image = ((features @ photos.T + 1) / 2).mean(1)
        text = ((features * texts).sum(1) + 1) / 2
        return (1 / (0.5 / image + 0.5 / text)).mean()

    latents = (0.2 * normal(2, *LATENT_SHAPE)).double()
    learning = latents.clone().requires_grad_(True)
    scores = method.task.reward.score_pixels(
        moved(backbone.decode_with_gradient(learning), shifts, mirrored),
        [p.plain for p in PROMPTS],
    )
    value = scores.combine(0.5).mean()
    assert value.item() == pytest.approx(reward(latents).item(), rel=1e-5)
    value.backward()
    assert learning.grad is not None
    for seed in range(3):
        way = normal(2, *LATENT_SHAPE, seed=20 + seed).double()
        step = 1e-5
        slope = (reward(latents + step * way) - reward(latents - step * way)) / (2 * step)
        assert (learning.grad * way).sum().item() == pytest.approx(slope.item(), rel=1e-3)


def test_views_move_by_what_they_are_told() -> None:
    picture = torch.arange(12.0).view(1, 1, 3, 4).expand(2, 3, 3, 4)
    down_left, mirrored = moved(picture, torch.tensor([[1, -1], [0, 0]]), torch.tensor([0, 1]))
    assert down_left[0].tolist() == [[1, 2, 3, 3], [1, 2, 3, 3], [5, 6, 7, 7]]
    assert mirrored[0].tolist() == [[3, 2, 1, 0], [7, 6, 5, 4], [11, 10, 9, 8]]


# --- what a step rewards ----------------------------------------------------------------------


def test_drawings_are_a_function_of_seed_and_step(world: World) -> None:
    method = make_method(tiny_backbone("v_prediction"), world, late=3)
    data = next_value(method.prepare())
    sizes = [len(method.batch(data, step).prompts) for step in range(12)]
    assert sizes == [0, 0, 0, 0, 2, 0, 0, 2, 0, 0, 2, 0]
    one, again, other = (method.batch(data, step) for step in (4, 4, 7))
    assert torch.equal(one.seeds, again.seeds)
    assert not torch.equal(one.seeds, other.seeds)
    batches = [method.batch(data, 4 + 3 * k) for k in range(60)]
    assert {int(b.before_end[0]) for b in batches} == {1, 2, 3}
    assert {k for b in batches for k in b.prompts.tolist()} == {0, 1}
    assert {k for b in batches for k in b.shifts.flatten().tolist()} == {-1, 0, 1}  # of 16 pixels
    assert len({s for b in batches for s in b.seeds.tolist()}) == 120


def next_value(work: Any) -> Any:
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def train(world: World, out: Path, method: str, **more: Any) -> rpo.Run:
    subject = rpo.Subject.from_folder(world.photos, noun="dog")
    settings = world.settings(**{"online.start": 1, "online.steps": 3, "online.every": 2, **more})
    return rpo.train(subject, str(world.model), out=out, method=method, settings=settings)


def weights_of(run: rpo.Run) -> dict[str, bytes]:
    return {name: data for name, data in results(run.path).items() if name.startswith("best/unet")}


def test_without_weight_it_is_similarity(world: World, tmp_path: Path) -> None:
    more = {"validation.keep": "last", "training.preference_weight": 0}
    plain = train(world, tmp_path / "plain", "similarity", **more)
    still = train(world, tmp_path / "still", "online", **more, **{"online.weight": 0})
    taught = train(world, tmp_path / "taught", "online", **more)
    assert weights_of(still) == weights_of(plain)
    assert weights_of(taught) != weights_of(plain)
    steps = [r for r in taught.folder.records() if r["event"] == "step"]
    assert [("drawing_reward" in r) for r in steps] == [False, True, False, True]
    assert all(0 < r["drawing_reward"] < 1 for r in steps if "drawing_reward" in r)


def test_with_the_preference_beside_it(world: World, tmp_path: Path) -> None:
    more = {"training.preference_weight": 1, "training.accumulate": 2}
    run = train(world, tmp_path / "both", "online", **more)
    steps = [r for r in run.folder.records() if r["event"] == "step"]
    assert {"similarity", "preference", "drawing_reward"} <= steps[1].keys()
    events = [json.dumps(r) for r in run.folder.records()]
    assert any('"labelled"' in line for line in events)


@pytest.mark.parametrize("step", [1, 3])
def test_resumed_equals_uninterrupted(world: World, tmp_path: Path, step: int) -> None:
    more = {
        "method": "online",
        "online.start": 1,
        "online.steps": 3,
        "training.preference_weight": 0,
    }
    subject = rpo.Subject.from_folder(world.photos, noun="dog")
    settings = world.settings(**more)
    whole = rpo.train(subject, str(world.model), out=tmp_path / "whole", settings=settings)
    break_off(world, tmp_path / "parts", StepDone, step, **more)
    parts = rpo.train(subject, out=tmp_path / "parts", resume=True)
    assert results(parts.path) == results(whole.path)
    assert measured(parts.path) == measured(whole.path)


@pytest.mark.parametrize("kind", ["epsilon", "sdxl", "sd3", "flux-dev", "flux-schnell"])
@pytest.mark.parametrize("weights", ["full", "lora"])
def test_every_family_learns_from_it(kind: str, weights: str, world: World) -> None:
    backbone = tiny_backbone(kind)
    method = make_method(backbone, world, start=0, every=1)
    config = Config(
        noun="dog",
        training=TrainingConfig(weights=weights, checkpointing=True),  # type: ignore[arg-type]
    )
    learner = learner_class(weights)(backbone, config)
    data = next_value(method.prepare())
    reward = method.reward(learner, method.batch(data, 0))
    (-reward).backward()
    gradients = [p.grad for p in learner.parameters().values() if p.grad is not None]
    assert sum(float(g.abs().sum()) for g in gradients) > 0
    assert all(bool(np.isfinite(g.numpy()).all()) for g in gradients)


def test_a_reward_without_gradient_is_refused(world: World) -> None:
    backbone = tiny_backbone()
    method = make_method(backbone, world)
    task = Task(backbone, method.config, Photos(), PROMPTS, object())  # type: ignore[arg-type]
    with pytest.raises(UserError, match="method online: the reward object has no gradient"):
        Online(task)
