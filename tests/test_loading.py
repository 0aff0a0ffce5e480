"""A base model from one file, or from a folder, complete or refused in one line."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from jobs import make_world
from original import save_original, small_files
from safetensors.torch import load, save_file
from test_backbone import change_json
from tiny import RESOLUTION, save_tiny, tiny_backbone, tiny_pipeline

import rpo
from rpo.errors import UserError
from rpo.models.backbone import Backbone
from rpo.models.loading import load_pipeline
from rpo.models.resolve import base_preset
from rpo.models.sampling import initial_noise, sample
from rpo.quiet import quiet

FILES = ["epsilon", "v_prediction", "sdxl", "sd3", "sd3-without-t5"]


def pipeline_of(kind: str) -> Any:
    pipeline = tiny_pipeline(kind)
    if kind.startswith("sd3"):
        # Such files leave the first projection out, and read as if it did nothing.
        with torch.no_grad():
            pipeline.text_encoder.text_projection.weight.copy_(torch.eye(16))
    return pipeline


@pytest.mark.parametrize("kind", FILES)
def test_a_single_file_loads_as_the_folder_does(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    original = pipeline_of(kind)
    file = save_original(original, tmp_path / "mein Modell v1.5.safetensors")
    small_files(tmp_path / "mein Modell v1.5", kind)
    capfd.readouterr()
    loaded = load_pipeline(file)
    assert capfd.readouterr() == ("", "")
    assert type(loaded) is type(original)
    for name, part in original.components.items():
        if isinstance(part, torch.nn.Module):
            state, expected = getattr(loaded, name).state_dict(), part.state_dict()
            assert state.keys() == expected.keys()
            assert all(torch.equal(state[key], expected[key]) for key in expected), name
    assert type(loaded.scheduler) is type(original.scheduler)
    assert loaded.tokenizer("a dog").input_ids == original.tokenizer("a dog").input_ids
    backbone = Backbone(loaded, "cpu", RESOLUTION)
    texts = ["a [V] dog", ""]
    same = Backbone(original, "cpu", RESOLUTION).encode_prompts(texts).tokens
    assert torch.equal(backbone.encode_prompts(texts).tokens, same)


def test_a_z_image_file_and_the_folder_beside_it(tmp_path: Path) -> None:
    original = tiny_pipeline("z-image")
    file = save_original(original, tmp_path / "m.safetensors")
    with pytest.raises(UserError, match="base model or the distilled Turbo.* or `hf download"):
        load_pipeline(file)
    assert base_preset(str(file)) == "paper"
    save_tiny(tmp_path / "m", "z-image", seed=1)
    loaded, other = load_pipeline(file), tiny_pipeline("z-image", seed=1)
    for part, source in (("transformer", original), ("vae", other), ("text_encoder", other)):
        state, expected = getattr(loaded, part).state_dict(), getattr(source, part).state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[key], expected[key]) for key in expected), part
    assert base_preset(str(file)) == "z-image"
    change_json(tmp_path / "m" / "scheduler" / "scheduler_config.json", shift=3.0)
    assert base_preset(str(file)) == base_preset(str(tmp_path / "m")) == "z-image-turbo"


def test_half_precision_and_parts_from_the_folder_beside(tmp_path: Path) -> None:
    original = tiny_pipeline("sdxl")
    prefixes = ["conditioner.embedders.0.", "first_stage_model."]
    file = save_original(original, tmp_path / "m.safetensors", leave_out=prefixes, half=True)
    save_tiny(tmp_path / "m", "sdxl", seed=1)
    loaded, other = load_pipeline(file), tiny_pipeline("sdxl", seed=1)
    weight = original.unet.conv_in.weight
    assert not torch.equal(weight.half().float(), weight)
    assert torch.equal(loaded.unet.conv_in.weight, weight.half().float())
    assert loaded.text_encoder_2.dtype == torch.float32
    for part in ("text_encoder", "vae"):
        state, expected = getattr(loaded, part).state_dict(), getattr(other, part).state_dict()
        assert all(torch.equal(state[key], expected[key]) for key in expected)


def test_a_file_says_that_it_predicts_v_up_to_pure_noise(tmp_path: Path) -> None:
    marks = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    file = save_original(tiny_pipeline("sdxl"), tmp_path / "m.safetensors", add=marks)
    small_files(tmp_path / "m", "sdxl")
    backbone = Backbone.load(file, "cpu", RESOLUTION)
    assert backbone.prediction_type == "v_prediction"
    power = backbone.process.signal_power
    assert power[-1] == 0
    # arXiv 2305.08891, algorithm 1: sqrt(abar) is moved and stretched, the first one stays.
    roots = tiny_backbone("sdxl").process.signal_power.sqrt()
    expected = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
    torch.testing.assert_close(power.sqrt(), expected, rtol=0, atol=1e-4)
    assert backbone.scheduler.config.timestep_spacing == "trailing"
    noise = initial_noise(backbone.latent_shape, [1])
    conditions = backbone.encode_prompts(["a dog"])
    for solver in ("ddim", "dpm++"):
        drawn = sample(
            backbone,
            backbone.denoiser,
            conditions,
            [1],
            steps=2,
            guidance_scale=3,
            scheduler=solver,
        )
        assert drawn.isfinite().all()
        assert not torch.equal(drawn, noise)

    said = {"modelspec.prediction_type": "v"}
    save_original(tiny_pipeline("sdxl"), file, metadata=said)
    loaded = load_pipeline(file)
    assert loaded.scheduler.config.prediction_type == "v_prediction"
    assert type(loaded.scheduler) is type(tiny_pipeline("sdxl").scheduler)


def test_a_file_that_lacks_a_weight_is_refused(tmp_path: Path) -> None:
    small_files(tmp_path / "m")
    for name, part in {
        "model.diffusion_model.middle_block.0.in_layers.2.weight": "unet or vae",
        "cond_stage_model.transformer.text_model.final_layer_norm.weight": "text_encoder",
        "first_stage_model.decoder.conv_out.bias": "unet or vae",
    }.items():
        file = save_original(tiny_pipeline(), tmp_path / "m.safetensors", leave_out=[name])
        with pytest.raises(UserError, match=f"weights of its {part} are missing") as caught:
            load_pipeline(file)
        assert "\n" not in str(caught.value)


def refused(folder: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Backbone.load(folder, "cpu", RESOLUTION)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2", "text_encoder_3", "vae"])
def test_a_folder_that_lacks_a_weight_is_refused(part: str, tmp_path: Path) -> None:
    save_tiny(tmp_path, "sd3")
    (file,) = (tmp_path / part).glob("*.safetensors")
    whole = load(file.read_bytes())  # not a view of the file, which is written to below
    name = min(whole)
    save_file({key: whole[key] for key in whole if key != name}, file, {"format": "pt"})
    refused(tmp_path, f"weights of its {part} are missing, such as ")
    other = whole[name][:1] if whole[name].ndim == 1 else whole[name][:, :1]
    save_file({**whole, name: other.clone()}, file, {"format": "pt"})
    refused(tmp_path, "cannot be loaded")
    if part == "text_encoder_3":
        assert "encoder.embed_tokens.weight" not in whole  # stored once, used twice
    save_file(whole, file, {"format": "pt"})
    Backbone.load(tmp_path, "cpu", RESOLUTION)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("epsilon", "LCMScheduler"),
        ("sdxl", "EDMEulerScheduler"),
        ("sdxl", "NoSuchScheduler"),
        ("sd3", "EulerDiscreteScheduler"),
        ("flux-dev", "FlowMatchLCMScheduler"),
    ],
)
def test_a_scheduler_of_another_noise_is_refused(kind: str, name: str, tmp_path: Path) -> None:
    save_tiny(tmp_path, kind)
    change_json(tmp_path / "model_index.json", scheduler=["diffusers", name])
    refused(tmp_path, f"its scheduler is a {name}, .*; put the scheduler folder")


def test_a_vae_of_another_family_is_refused(tmp_path: Path) -> None:
    save_tiny(tmp_path, "sdxl")
    config = tmp_path / "vae" / "config.json"
    change_json(config, scaling_factor=None)
    refused(tmp_path, "the scaling_factor of its VAE is None, its family's is 0.13025; put")
    left = json.loads(config.read_text())
    del left["scaling_factor"]
    config.write_text(json.dumps(left))
    refused(tmp_path, r"is 0.18215 \(that of a StableDiffusionPipeline\), its family's is 0.13025")
    change_json(config, scaling_factor=0.13025)
    assert Backbone.load(tmp_path, "cpu").vae.config.scaling_factor == 0.13025

    shutil.rmtree(tmp_path / "vae")
    shutil.copytree(wider_vae(tmp_path / "other"), tmp_path / "vae")
    refused(tmp_path, "reads 4 channels, its pictures have 16; its VAE is another family's")
    change_json(tmp_path / "model_index.json", vae=["diffusers", "AutoencoderTiny"])
    refused(tmp_path, "its vae is a AutoencoderTiny, .* trained with a AutoencoderKL; put the vae")


def wider_vae(folder: Path) -> Path:
    """One of 16 latent channels, as Stable Diffusion 3 has."""
    config = dict(tiny_pipeline("sdxl").vae.config)
    AutoencoderKL.from_config({**config, "latent_channels": 16}).save_pretrained(folder)
    return folder


def test_stable_diffusion_3_without_t5(tmp_path: Path) -> None:
    save_tiny(tmp_path, "sd3")
    absent = {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}
    shutil.rmtree(tmp_path / "text_encoder_3")
    refused(tmp_path, r"text_encoder_3: missing; .* or leave T5 out .*write \[null, null\] for")
    change_json(tmp_path / "model_index.json", **absent)
    loaded = Backbone.load(tmp_path, "cpu", RESOLUTION)
    tokens = loaded.encode_prompts(["a dog"]).tokens
    assert torch.equal(tokens, tiny_backbone("sd3-without-t5").encode_prompts(["a dog"]).tokens)
    with quiet():
        loaded.pipeline(loaded.denoiser).save_pretrained(tmp_path / "again")
    again = Backbone.load(tmp_path / "again", "cpu", RESOLUTION)
    assert torch.equal(again.encode_prompts(["a dog"]).tokens, tokens)
    assert again.family.pipeline.text_encoder_3 is None


def test_the_whole_job_from_a_single_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    world = make_world(tmp_path)
    subject = rpo.Subject.from_folder(world.photos, noun="dog")
    beside = tmp_path / "Möbel"
    shutil.copytree(world.model, beside)
    for weights in beside.rglob("*.safetensors"):
        weights.unlink()
    blob = save_original(tiny_pipeline(), tmp_path / "blob")
    file = tmp_path / "Möbel.safetensors"
    file.symlink_to(blob)  # as in the hub's cache

    settings = world.settings(2, 2, **{"validation.keep": "last"})
    run = rpo.train(subject, str(file), out=tmp_path / "run", settings=settings)
    twin = rpo.train(subject, str(world.model), out=tmp_path / "twin", settings=settings)
    assert [v.reward for v in run.history] == [v.reward for v in twin.history]
    assert run.folder.config().model == str(file)
    files = run.folder.environment()["models"]["pipeline"]["files"]
    assert files["Möbel.safetensors"] == hashlib.sha256(blob.read_bytes()).hexdigest()
    assert "configurations/scheduler/scheduler_config.json" in files
    stock = Backbone.load(run.best, "cpu")
    assert not torch.equal(stock.denoiser.conv_in.weight, tiny_pipeline().unet.conv_in.weight)

    more = world.settings(3, 2, **{"validation.keep": "last"})
    again = rpo.train(subject, str(file), out=tmp_path / "run", settings=more, resume=True)
    assert again.folder.config().training.steps == 3
    config = beside / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text() + " ")
    more = world.settings(4, 2, **{"validation.keep": "last"})
    with pytest.raises(UserError, match=r"configurations/scheduler.* is not the file"):
        rpo.train(subject, str(file), out=tmp_path / "run", settings=more, resume=True)
