"""`online.decoder`: a tiny autoencoder in place of the model's own, for the gradient alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderTiny
from jobs import World, break_off, make_world, results
from tiny import LATENT_SHAPE, RESOLUTION, tiny_backbone
from torch import Tensor

import rpo
from rpo.cli import commands as cli
from rpo.errors import UserError
from rpo.events import StepDone
from rpo.models.backbone import Backbone
from rpo.models.tiny_decoder import TinyDecoder, load_tiny_decoder, refuse_unlike


def tiny_autoencoder(**more: Any) -> AutoencoderTiny:
    """Of 4 x 8 x 8 latents and 16 x 16 pictures, with seeded random weights."""
    shape: dict[str, Any] = {
        "encoder_block_out_channels": (16, 16),
        "decoder_block_out_channels": (16, 16),
        "num_encoder_blocks": (1, 1),
        "num_decoder_blocks": (1, 1),
        "latent_channels": LATENT_SHAPE[0],
    }
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return AutoencoderTiny(**{**shape, **more}).eval()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("tiny"), "v_prediction")


@pytest.fixture(scope="module")
def stranger(world: World) -> Path:
    """Random weights: draws nothing of what the model's own decoder does."""
    tiny_autoencoder().save_pretrained(folder := world.root / "stranger")
    return folder


