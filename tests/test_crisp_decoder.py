"""Emojiland's second training of the decoder: its terms by hand, and an encoder that stays."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from torch import nn

from emojiland import autoencoder, decoder, fidelity

UNFINISHED = Path(__file__).parent.parent / "emojiland/unfinished/vae"
# SHA-256 of the encoder's weights: the latents that the U-Net learns on are this encoder's.
ENCODER = "42a3dd7e74abcf555039ab7cea92101da39e0d1ca989972f5041b09bac0aa499"


def bytes_of(module: nn.Module) -> dict[str, bytes]:
    return {k: v.detach().numpy().tobytes() for k, v in module.state_dict().items()}


def test_local_edges_by_hand() -> None:
    dot = torch.zeros(1, 3, 10, 10)
    dot[..., 5, 5] = 1.0
    # The Laplacian (8 x 8 within the border) is -4 at the dot and 1 beside it: 20 in the squares,
    # of 16 in a window. Windows begin at 0, 2 and 4; that at 2 and that at 4 hold all of it.
    found = decoder.local_edges(dot)
    assert found.shape == (1, 1, 3, 3)
    assert found[0, 0, 1, 1].item() == pytest.approx((20 / 16 + 1e-4) ** 0.5)
    assert found[0, 0, 0, 0].item() == pytest.approx(1e-2)
    moved = decoder.local_edges(dot.roll(1, -1))  # within the window a shift costs nothing
    assert moved[0, 0, 1, 1] == pytest.approx(found[0, 0, 1, 1].item(), rel=0.1)


def test_sharpening_is_the_least_squares() -> None:
    torch.manual_seed(0)
    vae = autoencoder.new_autoencoder().eval()
    rng = np.random.default_rng(1)
    latents = rng.normal(size=(3, autoencoder.CHANNELS, 8, 8)).astype(np.float16)
    z, last, seen = torch.from_numpy(latents).float(), vae.decoder.conv_out, []
    last.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    with torch.no_grad():
        before = vae.decode(z).sample
        decoder.sharpen(vae, latents, 0.0, batch=2)
        torch.testing.assert_close(vae.decode(z).sample, before, rtol=1e-3, atol=1e-4)
        decoder.sharpen(vae, latents, 0.2, batch=2)
        after = vae.decode(z).sample
        around = torch.nn.functional.pad(before, (1, 1, 1, 1), mode="replicate")
        goal = before - 0.2 * autoencoder.edges(around)
        # another way to the same weights, by one row a pixel
        rows = torch.nn.functional.unfold(seen[-1], 3, padding=1).transpose(1, 2).flatten(0, 1)
        rows = torch.cat([rows, torch.ones(len(rows), 1)], 1).double()
        sought = goal.permute(0, 2, 3, 1).reshape(-1, 3).double()
        best = rows @ torch.linalg.lstsq(rows, sought, driver="gelsd").solution
        reached = after.permute(0, 2, 3, 1).reshape(-1, 3).double()
        torch.testing.assert_close(reached, best, rtol=1e-2, atol=1e-3)
        assert fidelity.edge_energy(after) > 1.2 * fidelity.edge_energy(before)


def test_the_encoder_stays_and_a_resumed_training_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emojiland.fit.learning_rate", lambda step, steps, peak: peak)
    rng = np.random.default_rng(0)
    pool = SimpleNamespace(images=rng.integers(0, 256, (6, 64, 64, 3), np.uint8))

    def fresh() -> AutoencoderKL:
        torch.manual_seed(0)
        return autoencoder.new_autoencoder().eval()

    def train(name: str, steps: int) -> AutoencoderKL:
        (tmp_path / name).mkdir(exist_ok=True)
        return decoder.train(fresh(), pool, latents, tmp_path / name, steps, batch=2)  # type: ignore[arg-type]

    x = autoencoder.to_tensor(pool.images)
    with torch.no_grad():
        mean = fresh().encode(x).latent_dist.mean
    latents = mean.numpy().astype(np.float16)
    whole = train("whole", 3)
    train("parts", 2)
    resumed = train("parts", 3)
    assert bytes_of(resumed.decoder) == bytes_of(whole.decoder) != bytes_of(fresh().decoder)
    assert bytes_of(whole.encoder) == bytes_of(fresh().encoder)
    with torch.no_grad():
        assert torch.equal(whole.encode(x).latent_dist.mean, mean)
    decoder.save(whole, tmp_path / "vae")
    again = autoencoder.load(tmp_path / "vae")
    half = whole.half().float()
    assert bytes_of(again) == bytes_of(half)


def test_the_unfinished_autoencoder_has_the_encoder_of_the_latents() -> None:
    vae = autoencoder.load(UNFINISHED).half()
    digest = hashlib.sha256()
    for name, weight in sorted(bytes_of(vae.encoder).items()):
        digest.update(name.encode() + weight)
    assert digest.hexdigest() == ENCODER
