"""A trained low-rank adapter: read from diffusers' file, written in the layouts of other tools.

diffusers has a converter to kohya's names of its own. It is not used: it takes every alpha for the
rank, leaves DoRA's magnitudes under a name that nothing reads, and knows neither SDXL's original
names nor fused projections.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rpo.errors import UserError
from rpo.exports.lora_names import Place, kohya_key, place_of
from rpo.reading import as_entries, number, read_tensors, whole

METADATA = "lora_adapter_metadata"  # diffusers' key for peft's configuration
# [ending of a key] -> which tensor it is. diffusers writes the first three pairs side by side.
_ENDINGS = {
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
}


@dataclass(frozen=True)
class Layer:
    """The adapter of one layer: W becomes W + scale · up · down (LoRA, arXiv 2106.09685).

    down (r, in) or (r, in, k, k); up (out, r) or (out, r, 1, 1). magnitude, (out,), makes it a DoRA
    (arXiv 2402.09353): each row of that sum is then brought to this length.
    """

    down: Tensor
    up: Tensor
    scale: float
    magnitude: Tensor | None = None

    @property
    def rank(self) -> int:
        """r."""
        return self.down.shape[0]

    @property
    def alpha(self) -> float:
        """What kohya's files keep for the scale: alpha / r."""
        return self.scale * self.rank

    def delta(self) -> Tensor:
        """scale · up · down, float32, in the shape of the layer's weight."""
        product = self.up.float().flatten(1) @ self.down.float().flatten(1)
        return self.scale * product.view(self.up.shape[0], *self.down.shape[1:])

    def merged(self, weight: Tensor) -> Tensor:
        """The layer's weight with the adapter in it; float32."""
        changed = weight.float() + self.delta()
        if self.magnitude is None:
            return changed
        return changed * _column(self.magnitude.float() / _row_norms(changed), changed)


@dataclass(frozen=True)
class Adapter:
    """All layers of a trained adapter, by their names in diffusers' denoiser.

    part: the denoiser's name in the pipeline, "unet" or "transformer"; config: peft's configuration
    where the file holds it.
    """

    part: str
    layers: Mapping[str, Layer]
    config: Mapping[str, Any]

    @property
    def rank(self) -> int:
        """The largest of its layers."""
        return max(layer.rank for layer in self.layers.values())

    @property
    def alpha(self) -> float:
        """That of the layer with the largest rank."""
        return max(self.layers.values(), key=lambda layer: layer.rank).alpha

    @property
    def is_dora(self) -> bool:
        """Whether any layer has a magnitude."""
        return any(layer.magnitude is not None for layer in self.layers.values())

    # --- layouts -------------------------------------------------------------------------

    def diffusers(self) -> dict[str, Tensor]:
        """diffusers' layout, in peft's names throughout.

        diffusers itself writes a U-Net's attention in names of its own and the rest in peft's; its
        reader decides by the first key, and then loads a file of both sorts in part only.
        """
        tensors = {}
        for name, layer in self.layers.items():
            tensors[f"{self.part}.{name}.lora_A.weight"] = layer.down
            tensors[f"{self.part}.{name}.lora_B.weight"] = layer.up
            if layer.magnitude is not None:
                shape = (1, -1, 1, 1) if layer.down.ndim == 4 else (-1,)
                magnitude = layer.magnitude.view(shape)
                tensors[f"{self.part}.{name}.lora_magnitude_vector"] = magnitude
        return tensors

    def kohya(self, pipeline: str, layers_per_block: int) -> dict[str, Tensor]:
        """Kohya's layout: lora_unet_….lora_down.weight, .lora_up.weight, .alpha, .dora_scale.

        Layers that the original model has as one are stacked, exactly, into one of the summed rank.
        Raises UserError for a layer that has no name there; what else stands in the way, `obstacle`
        says.
        """
        stacks: dict[str, dict[Place, Layer]] = {}
        for name, layer in self.layers.items():
            place = place_of(pipeline, name, layers_per_block)
            stacks.setdefault(kohya_key(place), {})[place] = layer
        tensors = {}
        for key, parts in stacks.items():
            layer = _stacked(parts)
            tensors[f"{key}.lora_down.weight"] = layer.down
            tensors[f"{key}.lora_up.weight"] = layer.up
            tensors[f"{key}.alpha"] = torch.tensor(layer.alpha, dtype=torch.float32)
            if layer.magnitude is not None:
                tensors[f"{key}.dora_scale"] = _column(layer.magnitude, layer.down)
        return tensors

    def comfyui(self, pipeline: str) -> dict[str, Tensor]:
        """ComfyUI's layout for transformers: diffusers' names and, as kohya's, .alpha.

        ComfyUI puts a query's adapter into its rows of the fused projection by itself, but does not
        read peft's configuration: without .alpha it would take the scale for 1.
        """
        tensors = {}
        for name, layer in self.layers.items():
            place_of(pipeline, name)  # refuses what ComfyUI would leave out without a word
            key = f"{self.part}.{name}"
            tensors[f"{key}.lora_A.weight"] = layer.down
            tensors[f"{key}.lora_B.weight"] = layer.up
            tensors[f"{key}.alpha"] = torch.tensor(layer.alpha, dtype=torch.float32)
            if layer.magnitude is not None:
                tensors[f"{key}.dora_scale"] = _column(layer.magnitude, layer.down)
        return tensors


