"""Exports: what other programs read from them is what was trained; and what is refused."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.training_utils import _collate_lora_metadata
from diffusers.utils import convert_state_dict_to_diffusers
from huggingface_hub import errors
from huggingface_hub.repocard import metadata_load
from jobs import contents
from peft import LoraConfig, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import RESOLUTION, save_tiny, tiny_pipeline

from rpo.cli import commands as cli
from rpo.config import FLOW_SOLVER, load_config
from rpo.errors import UserError
from rpo.exports.export import DTYPES, check_push, export, push
from rpo.exports.lora_file import read_adapter
from rpo.exports.lora_names import ADAPTER_FILE, place_of
from rpo.models.backbone import Backbone
from rpo.models.resolve import known_presets
from rpo.models.sampling import sample
from rpo.quiet import quiet
from rpo.runs.environment import model_files
from rpo.runs.folder import BEST_CARD, RunFolder
from rpo.runs.result import Run, load_run

PROMPT = "a photo of [V] dog"
RANK, ALPHA = 2, 3
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
# U-Nets: all sorts of layers, so that diffusers' file mixes its two ways of naming
TARGETS = {
    "epsilon": ["attn1.to_q", "attn2.to_k", "attn1.to_out.0", "proj_in", "ff.net.0.proj", "conv1"],
    "sdxl": ["attn1.to_v", "attn2.to_k", "attn1.to_out.0", "proj_in", "ff.net.2", "conv_shortcut"],
    "sd3": [*ATTENTION, "add_q_proj", "add_k_proj", "to_add_out", "ff.net.2"],  # no add_v_proj
    "flux-dev": [*ATTENTION, "proj_mlp", "add_q_proj", "add_k_proj", "add_v_proj"],
    "z-image": [*ATTENTION, "w1", "w2", "w3", "layers.0.adaLN_modulation.0"],
}
UNETS, TRANSFORMERS = ("epsilon", "sdxl"), ("sd3", "flux-dev", "z-image")


@dataclass(frozen=True)
class Trained:
    """A run that trained an adapter, and the live pipeline that has it."""

    run: Run
    pipeline: Any
    kind: str

    @property
    def denoiser(self) -> Any:
        return denoiser_of(self.pipeline)

    def adapted(self) -> dict[str, LoraLayer]:
        """peft's own layers by diffusers' names."""
        named = self.denoiser.named_modules()
        return {name: module for name, module in named if isinstance(module, LoraLayer)}

    def delta(self, name: str) -> torch.Tensor:
        """peft's own change of a layer's weight."""
        return self.adapted()[name].get_delta_weight("default").detach()

    def merged(self, name: str) -> torch.Tensor:
        """peft's own weight of a layer with its adapter in it."""
        layer = copy.deepcopy(self.adapted()[name])
        layer.merge(adapter_names=["default"])
        return layer.get_base_layer().weight.detach()


def denoiser_of(pipeline: Any) -> Any:
    return pipeline.unet if hasattr(pipeline, "unet") else pipeline.transformer


def make_run(root: Path, kind: str, **more: Any) -> RunFolder:
    """A run folder on a tiny base model, without best/."""
    base = root / "models" / kind
    if not base.exists():
        save_tiny(base, kind)
    environment = {
        "versions": {"rpo": "0.1.0"},
        "resolution": RESOLUTION,
        "subject": {"photos": [{"name": f"{n}.png", "sha256": "0"} for n in range(5)]},
        "models": {"pipeline": {"name": str(base), "files": model_files(base)}},
        **more,
    }
    config = load_config(None, None, ["noun=dog"], model=str(base), known=known_presets())
    return RunFolder.create(root / "meine Läufe" / "rex-1", config, environment)


def card(kind: str, **more: Any) -> dict[str, Any]:
    flow = kind in TRANSFORMERS
    return {
        "step": 40,
        "subject": "[V] dog",
        "reward": 0.75,
        "steps": 2,
        "guidance_scale": 3.0,
        "scheduler": FLOW_SOLVER if flow else "ddim",
        "base_model": "base",
        **more,
    }


