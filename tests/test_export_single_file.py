"""Exports of runs that were trained from one .safetensors file, through the real commands."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from exporting import apart, metadata
from jobs import World, make_world
from original import save_original, small_files
from PIL import Image
from safetensors.torch import load_file
from tiny import tiny_pipeline

from rpo.cli import commands as cli
from rpo.errors import UserError
from rpo.exports.export import export
from rpo.models.backbone import Backbone
from rpo.quiet import quiet
from rpo.runs.result import Run, load_run

PROMPT = "a photo of [V] dog"
NAME = "mein Möbel.safetensors"


def train(world: World, kind: str, weights: str, **file: Any) -> Run:
    """A run from a single file, whose configurations lie beside it."""
    model = save_original(tiny_pipeline(kind), world.root / NAME, **file)
    small_files(model.with_suffix(""), kind)
    world, out = dataclasses.replace(world, model=model), world.root / "läuft"
    more = {"training.weights": weights, "validation.keep": "last", "training.steps": 2}
    command = ["train", str(world.photos), *world.flags(**more), "--out", str(out), "--quiet"]
    assert cli.run(command) == 0
    return load_run(out)


@cache
def trained_once(root: Path, kind: str, weights: str) -> Run:
    marks = {"add": {"v_pred": torch.zeros(1)}} if kind == "sdxl" else {}
    return train(make_world(root / f"{kind} {weights}"), kind, weights, **marks)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Run]:
    """`trained(kind, weights)`: a run that several tests read."""
    root = tmp_path_factory.mktemp("single")
    return lambda kind, weights: trained_once(root, kind, weights)


def drawn(run: Run) -> np.ndarray:
    return np.asarray(run.generate(PROMPT)[0]) / 255


def by_the_cards_program(folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Run as it stands, in the folder of the export, beside the base model's file."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    (code,) = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    monkeypatch.chdir(folder)
    (folder / model.name).symlink_to(model)
    (folder / model.stem).symlink_to(model.with_suffix(""))
    with quiet():
        exec(compile(code, "README.md", "exec"), {})
    with Image.open("picture.png") as picture:
        return np.asarray(picture) / 255


@pytest.mark.parametrize("kind", ["epsilon", "sdxl", "sd3-without-t5"])
@pytest.mark.parametrize("to", ["diffusers", "lora", "kohya", "comfyui"])
def test_an_adapter_on_a_single_file(
    trained: Callable[[str, str], Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    to: str,
) -> None:
    run = trained(kind, "lora")
    model = Path(run.config.model)
    folder = tmp_path / "hinaus"
    assert cli.run(["export", str(run.path), "--to", to, "--out", str(folder)]) == 0
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert f"`{NAME}` sha256 `{hashlib.sha256(model.read_bytes()).hexdigest()}`" in text
    assert f"The file {NAME} does not say under which licence it is" in text
    assert str(tmp_path) not in text
    own = to in ("kohya", "comfyui") and kind.startswith("sd3")  # which diffusers does not read
    assert ("```python" in text) == (not own)
    if not own:
        expected = drawn(run)
        assert apart(by_the_cards_program(folder, model, monkeypatch), expected) < 1.01 / 255
    if to != "diffusers":
        (file,) = folder.glob("*dog*.safetensors" if to != "lora" else "pytorch_lora*")
        said = metadata(file).get("modelspec.prediction_type")
        assert said == {"epsilon": "epsilon", "sdxl": "v", "sd3-without-t5": None}[kind]


def test_the_report_opens_a_single_file(trained: Callable[[str, str], Run]) -> None:
    """from_pretrained takes no file."""
    page = trained("epsilon", "lora").report.read_text(encoding="utf-8")
    assert "pipeline = load_pipeline(Path(" in page
    assert "DiffusionPipeline.from_pretrained" not in page
    assert "best&#x27;)" in trained("epsilon", "full").report.read_text(encoding="utf-8")


def test_a_full_run_from_a_single_file(trained: Callable[[str, str], Run], tmp_path: Path) -> None:
    run = trained("epsilon", "full")
    folder = export(run, "diffusers", tmp_path / "whole")
    with quiet():
        exported = DiffusionPipeline.from_pretrained(folder).unet.state_dict()
        best = DiffusionPipeline.from_pretrained(run.best).unet.state_dict()
    assert all(torch.equal(exported[name], weight) for name, weight in best.items())
    assert not torch.equal(best["conv_in.weight"], tiny_pipeline().unet.conv_in.weight)


def test_comfyui_gets_a_dora_relative_to_the_files_weights(
    trained: Callable[[str, str], Run], tmp_path: Path
) -> None:
    """Its magnitudes are divided by the lengths of the base model's rows, so these are read."""
    run = trained("epsilon", "dora")
    export(run, "comfyui", tmp_path / "c")
    weights = Backbone.load(run.config.model, "cpu").denoiser.state_dict()
    (file,) = (tmp_path / "c").glob("*.safetensors")
    tensors = load_file(file)
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    key = f"lora_unet_{name.replace('.', '_')}"
    length = weights[f"{name}.weight"].norm(dim=1, keepdim=True)
    # Two steps change the magnitudes by hardly more than two learning rates.
    torch.testing.assert_close(tensors[f"{key}.dora_scale"], length, rtol=0, atol=0.05)


def test_another_file_is_refused(tmp_path: Path) -> None:
    run = train(make_world(tmp_path), "epsilon", "lora")
    file = save_original(tiny_pipeline(seed=3), Path(run.config.model))
    with pytest.raises(UserError) as error:
        export(run, "lora")
    assert str(error.value).startswith(f"{file}: is not the file that {run.path} was trained on")
    file.unlink()
    with pytest.raises(UserError, match="no such file"):
        export(run, "lora")
    assert not (run.path / "export").exists()