@pytest.fixture(scope="module")
def distilled(world: World) -> Path:
    """Taught for a moment to draw the photos' latents as the model's own decoder does."""
    backbone = Backbone.load(world.model, device="cpu", resolution=RESOLUTION)
    subject = rpo.Subject.from_folder(world.photos, noun="dog")
    latents = backbone.encode_images(subject.tensor(RESOLUTION))
    wanted, learning = backbone.decode(latents) * 2 - 1, tiny_autoencoder()
    optimizer = torch.optim.Adam(learning.decoder.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        (learning.decoder(latents) - wanted).square().mean().backward()
        optimizer.step()
    learning.save_pretrained(folder := world.root / "distilled decoder")
    return folder


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("scaled", [{}, {"scaling_factor": 0.5, "shift_factor": 0.1}])
def test_pictures_and_their_gradient(
    recompute: bool, scaled: dict[str, float], tmp_path: Path
) -> None:
    backbone, own = tiny_backbone(), tiny_autoencoder(**scaled)
    own.save_pretrained(tmp_path / "tiny")
    tiny = load_tiny_decoder(tmp_path / "tiny", backbone)
    latents = normal(2, *LATENT_SHAPE)
    pictures = backbone.decode_with_gradient(latents, recompute, tiny)
    # As a pipeline of diffusers with this autoencoder would draw: its own scale, then to [0, 1].
    given = latents / own.config.scaling_factor + own.config.shift_factor
    expected = (own.decode(given).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(pictures, expected)
    assert pictures.shape == (2, 3, RESOLUTION, RESOLUTION)
    if not scaled:  # the denoiser's scale is its own: the latents go in as they are
        torch.testing.assert_close(pictures, own.decoder(latents).div(2).add(0.5).clamp(0, 1))

    tiny.double()
    with torch.no_grad():  # into the range, where clamping has a gradient
        tiny.decoder.layers[-1].weight *= 0.3
    latents = latents.double().requires_grad_(True)
    towards = normal(2, 3, RESOLUTION, RESOLUTION, seed=1)

    def value(z: Tensor) -> Tensor:
        # not by decode_with_gradient, whose pictures are float32
        return (tiny(z).mul(0.5).add(0.5).clamp(0, 1) * towards).sum()

    (backbone.decode_with_gradient(latents, recompute, tiny) * towards).sum().backward()
    assert latents.grad is not None
    for seed in (5, 6):
        way = normal(*latents.shape, seed=seed).double()
        with torch.no_grad():
            slope = (value(latents + 1e-6 * way) - value(latents - 1e-6 * way)) / 2e-6
        assert (latents.grad * way).sum().item() == pytest.approx(slope.item(), rel=2e-3)
    assert all(p.grad is None for p in tiny.parameters())


def test_likeness_is_the_explained_variance() -> None:
    backbone = tiny_backbone("v_prediction")
    latents = normal(3, *LATENT_SHAPE)

    class Like(TinyDecoder):
        """Draws what the model does, and something else beside it."""

        def __init__(self, share: float) -> None:
            super().__init__(tiny_autoencoder())
            self.share = share

        def forward(self, given: Tensor) -> Tensor:
            own = backbone.decode(given)
            # of the picture's deviations a share is lost: the error is share^2 of the variance
            return (own + self.share * (mean - own)) * 2 - 1

    mean = backbone.decode(latents).mean()
    refuse_unlike(Like(0.0), backbone, latents, "here")
    refuse_unlike(Like(0.7), backbone, latents, "here")  # 1 - .49
    with pytest.raises(UserError, match=r"online.decoder here: .*likeness 0.44, at least 0.5"):
        refuse_unlike(Like(0.75), backbone, latents, "here")  # 1 - .5625


@pytest.fixture(scope="module")
def refusals(world: World, stranger: Path) -> dict[str, tuple[Path | str, str]]:
    root = world.root
    tiny_autoencoder(latent_channels=16).save_pretrained(root / "of 16")
    tiny_autoencoder(
        decoder_block_out_channels=(16,) * 3, num_decoder_blocks=(1, 1, 1)
    ).save_pretrained(root / "larger")
    pickled = root / "pickled"
    tiny_autoencoder().save_pretrained(pickled, safe_serialization=False)
    lacking = root / "lacking"
    tiny_autoencoder(num_decoder_blocks=(1, 1)).save_pretrained(lacking)
    config = json.loads((lacking / "config.json").read_text())
    config["num_decoder_blocks"] = [1, 2]
    (lacking / "config.json").write_text(json.dumps(config))
    return {
        "nowhere": (root / "nowhere", "nowhere: no such model folder"),
        "not cached": ("madebyollin/taesd-not-here", "hf download madebyollin/taesd-not-here"),
        "a pipeline": (world.model, "no config.json in it"),
        "channels": (root / "of 16", "16 pixels from 16 channels, .* of 16 from 4"),
        "size": (root / "larger", "32 pixels from 4 channels, .* of 16 from 4"),
        "pickled": (pickled, "no .safetensors weights in it"),
        "lacking": (lacking, "no tiny autoencoder that can be read .*; name the folder"),
        "an encoder": (world.reward, "no tiny autoencoder that can be read .*; name the folder"),
        "another family's": (stranger, "it is another family's"),
    }


def test_what_cannot_decode_is_refused_before_anything_is_written(
    refusals: dict[str, tuple[Path | str, str]],
    world: World,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    for case, (name, message) in refusals.items():
        flags = [*world.flags(**{"online.decoder": name}), "--method", "online", "--out", str(out)]
        assert cli.run(["train", str(world.photos), *flags, "--quiet"]) == 2, case
        error = capsys.readouterr().err
        assert len(error.strip().splitlines()) == 1, case
        assert re.search(message, error), (case, error)
        assert not out.exists(), case


def test_a_job_with_a_tiny_decoder(
    world: World, distilled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It changes what is learned, resumes to the same result from elsewhere, and is watched."""

    subject = rpo.Subject.from_folder(world.photos, noun="dog")
    monkeypatch.chdir(world.root)
    more = {"method": "online", "online.start": 1, "online.steps": 2, "online.every": 1}
    tiny = {**more, "online.decoder": distilled.name}

    def train(out: Path, **more: Any) -> rpo.Run:
        return rpo.train(subject, str(world.model), out=out, settings=world.settings(**more))

    own, whole = train(tmp_path / "own", **more), train(tmp_path / "a", **tiny)
    state = "last/trainer.safetensors"
    assert results(own.path)[state] != results(whole.path)[state]

    break_off(world, tmp_path / "b", StepDone, 2, **tiny)
    monkeypatch.chdir(tmp_path)  # the folder was named relative to the other place
    resumed = rpo.train(subject, out=tmp_path / "b", resume=True)
    assert results(resumed.path) == results(whole.path)

    roles = json.loads((whole.path / "environment.json").read_text())["models"]
    assert roles["decoder"]["name"] == str(distilled)
    config = distilled / "config.json"
    before = config.read_text()
    config.write_text(before + " ")
    try:
        with pytest.raises(UserError, match="is not the file that"):
            rpo.train(subject, out=tmp_path / "b", resume=True, settings=["training.steps=6"])
    finally:
        config.write_text(before)
