"""Keys and values of cross-attention with a new token (Kumari et al. 2023, arXiv 2212.04488).

What the prompt says enters a U-Net through these projections; all other weights stay. Saved in the
form of diffusers' Custom Diffusion: its attention processors' weights, and the token's vectors.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rpo.config import Config
from rpo.errors import UserError
from rpo.exports.token_files import ATTENTION_FILE, key_of, read_attention
from rpo.learners.sharing import sharing_copy
from rpo.learners.token import Token
from rpo.models.backbone import Backbone

_PROJECTION = re.compile(r".*\.attn2\.to_[kv]\.weight")


def projections(denoiser: nn.Module) -> dict[str, nn.Parameter]:
    """The weights of a U-Net's cross-attention that make keys and values of the prompt, by name."""
    found = {name: p for name, p in denoiser.named_parameters() if _PROJECTION.fullmatch(name)}
    biases = {name for name, _ in denoiser.named_parameters() if name.endswith("attn2.to_k.bias")}
    return {} if biases else found  # diffusers' file has no place for biases


def save_attention(weights: dict[str, Tensor], processors: list[str], folder: Path) -> None:
    """Writes `ATTENTION_FILE`. processors: the names of all of the U-Net's.

    diffusers wants a word on each. Of those that did not learn it writes an empty mapping, which is
    an empty tensor in safetensors; it reads that as such, though it does not write it itself.
    """
    tensors = {key_of(name): weight for name, weight in weights.items()}
    for name in processors:
        if not any(key.startswith(f"{name}.") for key in tensors):
            tensors[name] = torch.empty(0)
    save_file(tensors, str(folder / ATTENTION_FILE), {"format": "pt"})


class CrossAttention(Token):
    """A token's vectors, and keys and values of the U-Net's cross-attention, in float32."""

    @classmethod
    def refuse(cls, backbone: Backbone, config: Config) -> None:
        super().refuse(backbone, config)
        if not projections(backbone.denoiser):
            raise UserError(
                "training.weights cross-attention: this model's U-Net has no plain cross-attention "
                "with the prompt; use training.weights lora, with another method"
            )

    def build(self) -> nn.Module:
        self._begin()
        base = self.backbone.denoiser
        copies = {
            id(weight): nn.Parameter(weight.detach().to(torch.float32, copy=True))
            for weight in projections(base).values()
        }
        return sharing_copy(base, copies)

    def load(self, folder: Path) -> nn.Module:
        """The base denoiser with the projections in `folder` in place of its own."""
        self._read(folder)
        base, device = self.backbone.denoiser, self.backbone.device
        own = projections(base)
        copies = {
            id(own[name]): nn.Parameter(weight.to(device, torch.float32), requires_grad=False)
            for name, weight in read_attention(folder).items()
        }
        return sharing_copy(base, copies)

    def snapshot(self) -> Callable[[Path], None]:
        save_vectors = super().snapshot()
        weights = {
            name: weight.detach().to("cpu", copy=True).contiguous()
            for name, weight in projections(self.denoiser).items()
        }
        names = [*self.denoiser.attn_processors]

        def save(folder: Path) -> None:
            save_vectors(folder)
            save_attention(weights, names, folder)

        return save
