"""Runs with an adapter or a whole denoiser to export, and what stock diffusers draws of them."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.training_utils import _collate_lora_metadata
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from tiny import RESOLUTION, save_tiny, tiny_pipeline

from rpo.config import FLOW_SOLVER, load_config
from rpo.models.resolve import known_presets
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
