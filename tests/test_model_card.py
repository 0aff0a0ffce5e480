"""The README of an export: what it says, and that its program draws as rpo does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from exporting import PROMPT, Trained, apart, copied, metadata
from huggingface_hub.repocard import metadata_load
from PIL import Image
from tiny import RESOLUTION

from rpo.config import load_config
from rpo.exports.export import export
from rpo.exports.lora_names import ADAPTER_FILE
from rpo.models.backbone import Backbone
from rpo.models.sampling import sample
from rpo.quiet import quiet
from rpo.runs.environment import model_files


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
