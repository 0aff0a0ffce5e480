"""Every model family against diffusers' own pipeline and scheduler, and through the whole job."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDPMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
)
from families import backbone_of
from jobs import make_world
from tiny import KINDS, LATENT_SHAPE, RESOLUTION, TOKENS, tiny_pipeline
from torch import Tensor

import rpo
from rpo.methods.rpo import LabelledPairs
from rpo.models.backbone import Backbone
from rpo.models.families.flux import pack, positions, unpack
from rpo.models.sampling import FLOW_SOLVER, initial_noise, make_solver, sample
from rpo.quiet import quiet
from rpo.runs.folder import RunFolder

SDXL = ["sdxl", "sdxl-encoding-the-empty-prompt"]
FLOWS = ["sd3", "sd3-without-t5", "flux-dev", "flux-schnell", "z-image"]
NEW = SDXL + FLOWS  # Stable Diffusion 1.x and 2.x are in test_backbone.py and test_sampling.py
PROMPTS = ["a [V] dog", "a dog on the Moon", "a green dog"]
SEEDS = [11, 3, 2**62]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- noise and target -------------------------------------------------------------------------


def test_sdxl_noise_and_target_are_those_of_diffusers() -> None:
    backbone = backbone_of("sdxl")
    ddpm = DDPMScheduler.from_config(backbone.scheduler.config)
    latents, noise = normal(4, *LATENT_SHAPE), normal(4, *LATENT_SHAPE, seed=1)
    timesteps = torch.tensor([0, 250, 750, 999])
    expected = ddpm.add_noise(latents, noise, timesteps)
    noisy = backbone.add_noise(latents, noise, timesteps)
    torch.testing.assert_close(noisy, expected, rtol=0, atol=1e-6)
    assert backbone.prediction_type == "epsilon"
    assert torch.equal(backbone.target(latents, noise, timesteps), noise)


@pytest.mark.parametrize("kind", FLOWS)
def test_flow_noise_and_target_are_those_of_diffusers(kind: str) -> None:
    backbone = backbone_of(kind)
    assert backbone.prediction_type == "flow_prediction"
    latents, noise = normal(6, *LATENT_SHAPE), normal(6, *LATENT_SHAPE, seed=1)
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(backbone.scheduler.config)
    timesteps = scheduler.timesteps[[0, 1, 250, 500, 998, 999]]
    noisy = backbone.add_noise(latents, noise, timesteps)
    expected = scheduler.scale_noise(latents, timesteps, noise)
    torch.testing.assert_close(noisy, expected, rtol=0, atol=1e-6)

    # With the target as the denoiser's answer, the solver comes from the noise to the picture.
    solver = make_solver(backbone, "dpm++")
    backbone.family.set_timesteps(solver, 3, backbone.image_tokens, backbone.device)
    x = noise
    for timestep in solver.timesteps:
        velocity = backbone.target(latents, noise, timestep.expand(6))
        expected = backbone.add_noise(latents, noise, timestep.expand(6))
        torch.testing.assert_close(x, expected, rtol=0, atol=1e-6)
        x = solver.step(velocity, timestep, x, return_dict=False)[0]
    torch.testing.assert_close(x, latents, rtol=0, atol=1e-6)


# By hand: ln 3; 0.5 + (1.15 - 0.5) * (16 - 4) / (64 - 4); ln 1; ln 6.
LOCATIONS = {"sd3": math.log(3), "flux-dev": 0.63, "flux-schnell": 0.0, "z-image": math.log(6)}


@pytest.mark.parametrize("kind", LOCATIONS)
def test_flow_timesteps_are_logit_normal_about_the_models_own_shift(kind: str) -> None:
    backbone = backbone_of(kind)
    draws = backbone.process.draw_timesteps(20_000, torch.Generator().manual_seed(0))
    assert draws.shape == (20_000,)
    assert 0 < draws.min() < draws.max() < 1000
    logits = torch.logit(draws.double() / 1000)
    assert logits.mean().item() == pytest.approx(LOCATIONS[kind], abs=0.03)
    assert logits.std().item() == pytest.approx(1, abs=0.03)
    # The middle of the schedule goes where diffusers' scheduler shifts it.
    solver = make_solver(backbone, "dpm++")
    mu = {"mu": LOCATIONS[kind]} if kind == "flux-dev" else {}
    solver.set_timesteps(sigmas=[0.5], **mu)
    assert 1 / (1 + math.exp(-LOCATIONS[kind])) == pytest.approx(solver.sigmas[0].item())


def test_a_linear_dynamic_shift() -> None:
    pipeline = tiny_pipeline("flux-dev")
    pipeline.scheduler.register_to_config(time_shift_type="linear")
    backbone = Backbone(pipeline, "cpu", RESOLUTION)
    assert backbone.process.location == pytest.approx(math.log(0.63))
    shifted = pipeline.scheduler.time_shift(0.63, 1.0, torch.tensor(0.5)).item()
    assert shifted == pytest.approx(1 / (1 + 1 / 0.63))


# --- as the stock pipeline --------------------------------------------------------------------


def stock_options(kind: str) -> dict[str, Any]:
    return {} if kind.startswith("sdxl") else {"max_sequence_length": t5_tokens(kind)}


def t5_tokens(kind: str) -> int:
    return 256 if kind == "sd3-without-t5" else TOKENS


@pytest.mark.parametrize("kind", NEW)
def test_prompts_are_encoded_as_by_the_stock_pipeline(kind: str) -> None:
    backbone = backbone_of(kind)
    texts = [*PROMPTS, "", PROMPTS[1]]
    if kind.startswith("flux"):
        stock = backbone.pipeline(backbone.denoiser)
        tokens, pooled, _ = stock.encode_prompt(texts, **stock_options(kind))
    elif kind.startswith("sd3"):
        stock = backbone.pipeline(backbone.denoiser)
        options = {"do_classifier_free_guidance": False, **stock_options(kind)}
        tokens, _, pooled, _ = stock.encode_prompt(texts, None, None, **options)
        assert (tokens[:, -256:] == 0).all() == (kind == "sd3-without-t5")
    elif kind == "z-image":
        stock = backbone.pipeline(backbone.denoiser)
        rows, _ = stock.encode_prompt([*texts], **stock_options(kind))  # which changes the list
        ours = backbone.encode_prompts(texts)
        assert ours.lengths.tolist() == [len(row) for row in rows] == [10, 20, 14, 3, 20]
        for k, row in enumerate(rows):
            torch.testing.assert_close(ours.tokens[k, : len(row)], row, rtol=0, atol=1e-5)
            assert (ours.tokens[k, len(row) :] == 0).all()
        return
    else:
        stock = backbone.pipeline(backbone.denoiser)
        encoded = stock.encode_prompt(texts, do_classifier_free_guidance=True)
        tokens, negative, pooled, negative_pooled = encoded
        nothing = backbone.unconditional()
        torch.testing.assert_close(nothing.tokens, negative[:1], rtol=0, atol=1e-5)
        torch.testing.assert_close(nothing.pooled, negative_pooled[:1], rtol=0, atol=1e-5)
        assert (nothing.tokens == 0).all() == (kind == "sdxl")
    ours = backbone.encode_prompts(texts)
    torch.testing.assert_close(ours.tokens, tokens, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.pooled, pooled, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", NEW)
@pytest.mark.parametrize("guidance_scale", [1.0, 4.5])
def test_pictures_are_those_of_the_stock_pipeline(kind: str, guidance_scale: float) -> None:
    backbone, steps = backbone_of(kind), 5
    stock = backbone.pipeline(backbone.denoiser)
    stock.set_progress_bar_config(disable=True)
    noise = initial_noise(LATENT_SHAPE, SEEDS)
    flux = kind.startswith("flux")
    if kind.startswith("sdxl"):
        stock.scheduler = make_solver(backbone, "dpm++")
    expected = stock(
        [*PROMPTS],  # Z-Image's pipeline changes the list
        height=RESOLUTION,
        width=RESOLUTION,
        latents=stock._pack_latents(noise, 3, *LATENT_SHAPE) if flux else noise,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        output_type="latent",
        **stock_options(kind),
    ).images
    if flux:
        expected = stock._unpack_latents(expected, RESOLUTION, RESOLUTION, stock.vae_scale_factor)
    conditions = backbone.encode_prompts(PROMPTS)
    drawn = sample(
        backbone,
        backbone.denoiser,
        conditions,
        SEEDS,
        steps=steps,
        guidance_scale=guidance_scale,
    )
    assert drawn.std() > 0.1
    assert (drawn - noise).abs().max() > 0.1
    torch.testing.assert_close(drawn, expected, rtol=0, atol=1e-3)

    together = sample(
        backbone,
        backbone.denoiser,
        conditions[[2, 0, 1]],
        [SEEDS[2], SEEDS[0], SEEDS[1]],
        steps=steps,
        guidance_scale=guidance_scale,
        batch_size=2,
    )
    torch.testing.assert_close(together, drawn[[2, 0, 1]], rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["sdxl", "sd3", "flux-dev", "z-image"])
def test_latents_decode_as_in_the_stock_pipeline(kind: str) -> None:
    backbone = backbone_of(kind)
    stock = backbone.pipeline(backbone.denoiser)
    stock.set_progress_bar_config(disable=True)
    flux = kind.startswith("flux")
    noise = initial_noise(LATENT_SHAPE, SEEDS[:1])
    if kind == "sdxl":
        stock.scheduler = make_solver(backbone, "dpm++")
    options = {
        "height": RESOLUTION,
        "width": RESOLUTION,
        "latents": stock._pack_latents(noise, 1, *LATENT_SHAPE) if flux else noise,
        "num_inference_steps": 1,
        "guidance_scale": backbone.family.unguided,
        **stock_options(kind),
    }
    picture = stock(PROMPTS[0], output_type="pt", **options).images
    latents = sample(
        backbone,
        backbone.denoiser,
        backbone.encode_prompts(PROMPTS[:1]),
        SEEDS[:1],
        steps=1,
        guidance_scale=backbone.family.unguided,
    )
    torch.testing.assert_close(backbone.decode(latents), picture, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["sdxl", "sd3"])
def test_photos_become_latents_at_the_denoisers_scale(kind: str) -> None:
    backbone = backbone_of(kind)
    photos = normal(2, 3, RESOLUTION, RESOLUTION).clamp(-1, 1)
    with torch.no_grad():
        encoded = backbone.vae.encode(photos).latent_dist.mode()
    shift = 0.1 if kind == "sd3" else 0.0
    expected = (encoded - shift) * 0.7
    torch.testing.assert_close(backbone.encode_images(photos), expected, rtol=0, atol=1e-5)


def test_latents_of_an_autoencoder_with_a_mean_and_a_spread_a_channel() -> None:
    pipeline = tiny_pipeline("sdxl")
    mean, std = [0.1, -0.2, 0.3, 0.0], [2.0, 1.0, 0.5, 1.5]
    pipeline.vae.register_to_config(latents_mean=mean, latents_std=std)
    backbone = Backbone(pipeline, "cpu")
    photos = normal(2, 3, RESOLUTION, RESOLUTION).clamp(-1, 1)
    with torch.no_grad():
        encoded = backbone.vae.encode(photos).latent_dist.mode()
    expected = torch.stack(
        [(encoded[:, c] - mean[c]) / std[c] * 0.7 for c in range(4)], dim=1
    )  # (B, 4, h, w)
    latents = backbone.encode_images(photos)
    torch.testing.assert_close(latents, expected, rtol=0, atol=1e-5)
    with torch.no_grad():
        decoded = (backbone.vae.decode(encoded).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(backbone.decode(latents), decoded, rtol=0, atol=1e-5)


def test_fluxs_packing_is_that_of_diffusers() -> None:
    stock = backbone_of("flux-dev").pipeline(backbone_of("flux-dev").denoiser)
    latents = normal(2, 4, 6, 8)
    packed = pack(latents)
    assert torch.equal(packed, stock._pack_latents(latents, 2, 4, 6, 8))
    assert torch.equal(unpack(packed, 6, 8), latents)
    expected = stock._prepare_latent_image_ids(2, 3, 4, "cpu", torch.float32)
    assert torch.equal(positions(3, 4).float(), expected)


def test_fluxs_error_is_measured_at_guidance_one() -> None:
    backbone = backbone_of("flux-dev")
    latents, noise = normal(2, *LATENT_SHAPE), normal(2, *LATENT_SHAPE, seed=1)
    timesteps, conditions = torch.tensor([900.0, 123.4]), backbone.encode_prompts(PROMPTS[:2])

    def said(guidance: float) -> Tensor:
        sigma = torch.tensor([0.9, 0.1234]).view(2, 1, 1, 1)
        return backbone.denoiser(
            hidden_states=pack((1 - sigma) * latents + sigma * noise),
            timestep=timesteps / 1000,
            guidance=torch.full((2,), guidance),
            pooled_projections=conditions.pooled,
            encoder_hidden_states=conditions.tokens,
            txt_ids=torch.zeros(TOKENS, 3),
            img_ids=positions(4, 4).float(),
        ).sample

    expected = (pack(noise - latents) - said(1.0)).square().mean(dim=(1, 2))
    error = backbone.denoising_error(backbone.denoiser, latents, noise, timesteps, conditions)
    torch.testing.assert_close(error, expected, rtol=0, atol=1e-5)
    assert not torch.allclose(said(1.0), said(3.5), atol=1e-3)  # it does listen


# 5, 31 and 39 tokens: Z-Image fills rows up to 32 or 64, so here one batch holds both lengths.
UNEQUAL = ["x" * 2, "a dog on the Moon in a b [V] d", "a dog on the Moon in a black suit ab"]


def test_prompts_of_unequal_lengths_stay_apart_in_one_batch() -> None:
    """z-image's answer is what the stock transformer says of each picture and prompt alone."""
    backbone = backbone_of("z-image")
    conditions = backbone.encode_prompts(UNEQUAL)
    assert conditions.lengths.tolist() == [5, 31, 39]
    noisy, timesteps = normal(3, *LATENT_SHAPE), torch.tensor([10.0, 500.0, 990.0])
    together = backbone.predict(backbone.denoiser, noisy, timesteps, conditions)
    for k, length in enumerate([5, 31, 39]):
        # By the pipeline's own lines: time is (1000 - t) / 1000, the answer's sign is turned.
        alone = backbone.denoiser(
            [noisy[k].unsqueeze(1)],
            torch.tensor([(1000 - timesteps[k].item()) / 1000]),
            [conditions.tokens[k, :length]],
        ).sample[0]
        torch.testing.assert_close(together[k], -alone.squeeze(1), rtol=0, atol=1e-5)
    # What lies beyond a prompt's own tokens is never read.
    conditions.tokens[0, 5:] = 100.0
    again = backbone.predict(backbone.denoiser, noisy, timesteps, conditions)
    torch.testing.assert_close(again, together, rtol=0, atol=0)


