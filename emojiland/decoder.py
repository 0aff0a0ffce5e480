"""The decoder's second training: crisp edges, on the latents of an encoder that stays as it is.

A squared error asks for the mean of all pictures that a latent may stand for, and the mean of many
edges is a soft one. Here the decoder learns on beside two terms that know a soft edge from a crisp
one: how much edge there is in each small window, and a critic of patches (PatchGAN, arXiv
1611.07004, with the hinge loss, as in latent diffusion's autoencoders, arXiv 2112.10752). The
encoder's weights, and with them all latents, stay the same bit by bit.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.func import functional_call

from emojiland.autoencoder import EDGE_WEIGHT, edges, to_tensor
from emojiland.fit import device, fit
from emojiland.pool import Pool

ENERGY_WEIGHT = 0.02
CRITIC_WEIGHT = 0.003
NOISE = 0.15  # a drawn latent is not quite an encoded one; the encoder's own deviation is 0.14
NOISED = 0.5  # share of latents that get some


def new_critic(width: int = 32) -> nn.Module:
    """(N, 3, 64, 64) -> (N, 1, 16, 16): how real each patch looks, of 26 pixels a side."""
    return nn.Sequential(
        nn.Conv2d(3, width, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 4, 2, 1),
        nn.GroupNorm(8, 2 * width),
        nn.LeakyReLU(0.2),
        nn.Conv2d(2 * width, 2 * width, 3, 1, 1),
        nn.GroupNorm(8, 2 * width),
        nn.LeakyReLU(0.2),
        nn.Conv2d(2 * width, 1, 3, 1, 1),
    )


def edge_energy(images: Tensor, window: int = 4) -> Tensor:
    """(N, 3, H, W) -> (N, 1, h, w): the Laplacian's root mean square over colours and a window."""
    squares = F.avg_pool2d(edges(images).square().mean(1, keepdim=True), window, window // 2)
    return (squares + 1e-4).sqrt()


def hinge(real: Tensor, drawn: Tensor) -> Tensor:
    """The critic's loss on what it says of real and of decoded patches, any shapes."""
    return (1 - real).relu().mean() + (1 + drawn).relu().mean()


def train(
    vae: AutoencoderKL, pool: Pool, latents: np.ndarray, work: Path, steps: int, batch: int = 16
) -> AutoencoderKL:
    """Teaches `vae.decoder` in place; latents: those of `pool` by `vae.encoder`, unscaled."""
    torch.manual_seed(4)
    critic = new_critic().to(device())
    vae.requires_grad_(False)
    both = nn.ModuleDict({"decoder": vae.decoder.requires_grad_(True), "critic": critic})

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
        energy = (edge_energy(y) - edge_energy(x)).abs().mean()
        # One step for both: the decoder's pull leaves the critic alone, and the other way round.
        still = {name: weight.detach() for name, weight in critic.named_parameters()}
        wish = -functional_call(critic, still, y).mean()
        blame = hinge(critic(x), critic(y.detach()))
        total = squared + 0.1 * (y - x).abs().mean() + EDGE_WEIGHT * edge
        total = total + ENERGY_WEIGHT * energy + CRITIC_WEIGHT * wish
        return total + blame, {
            "mse": squared.item(),
            "edge": edge.item(),
            "energy": energy.item(),
            "wish": wish.item(),
            "blame": blame.item(),
        }

    fit("decoder", both, loss, work, steps=steps, peak=1e-3, seed=4, ema_decay=0.998)
    return vae
