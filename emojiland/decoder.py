"""The decoder's second training: crisp edges, on the latents of an encoder that stays as it is.

A squared error asks for the mean of all pictures that a latent may stand for, and the mean of many
edges is a soft one. Here the decoder learns on beside a term that knows a soft edge from a crisp
one and does not ask where exactly it lies: how much edge there is in each small window. The
encoder's weights, and with them all latents, stay the same bit by bit.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from emojiland.autoencoder import EDGE_WEIGHT, edges, to_tensor
from emojiland.fit import device, fit
from emojiland.pool import Pool

ENERGY_WEIGHT = 0.04
NOISE = 0.15  # a drawn latent is not quite an encoded one; the encoder's own deviation is 0.14
NOISED = 0.5  # share of latents that get some


def local_edges(images: Tensor, window: int = 4) -> Tensor:
    """(N, 3, H, W) -> (N, 1, h, w): the Laplacian's root mean square over colours and a window.

    Windows overlap by half. A hundredth is added in squares, where the root has no gradient at 0.
    """
    squares = F.avg_pool2d(edges(images).square().mean(1, keepdim=True), window, window // 2)
    return (squares + 1e-4).sqrt()


def train(
    vae: AutoencoderKL, pool: Pool, latents: np.ndarray, work: Path, steps: int, batch: int = 16
) -> AutoencoderKL:
    """Teaches `vae.decoder` in place; latents: those of `pool` by `vae.encoder`, unscaled."""
    vae.requires_grad_(False)
    vae.decoder.requires_grad_(True)

    def loss(rng: np.random.Generator, noise: torch.Generator):
        picks = np.sort(rng.integers(len(latents), size=batch))
        x = to_tensor(pool.images[picks]).to(device())
        z = torch.from_numpy(latents[picks].astype(np.float32))
        deviation = NOISE * torch.rand(batch, 1, 1, 1, generator=noise)
        deviation *= torch.rand(batch, 1, 1, 1, generator=noise) < NOISED
        z = z + deviation * torch.randn(z.shape, generator=noise)
        y = vae.decode(z.to(device())).sample
        squared = (y - x).square().mean()
        edge = (edges(y) - edges(x)).abs().mean() / 4
        energy = (local_edges(y) - local_edges(x)).abs().mean()
        total = squared + 0.1 * (y - x).abs().mean() + EDGE_WEIGHT * edge + ENERGY_WEIGHT * energy
        return total, {"mse": squared.item(), "edge": edge.item(), "energy": energy.item()}

    fit("decoder", vae.decoder, loss, work, steps=steps, peak=5e-4, seed=4, ema_decay=0.998)
    return vae


def save(vae: AutoencoderKL, folder: Path) -> None:
    """Writes it in fp16 safetensors, as `--autoencoder` takes it."""
    vae.to(torch.float16).save_pretrained(folder)
    vae.to(torch.float32)
