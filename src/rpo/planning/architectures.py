"""A base model's and a reward model's shapes, from their config.json files alone.

Nothing of the weights is read: the parts are built on PyTorch's meta device. The best-known models'
shapes are in assets/architectures, so they are known here before anything is downloaded.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from os.path import expanduser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from rpo.about import ASSETS
from rpo.errors import UserError
from rpo.models.conditions import Conditions
from rpo.models.families import FAMILIES, Family
from rpo.models.resolve import EMBEDDED, Kind, configurations, default_reward, resolve_model
from rpo.models.single_file import recognise
from rpo.quiet import quiet

_FOLDER = ASSETS / "architectures"
BUILT_IN = tuple(name for family in FAMILIES.values() for name in family.shapes)
_REWARD = "align-base"  # the built-in shape of the paper's reward model


@dataclass(frozen=True, eq=False)
class Part:
    """One network: the class that builds it and its config.json. Each is equal to itself alone."""

    kind: str
    config: Mapping[str, Any]

    @cached_property
    def fingerprint(self) -> str:
        """Names the network's shapes: the class, and a hash of it with its settings."""
        settings = {key: value for key, value in self.config.items() if not key.startswith("_")}
        text = json.dumps([self.kind, settings], sort_keys=True)
        return f"{self.kind} {hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def build(self, dtype: torch.dtype = torch.float32, device: torch.device | str = "meta") -> Any:
        """The network, frozen and in evaluation mode; without numbers on the meta device."""
        import diffusers
        import transformers

        with quiet(), torch.device(device):
            if self.kind == "AutoModel":
                shape = transformers.AutoConfig.for_model(**self.config)
                network = transformers.AutoModel.from_config(shape)
            elif hasattr(diffusers, self.kind):
                network = getattr(diffusers, self.kind).from_config(dict(self.config))
            else:
                kind = getattr(transformers, self.kind)
                network = kind(kind.config_class.from_dict(dict(self.config)))
            return network.to(dtype).eval().requires_grad_(False)


@dataclass(frozen=True)
class _Settings:
    """A part's settings as attributes; those that config.json leaves out are its class's own."""

    part: Part

    def __getattr__(self, name: str) -> Any:
        settings = self.part.config
        return settings[name] if name in settings else getattr(self.part.build().config, name)


@dataclass(frozen=True)
class Architecture:
    """A base model with the reward model that judges its pictures.

    Attributes:
        name: as in messages.
        hub_id: where the hub has it; "" for one that lies on this machine.
        family: its class in `rpo.models.families`.
        denoiser, vae, text_encoders, reward: its networks.
        reward_size: side of the pictures that the reward model sees, in pixels.
        token_limit: how many tokens the tokenizers allow, at most.
    """

    name: str
    hub_id: str
    family: type[Family]
    denoiser: Part
    vae: Part
    text_encoders: Mapping[str, Part]
    reward: Part
    reward_size: int
    token_limit: int

    @property
    def preset(self) -> str:
        """The preset that suits the family, as `base_preset` finds it in a model's files."""
        return self.family.preset(lambda part: self.denoiser.config)

    @property
    def factor(self) -> int:
        """Pixels of a picture per latent cell, along a side."""
        return 2 ** (len(self.vae.config["block_out_channels"]) - 1)

    def describe(self) -> Family:
        """The family's own view of the denoiser: how to call it, its sizes."""
        denoiser = SimpleNamespace(config=_Settings(self.denoiser))
        parts = {self.family.denoiser_name: denoiser, "vae_scale_factor": self.factor}
        return self.family(SimpleNamespace(**parts))

    def latent_shape(self, resolution: int) -> tuple[int, int, int]:
        """(C, h, w) for pictures of that side, 0 for the model's own. UserError if it has none."""
        family, factor = self.describe(), self.factor
        side = resolution or family.sample_size() * factor
        multiple, largest = factor * family.patch, family.largest_size()
        if side % multiple or (largest and side > largest * factor):
            limit = f", at most {largest * factor}" if largest else ""
            raise UserError(f"resolution must be a multiple of {multiple}{limit}, not {side}")
        return self.vae.config["latent_channels"], side // factor, side // factor

    def conditions(self, rows: int) -> Conditions:
        """What the denoiser is told of `rows` prompts, on the meta device."""
        told = self.family.told(self._texts, self.denoiser.config, self.token_limit)
        return Conditions(
            torch.empty(rows, told.tokens, told.width, device="meta"),
            torch.empty(rows, told.pooled, device="meta") if told.pooled else None,
            torch.full((rows,), told.tokens) if told.varies else None,
        )

    def tokens(self, text_encoder: str) -> int:
        """How many tokens a prompt is to one of the text encoders, padding included."""
        config = self.denoiser.config
        return self.family.tokens(text_encoder, self._texts, config, self.token_limit)

    @property
    def _texts(self) -> dict[str, Mapping[str, Any]]:
        return {name: part.config for name, part in self.text_encoders.items()}

    def reward_pictures(self, rows: int) -> Tensor:
        """(rows, 3, side, side) as the reward model reads pictures, on the meta device."""
        return torch.empty(rows, 3, self.reward_size, self.reward_size, device="meta")