def test_z_images_guidance_is_counted_as_by_its_pipeline() -> None:
    """v = v(prompt) + s (v(prompt) - v("")), so that s = 0 is the prompt alone."""
    backbone = backbone_of("z-image")
    conditions, noise = backbone.encode_prompts(PROMPTS[:1]), initial_noise(LATENT_SHAPE, SEEDS[:1])
    draws = {
        scale: sample(
            backbone, backbone.denoiser, conditions, SEEDS[:1], steps=1, guidance_scale=scale
        )
        for scale in (0.0, 3.0)
    }
    start, nothing = torch.tensor(1000.0), backbone.unconditional()
    with torch.no_grad():
        said = backbone.predict(backbone.denoiser, noise, start, conditions)
        unsaid = backbone.predict(backbone.denoiser, noise, start, nothing)
    torch.testing.assert_close(draws[0.0], noise - said, rtol=0, atol=1e-5)
    expected = noise - (said + 3.0 * (said - unsaid))
    torch.testing.assert_close(draws[3.0], expected, rtol=0, atol=1e-5)


# --- the whole job ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sdxl", *FLOWS])
def test_the_whole_job(kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    world = make_world(tmp_path, kind)
    more = {"resolution": RESOLUTION, "validation.keep": "last"}  # or step 0 might be the best
    settings = world.settings(2, 2, **more)
    subject = rpo.Subject.from_folder(world.photos, noun="dog")
    capfd.readouterr()
    run = rpo.train(subject, str(world.model), out=tmp_path / "run", settings=settings)
    assert capfd.readouterr() == ("", "")
    assert [v.step for v in run.history] == [0, 2]
    assert run.best_step == 2

    trained = Backbone.load(run.best, "cpu", RESOLUTION)
    before = Backbone.load(world.model, "cpu", RESOLUTION).denoiser.state_dict()
    after = trained.denoiser.state_dict()
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(moved) > len(before) / 2
    for part in ("vae", "text_encoder"):
        old = getattr(tiny_pipeline(kind), part).state_dict()
        new = getattr(trained, part).state_dict()
        assert all(torch.equal(old[name], new[name]) for name in old)

    with quiet():
        absent = ("text_encoder_3", "tokenizer_3") if kind == "sd3-without-t5" else ()
        stock = DiffusionPipeline.from_pretrained(run.best, **dict.fromkeys(absent))
    assert type(stock).__name__ == KINDS[kind][0]
    assert type(stock.scheduler).__name__ == type(tiny_pipeline(kind).scheduler).__name__
    flow = kind in FLOWS
    assert run.folder.best_card()["scheduler"] == (FLOW_SOLVER if flow else "ddim")
    assert run.settings("x", 0)["scheduler"] == (FLOW_SOLVER if flow else "ddim")

    data = LabelledPairs.from_tensors(RunFolder(run.path).load_data())
    assert len(data.generated_conditions) == len(data.generated_latents) == 4
    encoded = trained.encode_prompts(["a [V] dog in snow", "a green [V] dog"])
    for rows, text in ((slice(0, 2), 0), (slice(2, 4), 1)):
        kept = data.generated_conditions[rows]
        torch.testing.assert_close(kept.tokens, encoded[[text, text]].tokens)
        torch.testing.assert_close(kept.pooled, encoded[[text, text]].pooled)

    picture = run.generate("a [V] dog", seed=5, steps=2)[0]
    assert picture.size == (RESOLUTION, RESOLUTION)
