"""The autoencoder: 64x64 pictures to 8x8 latents of 16 channels and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from emojiland.fit import device, fit
from emojiland.pool import Pool

KL_WEIGHT = 2e-4


def to_tensor(images: np.ndarray) -> Tensor:
    """(N, 64, 64, 3) uint8 -> (N, 3, 64, 64) float32 in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def new_autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=16,
        sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 128),
        layers_per_block=1,
        norm_num_groups=8,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def train(pool: Pool, work: Path, steps: int, batch: int = 16) -> AutoencoderKL:
    torch.manual_seed(1)
    model = new_autoencoder().to(device())

    def loss(rng: np.random.Generator, noise: torch.Generator):
        picks = np.sort(rng.integers(len(pool.images), size=batch))
        x = to_tensor(pool.images[picks]).to(device())
        posterior = model.encode(x).latent_dist
        grain = torch.randn(posterior.mean.shape, generator=noise).to(device())
        y = model.decode(posterior.mean + posterior.std * grain).sample
        squared = (y - x).square().mean()
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        total = squared + 0.1 * (y - x).abs().mean() + KL_WEIGHT * kl
        return total, {"mse": squared.item(), "kl": kl.item()}

    fit("autoencoder", model, loss, work, steps=steps, peak=1.5e-3, seed=1, ema_decay=0.998)
    return model


@torch.inference_mode()
def latents(
    model: AutoencoderKL, pool: Pool, file: Path, batch: int = 256
) -> tuple[np.ndarray, float]:
    """All scenes' latents (N, 16, 8, 8) float16 on disk, and 1 / their standard deviation."""
    if not file.exists():
        fresh = file.with_suffix(".new.npy")
        out = np.lib.format.open_memmap(fresh, "w+", np.float16, (len(pool.images), 16, 8, 8))
        for k in range(0, len(out), batch):
            x = to_tensor(pool.images[k : k + batch]).to(device())
            out[k : k + batch] = model.encode(x).latent_dist.mean.cpu().numpy()
            if k % (40 * batch) == 0:
                print(f"latents {k}/{len(out)}", flush=True)
        out.flush()
        fresh.replace(file)
    data = np.load(file)
    return data, float(1 / np.asarray(data[:8192], np.float32).std())


@torch.inference_mode()
def psnr(model: AutoencoderKL, images: np.ndarray) -> float:
    """Mean over pictures of the peak signal-to-noise ratio in dB."""
    values = []
    for k in range(0, len(images), 64):
        x = to_tensor(images[k : k + 64]).to(device())
        y = model.decode(model.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
        values.append(-10 * torch.log10(((y - x) / 2).square().mean(dim=(1, 2, 3))))
    return float(torch.cat(values).mean())