def load_architecture(model: str, reward: str = "auto") -> Architecture:
    """The shapes of a model: one of `BUILT_IN` or its hub id, or whatever `resolve_model` takes.

    Raises UserError for a name that leads nowhere, with near matches.
    """
    index, name, hub_id, limit = _find_model(model)
    if index.get("_class_name") not in FAMILIES:
        raise UserError(
            f"--model {model}: is a {index.get('_class_name')}; rpo trains {', '.join(FAMILIES)}"
        )
    family = FAMILIES[index["_class_name"]]
    shape = dict(_find_reward(default_reward(model) if reward == "auto" else reward))
    size = shape.pop("_size")
    return Architecture(
        name=name,
        hub_id=hub_id,
        family=family,
        denoiser=Part(*index[family.denoiser_name]),
        vae=Part(*index["vae"]),
        text_encoders={n: Part(*index[n]) for n in family.text_encoders if n in index},
        reward=Part("AutoModel", {k: v for k, v in shape.items() if not k.startswith("_")}),
        reward_size=size,
        token_limit=limit,
    )


def _find_model(model: str) -> tuple[Mapping[str, Any], str, str, int]:
    """The index (as in assets/architectures), a name, a hub id and a limit of tokens."""
    for short in BUILT_IN:
        index = _read(_FOLDER / f"{short}.json")
        if model == short or (model in index["_hub"] and not _is_here(model, "pipeline")):
            hub_id = index["_hub"][0] if model == short else model
            return index, index["_name"], hub_id, 2**31
    known = (EMBEDDED, *BUILT_IN)
    if "/" not in model and model not in known and not Path(expanduser(model)).exists():
        near = difflib.get_close_matches(model, known, cutoff=0.4)
        remedy = f"did you mean {' or '.join(near)}?" if near else "name a folder or a hub id, or "
        raise UserError(
            f"--model {model}: no such model; {remedy}{'' if near else ', '.join(known)}"
        )
    folder = resolve_model(model)
    if folder.is_file():
        folder = configurations(recognise(folder))
    return dict(_parts(folder)), model, "", _token_limit(folder)


def _parts(folder: Path) -> Iterator[tuple[str, Any]]:
    """The entries of a folder's model_index.json in the form of assets/architectures."""
    for name, entry in _read(folder / "model_index.json").items():
        if not isinstance(entry, list):
            yield name, entry
        elif all(entry) and (folder / name / "config.json").is_file():
            yield name, (entry[1], _read(folder / name / "config.json"))


def _token_limit(folder: Path) -> int:
    files = folder.glob("tokenizer*/tokenizer_config.json")
    return int(min(_read(file).get("model_max_length", 2**31) for file in files))


def _find_reward(name: str) -> Mapping[str, Any]:
    """config.json of the reward model, and "_size", the side of the pictures that it reads."""
    built_in = _read(_FOLDER / f"{_REWARD}.json")
    if name in built_in["_hub"] and not _is_here(name, "reward"):
        return built_in
    folder = resolve_model(name, "reward")
    reads = _read(folder / "preprocessor_config.json")
    crop = reads.get("crop_size") if reads.get("do_center_crop", True) else None
    size = crop or reads.get("size") or {}
    side = size if isinstance(size, int) else size.get("height") or size.get("shortest_edge")
    config = _read(folder / "config.json")
    return config | {"_size": side or config["vision_config"]["image_size"]}


def _is_here(name: str, kind: Kind) -> bool:
    try:
        return resolve_model(name, kind).is_dir()
    except UserError:
        return False


def _read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: not readable as JSON ({error}); fetch the model again") from None
