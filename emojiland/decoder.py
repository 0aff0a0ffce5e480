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
SHARPENING = 0.11  # times the Laplacian
SHARPENED = 600  # scenes that say how


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
    sharpen(vae, latents[:: max(1, len(latents) // SHARPENED)], SHARPENING)
    return vae


@torch.no_grad()
def sharpen(vae: AutoencoderKL, latents: np.ndarray, amount: float, batch: int = 50) -> None:
    """Gives the decoder's last convolution the weights that sharpen what it draws, in place.

    y - amount * Laplacian(y) in place of y, as nearly as 3 x 3 weights can, which read the features
    before it: the least squares over all pixels of these (N, 32, 8, 8) latents. It amplifies the
    edges that the decoder is sure of, and costs fewer decibels than edges that it makes up.
    """
    last, seen = vae.decoder.conv_out, []
    hook = last.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    size = last.in_channels * 9 + 1  # and the bias
    squares, wanted = (torch.zeros(size, n, dtype=torch.float64) for n in (size, 3))
    for start in range(0, len(latents), batch):
        z = torch.from_numpy(latents[start : start + batch].astype(np.float32))
        y = vae.decode(z.to(device())).sample
        goal = y - amount * edges(F.pad(y, (1, 1, 1, 1), mode="replicate"))
        read = F.unfold(seen.pop(), 3, padding=1)  # (B, C * 9, H * W)
        read = torch.cat([read, torch.ones_like(read[:, :1])], 1).transpose(0, 1).flatten(1)
        squares += (read @ read.T).double().cpu()
        wanted += (read @ goal.transpose(0, 1).flatten(1).T).double().cpu()
    hook.remove()
    found = torch.linalg.solve(squares + 1e-9 * squares.trace() / size * torch.eye(size), wanted)
    last.weight.copy_(found[:-1].T.reshape(last.weight.shape))
    last.bias.copy_(found[-1])


def save(vae: AutoencoderKL, folder: Path) -> None:
    """Writes it in fp16 safetensors, as `--autoencoder` takes it."""
    vae.to(torch.float16).save_pretrained(folder)
    vae.to(torch.float32)
