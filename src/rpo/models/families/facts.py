"""What the facts of a model family are made of; like them, it does not load PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

DENOISER = "model.diffusion_model."  # what a single file may put before its denoiser's names
VAE = ("first_stage_model.", "vae.")
QKV = (1, 1, 1)  # query, key and value, stacked


@dataclass(frozen=True)
class Place:
    """A layer of another tool's model, and which of its rows a layer of diffusers is.

    name: with dots. sizes: the heights of the blocks of rows that the layer is stacked from, in
    multiples of the model's width; block: which of them.
    """

    name: str
    block: int = 0
    sizes: tuple[int, ...] = (1,)


@dataclass(frozen=True)
class Header:
    """What a single .safetensors file says before its weights.

    path: the file; shapes: of every tensor; metadata: what the file says of itself.
    """

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]

    @cached_property
    def inner(self) -> dict[str, tuple[int, ...]]:
        """The shapes by names without `DENOISER` before them."""
        return {name.removeprefix(DENOISER): shape for name, shape in self.shapes.items()}

    @property
    def prediction(self) -> str | None:
        """ "epsilon" or "v_prediction" if the file says so."""
        said = self.metadata.get("modelspec.prediction_type", "").removesuffix("_prediction")
        prediction = {"v": "v_prediction", "epsilon": "epsilon"}.get(said)
        return "v_prediction" if "v_pred" in self.shapes else prediction


@dataclass(frozen=True)
class Told:
    """How large what the denoiser is told of a prompt is.

    tokens, width: of the (L, D) vectors, one a token; pooled: of the one a prompt, None without.
    varies: the prompts of a batch may have different numbers of tokens.
    """

    tokens: int
    width: int
    pooled: int | None = None
    varies: bool = False