def train_adapter(root: Path, kind: str, dora: bool = False, **config: Any) -> Trained:
    """A random adapter, saved as diffusers' training scripts do."""
    folder = make_run(root, kind)
    pipeline = tiny_pipeline(kind)
    denoiser = denoiser_of(pipeline)
    settings = {"r": RANK, "lora_alpha": ALPHA, "target_modules": TARGETS[kind], **config}
    denoiser.add_adapter(LoraConfig(use_dora=dora, init_lora_weights="gaussian", **settings))
    generator = torch.Generator().manual_seed(7)
    for name, parameter in denoiser.named_parameters():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
        if "lora_magnitude" in name:
            parameter.data *= 1 + 0.3 * torch.rand(parameter.shape, generator=generator)
    tensors = get_peft_model_state_dict(denoiser)
    part = "unet" if kind in UNETS else "transformer"
    if part == "unet":
        tensors = convert_state_dict_to_diffusers(tensors)
    best = folder.path / "best"
    layers = {f"{part}_lora_layers": tensors, **_collate_lora_metadata({part: denoiser})}
    type(pipeline).save_lora_weights(best, **layers)
    (best / BEST_CARD).write_text(json.dumps(card(kind)), encoding="utf-8")
    return Trained(load_run(folder.path), pipeline, kind)


@cache
def trained_once(root: Path, kind: str, dora: bool) -> Trained:
    return train_adapter(root / f"{kind} {dora}", kind, dora)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Trained]:
    """`adapter(kind, dora)`: a run that several tests read; its folder is left as it is."""
    root = tmp_path_factory.mktemp("trained")
    return lambda kind="epsilon", dora=False: trained_once(root, kind, dora)


def copied(trained: Trained, root: Path) -> Run:
    """The run in a folder that may be spoilt, with a base model of its own."""
    base = shutil.copytree(trained.run.config.model, root / "models" / trained.kind)
    path = shutil.copytree(trained.run.path, root / "meine Läufe" / "rex-1")
    run = load_run(path)
    run.folder.update_config(replace(run.config, model=str(base)))
    return load_run(path)


def full_run(root: Path, kind: str = "epsilon") -> Run:
    """A run that trained the whole denoiser: its best/ is another tiny pipeline."""
    folder = make_run(root, kind)
    folder.save_best(tiny_pipeline(kind, seed=5).save_pretrained, card(kind))
    return load_run(folder.path)


def picture(pipeline: Any) -> np.ndarray:
    """(H, W, 3) in [0, 1] by the stock pipeline."""
    pipeline.set_progress_bar_config(disable=True)
    with quiet():
        return pipeline(
            PROMPT,
            num_inference_steps=2,
            guidance_scale=3.0,
            height=RESOLUTION,
            width=RESOLUTION,
            generator=torch.Generator().manual_seed(0),
            output_type="np",
        ).images[0]


def apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max())


def loaded(kind: str, folder: Path, **more: Any) -> Any:
    """A plain base pipeline with an exported LoRA loaded by diffusers."""
    pipeline = tiny_pipeline(kind)
    with quiet():
        pipeline.load_lora_weights(str(folder), **more)
    return pipeline


def metadata(file: Path) -> dict[str, str]:
    with safe_open(str(file), "pt") as opened:
        return opened.metadata()


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


def test_published_shapes_have_kohyas_versions(tmp_path: Path) -> None:
    from rpo.exports.model_card import Base

    def version(width: int, prediction: str = "epsilon") -> str | None:
        config, scheduler = {"cross_attention_dim": width}, {"prediction_type": prediction}
        return Base(tmp_path, "m", "StableDiffusionPipeline", config, scheduler, {}).version

    assert (version(768), version(1024)) == ("sd_v1", "sd_v2")
    assert version(1024, "v_prediction") == "sd_v2_v"
    assert version(16) is None


@pytest.mark.parametrize("to", ["diffusers", "lora", "kohya", "comfyui"])
def test_the_card(adapter: Callable[..., Trained], tmp_path: Path, to: str) -> None:
    trained = adapter("sdxl")
    base = Path(trained.run.config.model)
    text = (export(trained.run, to, tmp_path / "out") / "README.md").read_text(encoding="utf-8")
    front = metadata_load(tmp_path / "out" / "README.md")
    assert front is not None
    assert front["instance_prompt"] == PROMPT
    assert front["library_name"] == "diffusers"
    assert ("lora" in front["tags"]) == (to != "diffusers")
    assert "base_model" not in front  # a folder of this machine is no model of the hub
    assert "license" not in front
    assert "does not say under which licence" in text
    digest = model_files(base)["unet/diffusion_pytorch_model.safetensors"]
    for words in (digest, "40, λ-harmonic reward 0.7500", "guidance 3", "2 steps", "seed 0"):
        assert words in text, words
    assert str(tmp_path) not in text
    if to == "kohya":
        assert r"a photo of \[V\] dog <lora:dog-rex-1:1>" in text


