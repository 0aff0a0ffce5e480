"""Crisp edges: the decoder once more, on the latents of an encoder that stays as it is.

A squared error asks for the mean of all pictures that a latent may stand for, and the mean of many
edges is a soft one. The edges that the decoder is sure of are amplified here, in its last layer.
The encoder's weights, and with them all latents, stay the same bit by bit.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from emojiland.autoencoder import edges
from emojiland.fit import device

SHARPENING = 0.1145  # times the Laplacian
SCENES = 600  # that say how


@torch.no_grad()
def sharpen(
    vae: AutoencoderKL, latents: np.ndarray, amount: float = SHARPENING, batch: int = 50
) -> None:
    """Gives the decoder's last convolution the weights that sharpen what it draws, in place.

    y - amount * Laplacian(y) in place of y, as nearly as 3 x 3 weights can, which read the features
    before it: the least squares over all pixels of some of these (N, 32, 8, 8) latents.
    """
    latents = latents[:: max(1, len(latents) // SCENES)]
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
