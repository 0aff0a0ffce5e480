"""Exports: what other programs read from them is what was trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from exporting import (
    ALPHA,
    PROMPT,
    RANK,
    TARGETS,
    TRANSFORMERS,
    UNETS,
    Trained,
    apart,
    copied,
    denoiser_of,
    full_run,
    loaded,
    metadata,
    picture,
    train_adapter,
)
from safetensors.torch import load_file, save_file
from tiny import tiny_pipeline

from rpo.errors import UserError
from rpo.exports.export import DTYPES, export
from rpo.exports.lora_file import read_adapter
from rpo.exports.lora_names import ADAPTER_FILE, place_of
from rpo.quiet import quiet
from rpo.runs.folder import BEST_CARD

# --- the same pictures -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "dora"),
    [*((kind, False) for kind in TARGETS), ("epsilon", True), ("flux-dev", True)],
)
def test_lora_and_pipeline_draw_what_was_trained(
    adapter: Callable[..., Trained], tmp_path: Path, kind: str, dora: bool
) -> None:
    trained = adapter(kind, dora)
    expected = picture(trained.pipeline)
    assert apart(expected, picture(tiny_pipeline(kind))) > 1e-3
    lora = export(trained.run, "lora", tmp_path / "lora")
    assert apart(expected, picture(loaded(kind, lora))) < 1e-5
    whole = export(trained.run, "diffusers", tmp_path / "whole")
    with quiet():
        pipeline = DiffusionPipeline.from_pretrained(whole)
    assert apart(expected, picture(pipeline)) < 1e-5
    assert not [name for name in denoiser_of(pipeline).state_dict() if "lora" in name]


@pytest.mark.parametrize("kind", UNETS)
def test_kohyas_file_draws_what_was_trained(
    adapter: Callable[..., Trained], tmp_path: Path, kind: str
) -> None:
    trained = adapter(kind)
    folder = export(trained.run, "kohya", tmp_path / "kohya")
    pipeline = loaded(kind, folder, weight_name="dog-rex-1.safetensors")
    assert apart(picture(trained.pipeline), picture(pipeline)) < 1e-5
    tensors = load_file(folder / "dog-rex-1.safetensors")
    downs = [key for key in tensors if key.endswith(".lora_down.weight")]
    assert len(downs) == len(trained.adapted())
    assert {key.split(".", 1)[1] for key in tensors} == {
        "lora_down.weight",
        "lora_up.weight",
        "alpha",
    }
    for key in downs:
        assert tensors[key].shape[0] == RANK
        assert tensors[key.replace("lora_down.weight", "alpha")].item() == ALPHA
    folder = export(trained.run, "comfyui", tmp_path / "comfyui")  # reads kohya's names of U-Nets
    same = load_file(folder / "dog-rex-1.safetensors")
    assert same.keys() == tensors.keys()
    assert all(torch.equal(same[key], tensors[key]) for key in same)


def test_a_file_without_configuration_has_the_rank_for_alpha(
    adapter: Callable[..., Trained], tmp_path: Path
) -> None:
    """As diffusers reads it."""
    source = adapter().run.best / ADAPTER_FILE
    save_file(load_file(source), tmp_path / "x.safetensors", metadata={"format": "pt"})
    for layer in read_adapter(tmp_path / "x.safetensors").layers.values():
        assert (layer.scale, layer.alpha) == (1, layer.rank)
    assert {layer.alpha for layer in read_adapter(source).layers.values()} == {ALPHA}


@pytest.mark.parametrize(
    "config",
    [{"use_rslora": True}, {"alpha_pattern": {"attn1.to_q": 8}, "rank_pattern": {"to_k": 1}}],
    ids=["rslora", "patterns"],
)
def test_scales_that_differ(tmp_path: Path, config: dict[str, Any]) -> None:
    trained = train_adapter(tmp_path, "epsilon", **config)
    adapter = read_adapter(trained.run.best / ADAPTER_FILE)
    assert adapter.layers.keys() == trained.adapted().keys()
    for name, layer in adapter.layers.items():
        torch.testing.assert_close(layer.delta(), trained.delta(name))
    tensors = load_file(export(trained.run, "kohya") / "dog-rex-1.safetensors")
    for name in adapter.layers:
        key = "lora_unet_" + name.replace(".", "_")
        down, up = (tensors[f"{key}.lora_{x}.weight"].flatten(1) for x in ("down", "up"))
        delta = tensors[f"{key}.alpha"] / len(down) * up @ down
        torch.testing.assert_close(delta, trained.delta(name).flatten(1))


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_kohyas_file_of_a_transformer(
    adapter: Callable[..., Trained], tmp_path: Path, kind: str
) -> None:
    """Each fused layer's change is peft's changes, one below the other."""
    trained = adapter(kind)
    tensors = load_file(export(trained.run, "kohya", tmp_path / "k") / "dog-rex-1.safetensors")
    width = 16
    expected: dict[str, torch.Tensor] = {}
    for name in trained.adapted():
        place = place_of(type(trained.pipeline).__name__, name)
        delta = trained.delta(name)
        rows = {1: delta.shape[0], 3: 3 * width, 4: 7 * width}[len(place.sizes)]
        key = "lora_unet_" + place.name.replace(".", "_")
        whole = expected.setdefault(key, torch.zeros(rows, delta.shape[1]))
        top = width * place.block
        whole[top : top + len(delta)] = delta
    assert {key.split(".")[0] for key in tensors} == expected.keys()
    for key, delta in expected.items():
        down, up = tensors[f"{key}.lora_down.weight"], tensors[f"{key}.lora_up.weight"]
        scale = tensors[f"{key}.alpha"].item() / len(down)
        torch.testing.assert_close(scale * up @ down, delta)
    fused = [key for key in expected if key.endswith(("qkv", "linear1"))]
    assert len(fused) >= 2


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_comfyuis_file_of_a_transformer(
    adapter: Callable[..., Trained], tmp_path: Path, kind: str
) -> None:
    """Read as comfy/lora.py does: transformer.<name>.lora_B, lora_A and alpha."""
    trained = adapter(kind)
    tensors = load_file(export(trained.run, "comfyui", tmp_path / "c") / "dog-rex-1.safetensors")
    names = {f"transformer.{name}" for name in trained.adapted()}
    assert {key.removesuffix(".lora_B.weight") for key in tensors if "lora_B" in key} == names
    assert len(tensors) == 3 * len(names)
    for name in trained.adapted():
        up, down = (tensors[f"transformer.{name}.lora_{x}.weight"] for x in "BA")
        scale = tensors[f"transformer.{name}.alpha"].item() / down.shape[0]
        torch.testing.assert_close(scale * up @ down, trained.delta(name))


@pytest.mark.parametrize("kind", ["epsilon", "sd3"])
def test_comfyui_draws_a_dora_as_trained(
    adapter: Callable[..., Trained], tmp_path: Path, kind: str
) -> None:
    """By its own rule (weight_decompose): (W + Δ) · dora_scale / |W|, |W| of the base model."""
    trained = adapter(kind, True)
    tensors = load_file(export(trained.run, "comfyui", tmp_path / "c") / "dog-rex-1.safetensors")
    part, ups = ("transformer.", "lora_B") if kind == "sd3" else ("lora_unet_", "lora_up")
    downs = {"lora_B": "lora_A", "lora_up": "lora_down"}
    for name, module in trained.adapted().items():
        key = part + (name if kind == "sd3" else name.replace(".", "_"))
        up, down = tensors[f"{key}.{ups}.weight"], tensors[f"{key}.{downs[ups]}.weight"]
        weight = module.get_base_layer().weight.detach()
        delta = (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
        changed = weight + delta * tensors[f"{key}.alpha"].item() / len(down)
        scale = tensors[f"{key}.dora_scale"]
        assert scale.shape == (len(weight), *[1] * (weight.ndim - 1))
        norm = weight.reshape(len(weight), -1).norm(dim=1).reshape(scale.shape)
        torch.testing.assert_close(changed * scale / norm, trained.merged(name))


def test_kohyas_dora_has_the_magnitudes_themselves(
    adapter: Callable[..., Trained], tmp_path: Path
) -> None:
    trained = adapter("flux-dev", True)
    tensors = load_file(export(trained.run, "kohya", tmp_path / "k") / "dog-rex-1.safetensors")
    got = tensors["lora_unet_single_blocks_0_linear1.dora_scale"]
    single = "single_transformer_blocks.0."
    parts = [f"{single}attn.to_{x}" for x in "qkv"] + [f"{single}proj_mlp"]
    lengths = torch.cat([trained.merged(name).norm(dim=1) for name in parts])
    torch.testing.assert_close(got, lengths[:, None])
    with pytest.raises(UserError, match="DoRA in part only"):  # no add_v_proj
        export(adapter("sd3", True).run, "kohya", tmp_path / "sd3")


def test_a_full_run_round_trip(tmp_path: Path) -> None:
    run = full_run(tmp_path)
    folder = export(run, "diffusers")
    with quiet():
        pipeline = DiffusionPipeline.from_pretrained(folder)
        expected = DiffusionPipeline.from_pretrained(run.best)
    assert apart(picture(pipeline), picture(expected)) == 0
    assert apart(picture(pipeline), picture(tiny_pipeline())) > 1e-3
    assert not (folder / BEST_CARD).exists()


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_precision(adapter: Callable[..., Trained], tmp_path: Path, dtype: str) -> None:
    trained = adapter()
    kind = getattr(torch, DTYPES[dtype])
    for to in ("lora", "kohya"):
        folder = export(trained.run, to, tmp_path / to, dtype)
        (file,) = folder.glob("*.safetensors")
        tensors = load_file(file)
        assert {v.dtype for k, v in tensors.items() if not k.endswith("alpha")} == {kind}
    folder = export(trained.run, "diffusers", tmp_path / "d", dtype)
    for part in ("unet", "vae", "text_encoder"):
        (file,) = (folder / part).glob("*.safetensors")
        assert {v.dtype for v in load_file(file).values() if v.is_floating_point()} == {kind}
    with quiet():
        pipeline = DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    assert apart(picture(pipeline), picture(trained.pipeline)) < 0.05


# --- what an export says of itself -------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "version", "architecture"),
    [
        ("epsilon", None, "stable-diffusion-v1/lora"),
        ("sdxl", "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora"),
        ("sd3", "sd3", "stable-diffusion-3/lora"),
        ("flux-dev", "flux1", "flux-1-dev/lora"),
        ("z-image", "z_image", "z-image/lora"),
    ],
)
def test_metadata(
    adapter: Callable[..., Trained],
    tmp_path: Path,
    kind: str,
    version: str | None,
    architecture: str,
) -> None:
    trained = adapter(kind)
    found = metadata(export(trained.run, "kohya", tmp_path / "k") / "dog-rex-1.safetensors")
    assert found.get("ss_base_model_version") == version
    assert found["modelspec.architecture"] == architecture
    assert (found["ss_network_dim"], found["ss_network_alpha"]) == (str(RANK), str(ALPHA))
    assert found["modelspec.trigger_phrase"] == "[V] dog"
    assert found["ss_output_name"] == "dog-rex-1"
    assert json.loads(found["ss_tag_frequency"]) == {"photos": {PROMPT: 5}}
    assert str(tmp_path) not in json.dumps(found)
    lora = metadata(export(trained.run, "lora", tmp_path / "l") / ADAPTER_FILE)
    part = "unet" if kind in UNETS else "transformer"
    assert json.loads(lora["lora_adapter_metadata"])[f"{part}.lora_alpha"] == ALPHA


def test_captions_are_the_tags_of_their_photos(
    adapter: Callable[..., Trained], tmp_path: Path
) -> None:
    run = copied(adapter("epsilon"), tmp_path)
    captions = ["", "a [V] dog at sea", "", "a [V] dog at sea", "a [V] dog, läuft"]
    run.folder.record({"event": "started", "photo_prompts": captions})
    found = metadata(export(run, "kohya", tmp_path / "k") / "dog-rex-1.safetensors")
    tags = json.loads(found["ss_tag_frequency"])
    assert tags == {"photos": {PROMPT: 2, "a [V] dog at sea": 2, "a [V] dog, läuft": 1}}


def test_published_shapes_have_kohyas_versions(tmp_path: Path) -> None:
    from rpo.exports.model_card import Base

    def version(width: int, prediction: str = "epsilon") -> str | None:
        config, scheduler = {"cross_attention_dim": width}, {"prediction_type": prediction}
        return Base(tmp_path, "m", "StableDiffusionPipeline", config, scheduler, {}).version

    assert (version(768), version(1024)) == ("sd_v1", "sd_v2")
    assert version(1024, "v_prediction") == "sd_v2_v"
    assert version(16) is None