def test_the_licence_is_the_base_models(adapter: Callable[..., Trained], tmp_path: Path) -> None:
    run = copied(adapter("sdxl"), tmp_path)
    readme = "---\nlicense: other\nlicense_name: tiny-1\n---\n# tiny\n"
    (Path(run.config.model) / "README.md").write_text(readme, encoding="utf-8")
    folder = export(run, "lora")
    front = metadata_load(folder / "README.md")
    assert front is not None
    assert (front["license"], front["license_name"]) == ("other", "tiny-1")
    assert "its licence: tiny-1." in (folder / "README.md").read_text(encoding="utf-8")
    assert metadata(folder / ADAPTER_FILE)["modelspec.license"] == "tiny-1"


def test_a_base_of_the_hub_is_named(
    adapter: Callable[..., Trained], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copied(adapter("sdxl"), tmp_path)
    place = Path(run.config.model)
    run.config = load_config(None, None, ["noun=dog"], model="org/xl")
    monkeypatch.setattr("rpo.models.resolve.resolve_model", lambda name: place)
    front = metadata_load(export(run, "lora") / "README.md")
    assert front is not None
    assert (front["base_model"], front["base_model_relation"]) == ("org/xl", "adapter")


def test_the_cards_program_draws_what_rpo_draws(
    adapter: Callable[..., Trained], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run as it stands, in the folder of the export, beside a base model of that name."""
    run = adapter().run
    folders = {to: export(run, to, tmp_path / to) for to in ("diffusers", "lora", "kohya")}
    backbone = Backbone.load(folders["diffusers"], device="cpu", resolution=RESOLUTION)
    conditions = backbone.encode_prompts([PROMPT])
    how = {"steps": 2, "guidance_scale": 3.0, "scheduler": "ddim"}
    latents = sample(backbone, backbone.denoiser, conditions, [0], **how)
    expected = backbone.decode(latents)[0].permute(1, 2, 0).numpy()
    for folder in folders.values():
        text = (folder / "README.md").read_text(encoding="utf-8")
        (code,) = [part.split("```")[0] for part in text.split("```python\n")[1:]]
        monkeypatch.chdir(folder)
        Path("epsilon").symlink_to(run.config.model)
        with quiet():
            exec(compile(code, "README.md", "exec"), {})
        with Image.open("picture.png") as drawn:
            assert apart(np.asarray(drawn) / 255, expected) < 0.51 / 255


# --- refusals ----------------------------------------------------------------------------


def _spoil_base(run: Run) -> None:
    save_tiny(Path(run.config.model), "epsilon", seed=3)


def _overflow(run: Run) -> None:
    tensors = {key: tensor * 1e6 for key, tensor in load_file(run.best / ADAPTER_FILE).items()}
    save_file(tensors, run.best / ADAPTER_FILE, metadata=metadata(run.best / ADAPTER_FILE))


def _drop_half(run: Run) -> None:
    kept = {k: v for k, v in load_file(run.best / ADAPTER_FILE).items() if "up" not in k}
    save_file(kept, run.best / ADAPTER_FILE)


ADAPTER_REFUSALS: dict[str, tuple[dict[str, Any], str, Callable[[Run], None] | None]] = {
    "format": ({"to": "ckpt"}, "--to ckpt: must be one of diffusers, lora", None),
    "dtype": ({"dtype": "int8"}, "--dtype int8: must be one of fp32", None),
    "a file name": ({"out": "x.safetensors"}, "name a folder; the file and its README", None),
    "no user": ({"out": "~nobody-of-that-name/x"}, "there is no such user", None),
    "existing": ({"out": "there"}, "exists already; name a folder that does not", None),
    "another base": ({}, "is not the file that", _spoil_base),
    "overflow": ({"dtype": "fp16"}, "not finite in fp16; use --dtype bf16", _overflow),
    "damaged": ({}, "is no complete LoRA", _drop_half),
    "cut off": (
        {},
        "cannot be read",
        lambda run: (run.best / ADAPTER_FILE).write_bytes(b"12") and None,
    ),
    "no best": ({}, "has no best/ yet", lambda run: (run.best / BEST_CARD).unlink()),
}


@pytest.mark.parametrize("case", ADAPTER_REFUSALS)
def test_refusals_write_nothing(
    adapter: Callable[..., Trained], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    run = copied(adapter(), tmp_path)
    (tmp_path / "there").mkdir()
    given, words, spoil = ADAPTER_REFUSALS[case]
    if spoil:
        spoil(run)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=words) as caught:
        export(run, **{"to": "kohya", **given})
    assert "\n" not in str(caught.value)
    assert contents(tmp_path) == before
    assert not list(tmp_path.rglob(".kohya.*"))


@pytest.mark.parametrize("to", ["lora", "kohya", "comfyui"])
def test_a_full_run_has_no_adapter(tmp_path: Path, to: str) -> None:
    run = full_run(tmp_path)
    with pytest.raises(UserError, match="trained the whole denoiser.*use --to diffusers"):
        export(run, to)
    assert not (run.path / "export").exists()


def test_nothing_is_overwritten(adapter: Callable[..., Trained], tmp_path: Path) -> None:
    run = copied(adapter(), tmp_path)
    folder = export(run, "lora")
    before = contents(folder)
    with pytest.raises(UserError, match="exists already; name a folder"):
        export(run, "lora", dtype="fp16")
    assert contents(folder) == before


# --- the command and the hub -------------------------------------------------------------


def test_the_command(
    adapter: Callable[..., Trained], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(adapter(), tmp_path)
    out = tmp_path / "für ComfyUI"
    command = ["export", str(run.path), "--to", "comfyui", "--out", str(out), "--dtype", "bf16"]
    assert cli.run(command) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert sorted(contents(out)) == ["README.md", "dog-rex-1.safetensors"]
    assert cli.run(command) == cli.WRONG_INPUT
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


class Hub:
    """huggingface_hub's HfApi, as far as it is used; `fails` says which call raises what."""

    def __init__(self, fails: dict[str, Exception] | None = None) -> None:
        self.fails, self.calls = fails or {}, []  # type: ignore[var-annotated]

    def _called(self, name: str, **given: Any) -> None:
        self.calls.append((name, given))
        if name in self.fails:
            raise self.fails[name]

    def whoami(self) -> None:
        self._called("whoami")

    def create_repo(self, repo: str, **given: Any) -> str:
        self._called("create_repo", repo=repo, **given)
        return f"hub/{repo}"

    def upload_folder(self, **given: Any) -> None:
        self._called("upload_folder", **given)


def test_push_makes_a_private_repository(
    adapter: Callable[..., Trained],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = copied(adapter(), tmp_path)
    hub = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    out = tmp_path / "mine"
    command = ["export", str(run.path), "--to", "lora", "--out", str(out)]
    assert cli.run([*command, "--push", "me/my-dog"]) == 0
    assert capsys.readouterr().out == f"{out}\nhub/me/my-dog\n"
    made, sent = (next(c for n, c in hub.calls if n == name) for name in CALLS)
    assert made == {"repo": "me/my-dog", "private": True, "exist_ok": False}
    assert (sent["repo_id"], sent["folder_path"]) == ("me/my-dog", str(out))


CALLS = ("create_repo", "upload_folder")


def refused(status: int) -> errors.HfHubHTTPError:
    response: Any = SimpleNamespace(headers={}, request=None, status_code=status)
    return errors.HfHubHTTPError("no", response=response)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        ("whoami", errors.LocalTokenNotFoundError(), "not logged in.*hf auth login"),
        ("whoami", refused(401), "does not accept the login"),
        ("whoami", errors.OfflineModeIsEnabled("x"), "switched off by HF_HUB_OFFLINE"),
        ("whoami", ConnectionError("no route"), "cannot be reached"),
        ("whoami", errors.HTTPError("refused"), "cannot be reached"),
        ("create_repo", refused(403), "may not write there.*hf upload me/my-dog"),
        ("create_repo", refused(409), "exists already; nothing there is overwritten"),
        ("upload_folder", refused(500), "hf upload me/my-dog"),
    ],
)
def test_push_that_fails_is_one_line(
    tmp_path: Path, call: str, error: Exception, words: str
) -> None:
    hub = Hub({call: error})
    with pytest.raises(UserError, match=words) as caught:
        push(tmp_path, "me/my-dog", hub)
    assert str(caught.value).startswith("--push me/my-dog: ")
    assert "\n" not in str(caught.value)
    assert hub.calls[-1][0] == call


@pytest.mark.parametrize("name", ["my-dog", "a/b/c", "me/my dog", "me/", "/x"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    hub = Hub()
    with pytest.raises(UserError, match="must be ORG/NAME"):
        check_push(name, hub)
    assert hub.calls == []


def test_a_failed_login_stops_before_the_export(
    adapter: Callable[..., Trained],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = copied(adapter(), tmp_path)
    hub = Hub({"whoami": errors.LocalTokenNotFoundError()})
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    command = ["export", str(run.path), "--to", "lora", "--push", "me/my-dog"]
    assert cli.run(command) == cli.WRONG_INPUT
    assert "not logged in" in capsys.readouterr().err
    assert not (run.path / "export").exists()
