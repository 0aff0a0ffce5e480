"""Named settings; `rpo.config` merges them with what the user gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

# The presets of no model family in particular; the families bring their own. The BASE_PRESETS are
# whole sets of settings, one for each scale of base model. The others change a few settings: they
# come on top of the set that suits the model.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "emojiland": {
        "sampling": {"steps": 20, "guidance_scale": 5.0, "scheduler": "dpm++"},
        "training": {"learning_rate": 3e-4, "beta": 0.1},
        "reward": {"lambda_train": 0.5},
        "validation": {"guidance_scale": 5.0},
    },
    "early-stop": {"validation": {"patience": 3}},
    "lora": {"training": {"weights": "lora", "learning_rate": 1e-4}},
    "online": {
        "method": "online",
        "training": {"preference_weight": 0.0, "checkpointing": True},
        "online": {
            "weight": 1.0,
            "lambda_online": 0.5,
            "start": 100,
            "every": 2,
            "pictures": 4,
            "steps": 10,
            "late": 3,
        },
    },
}
BASE_PRESETS = ("paper", "emojiland")
PRESET_HELP = {
    "paper": "all as published, for Stable Diffusion",
    "emojiland": "larger steps and faster drawing, for the small built-in model",
    "early-stop": "on top of the suitable one, stops three validations after the best one",
    "lora": "on top of the suitable one, trains a small adapter in place of the denoiser",
    "online": "on top of the suitable one, the method online as it was tried, for large models",
}


class Preset(NamedTuple):
    """One named set: its help, a clause, and its settings by section; the run's by their names."""

    help: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Presets:
    """The sets that there are to choose from.

    Attributes:
        settings: of each, as of a `Preset`.
        help: of each, a clause.
        base: the names of the whole ones.
        suitable: the name of the whole one that suits a model, by the model's name.
    """

    settings: Mapping[str, Mapping[str, Any]]
    help: Mapping[str, str]
    base: tuple[str, ...]
    suitable: Callable[[str], str]

    def base_of(self, names: Iterable[str]) -> list[str]:
        """Those of `names` that are whole ones."""
        return [name for name in names if name in self.base]


def presets_with(families: Mapping[str, Preset], suitable: Callable[[str], str]) -> Presets:
    """Those here and those of model families, which are whole ones."""
    names = (*BASE_PRESETS, *families, *(name for name in PRESETS if name not in BASE_PRESETS))
    known = {name: Preset(PRESET_HELP[name], PRESETS[name]) for name in PRESETS} | {**families}
    return Presets(
        settings={name: known[name].settings for name in names},
        help={name: known[name].help for name in names},
        base=(*BASE_PRESETS, *families),
        suitable=suitable,
    )


OWN = presets_with({}, lambda model: "emojiland" if model == "emojiland" else "paper")