def read_adapter(file: Path) -> Adapter:
    """The adapter in a file of diffusers. Raises UserError for a damaged or another file."""
    remedy = "put the file back, or start a new run"
    tensors, metadata = read_tensors(file, remedy)
    found: dict[tuple[str, str], dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        ending = next((ending for ending in _ENDINGS if key.endswith(ending)), None)
        part, _, name = key.removesuffix(ending or "").partition(".")
        if ending is None or part not in ("unet", "transformer") or not name:
            raise UserError(f"{file}: holds {key}, which is no LoRA of a denoiser; use --to lora")
        found.setdefault((part, name), {})[_ENDINGS[ending]] = tensor
    parts = {part for part, _ in found}
    if len(parts) != 1 or any({"down", "up"} - set(pair) for pair in found.values()):
        raise UserError(f"{file}: is no complete LoRA; {remedy}")
    (part,) = parts
    try:
        shape = {f"{part}.{key}": value for key, value in _CONFIG.items()}
        about = as_entries(metadata.get(METADATA, "{}"), shape, str(file), remedy)
    except ValueError as error:
        raise UserError(f"{file}: its {METADATA} is damaged ({error}); {remedy}") from None
    config = {
        key.removeprefix(f"{part}."): value
        for key, value in about.items()
        if key.startswith(f"{part}.")
    }
    for (_, name), pair in found.items():
        if wrong := _misshapen(pair):
            raise UserError(f"{file}: {name} {wrong}; {remedy}")
    layers = {
        name: Layer(
            pair["down"],
            pair["up"],
            _scale(config, name, pair["down"].shape[0]),
            pair["magnitude"].flatten() if "magnitude" in pair else None,
        )
        for (_, name), pair in sorted(found.items())
    }
    return Adapter(part, layers, config)


def _misshapen(pair: Mapping[str, Tensor]) -> str:
    """What is wrong with the tensors of one layer by themselves; empty for nothing."""
    down, up, magnitude = pair["down"], pair["up"], pair.get("magnitude")
    if not all(tensor.is_floating_point() for tensor in pair.values()):
        return "is not of floating-point numbers"
    if down.ndim not in (2, 4) or up.ndim != down.ndim or not down.numel() or not up.numel():
        return f"has the shapes {tuple(down.shape)} and {tuple(up.shape)}"
    if up.shape[1] != down.shape[0] or up[0, 0].numel() != 1:
        return f"has halves that do not fit: {tuple(down.shape)} and {tuple(up.shape)}"
    if magnitude is not None and magnitude.numel() != up.shape[0]:
        return f"has {magnitude.numel()} magnitudes for {up.shape[0]} rows"
    return ""


def _scales(value: Any) -> str:
    """Layers' names with their alpha: no pattern that could take for ever to match."""
    sound = isinstance(value, Mapping) and all(
        re.fullmatch(r"[\w.^$]*", key) and not number(alpha) for key, alpha in value.items()
    )
    return "" if sound else "a table of layers' names and numbers"


# what of peft's configuration is read here
_CONFIG = {
    "r": whole,
    "lora_alpha": number,
    "use_rslora": (bool, None),
    "alpha_pattern": (_scales, None),
}


def _scale(config: Mapping[str, Any], name: str, rank: int) -> float:
    """alpha / r of one layer, as peft has it; 1 where the file does not say."""
    alpha = config.get("lora_alpha", rank)
    for pattern, special in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            alpha = special
            break
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _row_norms(weight: Tensor) -> Tensor:
    """(out,) length of each output's weights."""
    return weight.flatten(1).norm(dim=1)


def _column(rows: Tensor, like: Tensor) -> Tensor:
    """(out,) -> (out, 1) or (out, 1, 1, 1), as many dimensions as `like`."""
    return rows.reshape(-1, *[1] * (like.ndim - 1))


def _stacked(parts: Mapping[Place, Layer]) -> Layer:
    """One layer from those that are blocks of its rows; rows of absent ones stay unchanged.

    The ranks side by side, each seen by its own rows only: the same product, not a fit to it.
    """
    place, first = next(iter(parts.items()))
    if len(place.sizes) == 1:
        return first
    dora = sum(layer.magnitude is not None for layer in parts.values())
    assert dora in (0, len(place.sizes)), "`obstacle` refuses a DoRA of some of the rows"
    width = first.up.shape[0] // place.sizes[place.block]
    rank = sum(layer.rank for layer in parts.values())
    up = first.up.new_zeros(width * sum(place.sizes), rank)
    column = 0
    ordered = sorted(parts.items(), key=lambda item: item[0].block)
    for where, layer in ordered:
        top = width * sum(where.sizes[: where.block])
        rows = slice(top, top + layer.up.shape[0])
        # alpha becomes the rank, so that layers of different scales fit into one
        up[rows, column : column + layer.rank] = layer.up * layer.scale
        column += layer.rank
    magnitudes = [layer.magnitude for _, layer in ordered if layer.magnitude is not None]
    return Layer(
        torch.cat([layer.down for _, layer in ordered]),
        up,
        1.0,
        torch.cat(magnitudes) if magnitudes else None,
    )


def for_comfyui(adapter: Adapter, weights: Mapping[str, Tensor]) -> Adapter:
    """DoRA's magnitudes m such that ComfyUI draws what was trained; LoRA is returned as it is.

    ComfyUI divides by the length of the base model's rows, |W|, where DoRA divides by that of the
    changed ones, |W + Δ|, so it is given m |W| / |W + Δ|. weights: the base layers' by name.
    """
    layers = {}
    for name, layer in adapter.layers.items():
        if layer.magnitude is None:
            layers[name] = layer
            continue
        weight = weights[name].float()
        ratio = _row_norms(weight) / _row_norms(weight + layer.delta())
        layers[name] = Layer(layer.down, layer.up, layer.scale, layer.magnitude * ratio)
    return Adapter(adapter.part, layers, adapter.config)
