"""Emojiland's decoder, sharpened: by another way of computing, and an encoder that stays."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import nn

from emojiland import autoencoder, decoder, fidelity

UNFINISHED = Path(__file__).parent.parent / "emojiland/unfinished/vae"
# SHA-256 of the encoder's weights: the latents that the U-Net learns on are this encoder's.
ENCODER = "42a3dd7e74abcf555039ab7cea92101da39e0d1ca989972f5041b09bac0aa499"


def bytes_of(module: nn.Module) -> dict[str, bytes]:
    return {k: v.detach().numpy().tobytes() for k, v in module.state_dict().items()}


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


def test_the_encoder_and_its_latents_stay(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae = autoencoder.new_autoencoder().half().float().eval()
    before, soft = bytes_of(vae.encoder), bytes_of(vae.decoder)
    latents = np.random.default_rng(1).normal(size=(2, autoencoder.CHANNELS, 8, 8))
    decoder.sharpen(vae, latents)
    assert bytes_of(vae.encoder) == before
    changed = {name for name, data in bytes_of(vae.decoder).items() if data != soft[name]}
    assert changed == {"conv_out.weight", "conv_out.bias"}
    decoder.save(vae, tmp_path / "vae")
    assert bytes_of(autoencoder.load(tmp_path / "vae").encoder) == before


def test_the_unfinished_autoencoder_has_the_encoder_of_the_latents() -> None:
    vae = autoencoder.load(UNFINISHED).half()
    digest = hashlib.sha256()
    for name, weight in sorted(bytes_of(vae.encoder).items()):
        digest.update(name.encode() + weight)
    assert digest.hexdigest() == ENCODER
