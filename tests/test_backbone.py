"""The model's arithmetic against diffusers and by hand; what may be loaded and what is refused."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import warnings
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler
from safetensors.torch import load_file, save_file
from tiny import (
    LATENT_SHAPE,
    RESOLUTION,
    StableDiffusionPipeline,
    save_tiny,
    tiny_backbone,
    tiny_pipeline,
)
from torch import nn

from rpo.errors import UserError
from rpo.models.backbone import Backbone
from rpo.models.conditions import Conditions
from rpo.quiet import quiet

PREDICTIONS = ("epsilon", "v_prediction")


@pytest.fixture(scope="module", params=PREDICTIONS)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return tiny_backbone(request.param)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_noise_and_target_are_those_of_diffusers(backbone: Backbone) -> None:
    ddpm = DDPMScheduler.from_config(backbone.scheduler.config)
    latents, noise = normal(7, *LATENT_SHAPE), normal(7, *LATENT_SHAPE, seed=1)
    timesteps = torch.tensor([0, 1, 250, 500, 750, 998, 999])

    noisy = backbone.add_noise(latents, noise, timesteps)
    expected = ddpm.add_noise(latents, noise, timesteps)
    torch.testing.assert_close(noisy, expected, rtol=0, atol=1e-6)

    velocity = ddpm.get_velocity(latents, noise, timesteps)
    expected = noise if backbone.prediction_type == "epsilon" else velocity
    target = backbone.target(latents, noise, timesteps)
    torch.testing.assert_close(target, expected, rtol=0, atol=1e-6)


def test_noise_schedule_is_the_textbook_one() -> None:
    """Recomputed in float64 from the formulas: Stable Diffusion's linear and the cosine one."""
    powers, betas = [], [math.sqrt(0.00085), math.sqrt(0.012)]
    for step in range(1000):
        beta = (betas[0] + (betas[1] - betas[0]) * step / 999) ** 2
        powers.append((powers[-1] if powers else 1.0) * (1 - beta))
    torch.testing.assert_close(tiny_backbone("epsilon").process.signal_power, torch.tensor(powers))

    def cosine(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    power = tiny_backbone("v_prediction").process.signal_power[499].item()
    assert power == pytest.approx(cosine(0.5) / cosine(0), rel=1e-4)


class Constant(nn.Module):
    """A denoiser that always answers 0.5 and remembers what it was asked."""

    def forward(self, sample, timestep, encoder_hidden_states, return_dict):
        self.asked = (sample, timestep, encoder_hidden_states)
        return (torch.full_like(sample, 0.5),)


def test_denoising_error_by_hand(backbone: Backbone) -> None:
    power, kept = backbone.process.signal_power.clone(), backbone.process
    power[3], power[4] = 0.36, 0.64  # (0.6, 0.8), (0.8, 0.6)
    backbone.process = dataclasses.replace(kept, signal_power=power)
    try:
        latents = torch.ones(2, *LATENT_SHAPE)
        noise = torch.stack([torch.full(LATENT_SHAPE, 2.0), torch.full(LATENT_SHAPE, -1.0)])
        noise[0, :2] = 3.0  # half of the elements, so a sum or a mean over channels would differ
        timesteps, embeddings = torch.tensor([3, 4]), normal(2, 5, 16)
        conditions = Conditions(embeddings)
        denoiser = Constant()
        error = backbone.denoising_error(denoiser, latents, noise, timesteps, conditions)
    finally:
        backbone.process = kept
    if backbone.prediction_type == "epsilon":
        expected = [(2.5**2 + 1.5**2) / 2, 1.5**2]
    else:  # v = 0.6 * (3 or 2) - 0.8 = 1.0 or 0.4; v = 0.8 * -1 - 0.6 = -1.4
        expected = [(0.5**2 + 0.1**2) / 2, 1.9**2]
    torch.testing.assert_close(error, torch.tensor(expected))
    sample, asked_timesteps, asked_embeddings = denoiser.asked
    assert sample[0, 0, 0, 0].item() == pytest.approx(0.6 + 0.8 * 3)
    assert sample[1, 3, 7, 7].item() == pytest.approx(0.8 - 0.6)
    assert asked_timesteps is timesteps
    assert asked_embeddings is embeddings


def test_prompts_are_encoded_as_by_the_stock_pipeline(backbone: Backbone) -> None:
    texts = ["a [V] dog on the Moon", "", "a green dog"]
    stock = backbone.pipeline(backbone.denoiser)
    expected = stock.encode_prompt(texts, "cpu", 1, False)[0]
    torch.testing.assert_close(backbone.encode_prompts(texts).tokens, expected, rtol=0, atol=1e-6)


def test_a_prompt_that_would_be_cut_off_is_refused(backbone: Backbone) -> None:
    backbone.encode_prompts(["x" * 38])  # and the two marks: exactly the limit of 40
    with pytest.raises(UserError, match="has 41 tokens and the model reads 40"):
        backbone.encode_prompts(["a dog", "x" * 39])


def test_pictures_to_latents_and_back(backbone: Backbone) -> None:
    pictures = torch.rand(5, 3, RESOLUTION, RESOLUTION, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        posterior = backbone.vae.encode(pictures * 2 - 1).latent_dist
    latents = backbone.encode_images(pictures * 2 - 1, batch_size=2)
    assert latents.shape == (5, *LATENT_SHAPE) == (5, *backbone.latent_shape)
    torch.testing.assert_close(latents, 0.7 * posterior.mean, rtol=0, atol=1e-5)

    drawn = [
        backbone.encode_images(pictures * 2 - 1, torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])

    decoded = backbone.decode(latents, batch_size=2)
    with torch.no_grad():
        expected = (backbone.vae.decode(latents / 0.7).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(decoded, expected, rtol=0, atol=1e-5)


def test_the_copy_learns_and_the_base_does_not(backbone: Backbone) -> None:
    copy = backbone.trainable_copy()
    assert all(p.requires_grad for p in copy.parameters())
    assert not copy.training
    for module in (backbone.denoiser, backbone.vae, backbone.text_encoder):
        assert not any(p.requires_grad for p in module.parameters())
        assert not module.training
    before = backbone.denoiser.conv_in.weight.clone()
    copy.conv_in.weight.data.add_(1)
    assert torch.equal(backbone.denoiser.conv_in.weight, before)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_loading_is_silent_exact_and_works_at_any_path(
    prediction: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = save_tiny(tmp_path / "Müllers Hündchen", prediction)
    capfd.readouterr()
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        loaded = Backbone.load(folder, device="cpu")
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert loaded.prediction_type == prediction
    assert loaded.resolution == RESOLUTION
    original = tiny_backbone(prediction)
    assert torch.equal(loaded.process.signal_power, original.process.signal_power)
    for name, weight in original.denoiser.state_dict().items():
        assert torch.equal(loaded.denoiser.state_dict()[name], weight)


def test_a_trained_pipeline_saves_as_an_ordinary_diffusers_folder(tmp_path: Path) -> None:
    backbone = tiny_backbone()
    denoiser = backbone.trainable_copy()
    denoiser.conv_in.weight.data.add_(1)
    with quiet():
        backbone.pipeline(denoiser).save_pretrained(tmp_path / "best")
        stock = StableDiffusionPipeline.from_pretrained(tmp_path / "best")
    assert torch.equal(stock.unet.conv_in.weight, denoiser.conv_in.weight)
    assert type(stock.scheduler) is type(backbone.scheduler)
    assert not list((tmp_path / "best").rglob("*.bin"))


def test_a_path_is_a_place_even_if_it_is_called_as_the_embedded_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny(tmp_path / "emojiland")
    monkeypatch.chdir(tmp_path)
    assert Backbone.load(Path("emojiland"), "cpu").resolution == RESOLUTION


def test_half_precision_files_load_as_float32(tmp_path: Path) -> None:
    with quiet():
        tiny_pipeline().to(torch.float16).save_pretrained(tmp_path, variant="fp16")
    assert not list(tmp_path.rglob("diffusion_pytorch_model.safetensors"))
    loaded = Backbone.load(tmp_path, device="cpu")
    assert loaded.denoiser.conv_in.weight.dtype == loaded.vae.dtype == torch.float32
    expected = tiny_backbone().denoiser.conv_in.weight.half().float()
    assert torch.equal(loaded.denoiser.conv_in.weight, expected)


def change_json(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_what_cannot_be_used_is_refused_in_one_line(tmp_path: Path) -> None:
    def refused(message: str, path: Path | str = tmp_path, **options: object) -> None:
        with pytest.raises(UserError, match=message) as caught:
            Backbone.load(path, **{"device": "cpu", **options})
        assert "\n" not in str(caught.value)

    refused("no such model folder", tmp_path / "nowhere")
    refused("no model_index.json in it", tmp_path)  # an empty folder
    save_tiny(tmp_path)
    refused("resolution must be a multiple of 2, not 17", resolution=17)
    refused("device 'warp' is not usable", device="warp")
    assert Backbone.load(tmp_path, "cpu", resolution=32).latent_shape == (4, 16, 16)

    scheduler = tmp_path / "scheduler" / "scheduler_config.json"
    change_json(scheduler, prediction_type="sample")
    refused("predicts 'sample'")
    change_json(scheduler, prediction_type="epsilon")
    for kind in (
        "StableDiffusionInpaintPipeline",
        "StableDiffusionXLImg2ImgPipeline",
        "WanPipeline",
    ):
        change_json(tmp_path / "model_index.json", _class_name=kind)
        refused(f"is a {kind}; use a plain text-to-image model")
    change_json(tmp_path / "model_index.json", _class_name="StableDiffusionPipeline")

    weights = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save({}, weights.with_suffix(".bin"))
    weights.unlink()
    refused("safetensors")


def test_an_inpainting_model_is_refused() -> None:
    pipeline = tiny_pipeline()
    pipeline.unet.register_to_config(in_channels=9)
    with pytest.raises(UserError, match="reads 9 channels, its pictures have 4"):
        Backbone(pipeline, device="cpu")


def test_a_tokenizer_without_its_words_is_refused(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    for file in (tmp_path / "tokenizer").iterdir():
        if file.name != "tokenizer_config.json":
            file.unlink()
    with pytest.raises(UserError, match="the files of its tokenizer are missing"):
        Backbone.load(tmp_path, "cpu")


@pytest.mark.parametrize("part", ["text_encoder/model", "unet/diffusion_pytorch_model"])
def test_weights_that_are_cut_off_are_refused_in_one_line(tmp_path: Path, part: str) -> None:
    save_tiny(tmp_path)
    file = tmp_path / f"{part}.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="cannot be loaded") as caught:
        Backbone.load(tmp_path, "cpu")
    assert "\n" not in str(caught.value)


def test_a_denoiser_with_a_weight_missing_is_refused(tmp_path: Path) -> None:
    save_tiny(tmp_path)
    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    del weights["conv_in.weight"]
    save_file(weights, file)
    with pytest.raises(UserError, match="weights of its unet are missing"):
        Backbone.load(tmp_path, "cpu")
