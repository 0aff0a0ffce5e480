"""Decoding by a tiny autoencoder, such as TAESD, where only the pictures' gradient is wanted.

The decoder of a large model is what a gradient through it costs most of: hundreds of millions of
kept activations. A tiny one was distilled to draw nearly the same of the same latents
(https://github.com/madebyollin/taesd). It is a model family's: the shapes of Stable Diffusion 1's
and XL's are the same, so what it draws of the photos tells whether it is the right one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny
from safetensors import SafetensorError
from torch import Tensor, nn

from rpo.errors import UserError
from rpo.models.backbone import Backbone
from rpo.models.resolve import resolve_model
from rpo.quiet import quiet

LIKENESS = 0.5  # of the variance of what the model's own decoder draws; a distilled one: above 0.9


class TinyDecoder(nn.Module):
    """(N, C, h, w) latents at the denoiser's scale -> (N, 3, H, W) pictures, about [-1, 1].

    Unlike a full autoencoder, these read the denoiser's own scale; a configuration that says
    otherwise is followed as diffusers' pipelines do: latents / scaling_factor + shift_factor.
    """

    def __init__(self, autoencoder: Any) -> None:
        """autoencoder: an AutoencoderTiny of diffusers."""
        super().__init__()
        self.decoder = autoencoder.decoder
        self.spread = 1 / autoencoder.config.scaling_factor
        self.centre = autoencoder.config.shift_factor

    @property
    def dtype(self) -> torch.dtype:
        return next(self.decoder.parameters()).dtype

    def forward(self, latents: Tensor) -> Tensor:
        return self.decoder(latents * self.spread + self.centre)


def load_tiny_decoder(name: str | Path, backbone: Backbone) -> TinyDecoder:
    """From a folder or the hub's local cache, frozen, where and as the backbone computes.

    Raises UserError unless it is an AutoencoderTiny, whole, for latents of the backbone's shape.
    """
    folder = resolve_model(name, "decoder")
    try:
        with quiet():
            found, report = AutoencoderTiny.from_pretrained(
                str(folder),
                use_safetensors=True,
                local_files_only=True,
                low_cpu_mem_usage=False,
                output_loading_info=True,
            )
    except (OSError, ValueError, TypeError, RuntimeError, LookupError, SafetensorError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise UserError(f"online.decoder {folder}: {_NONE} ({reason}); {_REMEDY}") from error
    if missing := sorted(report["missing_keys"]):
        raise UserError(f"online.decoder {folder}: {_NONE} (no {missing[0]}); {_REMEDY}")
    channels, side = found.config.latent_channels, backbone.latent_shape[1]
    drawn = side * _enlargement(found.config)
    if channels != backbone.latent_shape[0] or drawn != backbone.resolution:
        raise UserError(
            f"online.decoder {folder}: makes pictures of {drawn} pixels from {channels} channels, "
            f"and this model's are of {backbone.resolution} from {backbone.latent_shape[0]}; "
            "use the tiny autoencoder of the model's family, or online.decoder=own"
        )
    dtype = backbone.vae.dtype
    return TinyDecoder(found).to(backbone.device, dtype).eval().requires_grad_(False)


_NONE = "no tiny autoencoder that can be read"
_REMEDY = "name the folder of an AutoencoderTiny with safetensors, or online.decoder=own"


def _enlargement(config: Any) -> int:
    """Pixels per latent cell along a side: it enlarges between its blocks."""
    return config.upsampling_scaling_factor ** (len(config.num_decoder_blocks) - 1)


@torch.no_grad()
def refuse_unlike(tiny: TinyDecoder, backbone: Backbone, latents: Tensor, name: str) -> None:
    """Raises UserError where it draws something else of the latents than the model's own decoder.

    latents: (N, C, h, w) at the denoiser's scale, of real pictures. Measured is the share of the
    variance of the model's own pictures that the tiny one's explain, 1 - MSE / variance.
    """
    own = backbone.decode(latents, batch_size=1)
    drawn = torch.cat([backbone.decode_with_gradient(z, tiny=tiny) for z in latents.split(1)])
    likeness = 1 - ((drawn - own).square().mean() / own.var()).item()
    if not likeness >= LIKENESS:
        raise UserError(
            f"online.decoder {name}: draws other pictures of the photos' latents than the model's "
            f"own decoder (likeness {likeness:.2f}, at least {LIKENESS} is needed); it is another "
            "family's: use this model's, or online.decoder=own"
        )
