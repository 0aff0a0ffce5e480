"""The autoencoder: 64x64 pictures to 8x8 latents of 32 channels and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from emojiland.fit import device, fit
from emojiland.growing import grow
from emojiland.pool import Pool

CHANNELS = 32  # of a latent: 32 principal components of 8x8 patches keep 28.5 dB, 16 keep 25.2
KL_WEIGHT = 2e-4
EDGE_WEIGHT = 0.1


def to_tensor(images: np.ndarray) -> Tensor:
    """(N, 64, 64, 3) uint8 -> (N, 3, 64, 64) float32 in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def new_autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=CHANNELS,
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


def edges(images: Tensor) -> Tensor:
    """(N, 3, H, W) -> (N, 3, H - 2, W - 2): the Laplacian, which is large along edges only."""
    middle = images[..., 1:-1, 1:-1]
    across = images[..., 1:-1, :-2] + images[..., 1:-1, 2:]
    return across + images[..., :-2, 1:-1] + images[..., 2:, 1:-1] - 4 * middle


def train(
    pool: Pool, work: Path, steps: int, start: AutoencoderKL | None = None, batch: int = 16
) -> AutoencoderKL:
    """start: an autoencoder of as many or fewer channels, whose weights it begins from."""
    torch.manual_seed(1)
    model = new_autoencoder()
    if start is not None:
        grow_autoencoder(model, start)
    model = model.to(device())

    def loss(rng: np.random.Generator, noise: torch.Generator):
        picks = np.sort(rng.integers(len(pool.images), size=batch))
        x = to_tensor(pool.images[picks]).to(device())
        posterior = model.encode(x).latent_dist
        grain = torch.randn(posterior.mean.shape, generator=noise).to(device())
        y = model.decode(posterior.mean + posterior.std * grain).sample
        squared = (y - x).square().mean()
        kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
        edge = (edges(y) - edges(x)).abs().mean() / 4  # a squared error alone leaves them soft
        total = squared + 0.1 * (y - x).abs().mean() + EDGE_WEIGHT * edge + KL_WEIGHT * kl
        return total, {"mse": squared.item(), "edge": edge.item(), "kl": kl.item()}

    fit("autoencoder", model, loss, work, steps=steps, peak=1e-3, seed=1, ema_decay=0.998)
    return model


def load(folder: Path) -> AutoencoderKL:
    """A finished one, in float32."""
    model = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32)
    return model.to(device()).eval()


def grow_autoencoder(model: AutoencoderKL, start: AutoencoderKL) -> None:
    """`grow`, where the encoder's last layer says the means first and then the log variances."""
    grow(model, start)
    with torch.no_grad():
        for wide, narrow in zip(
            model.encoder.conv_out.parameters(), start.encoder.conv_out.parameters(), strict=True
        ):
            means, variances = narrow.chunk(2)
            more = len(wide) // 2 - len(means)
            fresh = torch.randn(more, *wide.shape[1:]) * narrow.std()
            vague = variances.mean(0, keepdim=True).expand(more, *wide.shape[1:])
            wide.copy_(torch.cat([means, fresh, variances, vague]))


@torch.inference_mode()
def latents(
    model: AutoencoderKL, pool: Pool, file: Path, batch: int = 256
) -> tuple[np.ndarray, float]:
    """All scenes' latents (N, 32, 8, 8) float16 on disk, and 1 / their standard deviation."""
    if not file.exists():
        fresh = file.with_suffix(".new.npy")
        shape = (len(pool.images), CHANNELS, 8, 8)
        out = np.lib.format.open_memmap(fresh, "w+", np.float16, shape)
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
