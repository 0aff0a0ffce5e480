"""Named settings; `rpo.config` merges them with what the user gives."""

from __future__ import annotations

from typing import Any

# The BASE_PRESETS are whole sets of settings, one for each scale or family of base model; of the
# families' the guidance and the steps that their publishers use. The others change a few settings:
# they come on top of the set that suits the model.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "emojiland": {
        "sampling": {"steps": 20, "guidance_scale": 5.0, "scheduler": "dpm++"},
        "training": {"learning_rate": 3e-4, "beta": 0.1},
        "reward": {"lambda_train": 0.5},
        "validation": {"guidance_scale": 5.0},
    },
    "sd3": {
        "sampling": {"steps": 28, "guidance_scale": 5.0},
        "validation": {"guidance_scale": 5.0},
    },
    "flux": {
        "sampling": {"steps": 28, "guidance_scale": 3.5},
        "validation": {"guidance_scale": 3.5},
    },
    "flux-schnell": {
        "sampling": {"steps": 4, "guidance_scale": 0.0},
        "validation": {"steps": 4, "guidance_scale": 0.0},
    },
    "early-stop": {"validation": {"patience": 3}},
    "lora": {"training": {"weights": "lora", "learning_rate": 1e-4}},
}
BASE_PRESETS = ("paper", "emojiland", "sd3", "flux", "flux-schnell")
PRESET_HELP = {
    "paper": "all as published, for Stable Diffusion",
    "emojiland": "larger steps and faster drawing, for the small built-in model",
    "sd3": "as paper, with the guidance and steps customary for Stable Diffusion 3",
    "flux": "as paper, with the guidance and steps customary for FLUX dev",
    "flux-schnell": "as paper, unguided and in 4 steps, for FLUX schnell",
    "early-stop": "on top of the suitable one, stops three validations after the best one",
    "lora": "on top of the suitable one, trains a small adapter in place of the denoiser",
}
