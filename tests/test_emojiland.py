"""The embedded world: what ships is whole and loads like any model; its makers do what they say."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from emojiland import autoencoder, encoders, evaluate
from emojiland.art import CLASS_ICONS
from emojiland.fit import fit, learning_rate
from emojiland.scenes import Look
from emojiland.words import IDENTIFIER, make_tokenizer
from rpo.config import read_toml
from rpo.data.prompts import load_prompt_set
from rpo.models.backbone import Backbone
from rpo.models.encoders import load_encoder

ASSETS = Path(__file__).parent.parent / "src/rpo/assets/emojiland"
KINDS = ("live", "object")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.load(ASSETS / "pipeline", device="cpu")


# --- what ships ----------------------------------------------------------------------------


def test_weights_are_small_and_safetensors() -> None:
    sizes = {f: f.stat().st_size for f in ASSETS.rglob("*.safetensors")}
    assert len(sizes) >= 7  # U-Net in shards, autoencoder, text encoder, three encoders
    assert sum(sizes.values()) <= 40e6
    assert max(f.stat().st_size for f in ASSETS.rglob("*") if f.is_file()) <= 15e6
    assert not [f for f in ASSETS.rglob("*") if f.suffix in (".bin", ".pt", ".ckpt", ".pkl")]


def test_thirty_subjects_as_in_dreambench() -> None:
    table = read_toml(ASSETS / "subjects.toml")
    assert Counter(entry["kind"] for entry in table.values()) == {"live": 9, "object": 21}
    assert {entry["noun"] for entry in table.values()} == set(CLASS_ICONS)
    assert len(CLASS_ICONS) == 15
    for name in table:
        assert 4 <= len(list((ASSETS / "subjects" / name).glob("*.png"))) <= 6


def test_every_word_of_every_prompt_is_known(backbone: Backbone) -> None:
    prompts = load_prompt_set("emojiland")
    for split in ("training", "validation", "test"):
        for kind in KINDS:
            for prompt in prompts.prompts(split, kind, "stuffed animal", IDENTIFIER):
                pieces = backbone.tokenizer.tokenize(prompt.conditioning)
                assert len(pieces) == len(prompt.conditioning.split())
    assert backbone.tokenizer.tokenize(IDENTIFIER) == [IDENTIFIER]


def test_the_models_agree_on_the_shape_of_their_world(backbone: Backbone) -> None:
    assert backbone.resolution == 64
    assert backbone.latent_shape == (16, 8, 8)
    assert backbone.prediction_type == "v_prediction"
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for kind, texts in (("reward", True), ("judge-clip", True), ("judge-dino", False)):
        encoder = load_encoder(ASSETS / kind)
        assert encoder.has_text == texts
        assert torch.allclose(encoder.encode_images(pictures).norm(dim=-1), torch.ones(2))


def test_results_file_says_what_ships() -> None:
    results = json.loads((ASSETS / "results.json").read_text(encoding="utf-8"))
    weights = sum(f.stat().st_size for f in ASSETS.rglob("*.safetensors")) / 1e6
    assert results["weights_mb"] == pytest.approx(weights, abs=0.05)
    for key in ("base_model_of_16", "real_scenes_of_16_by_judge", "subjects_1nn_by_dino"):
        assert 0 < results[key] <= 1


# --- how it is made ------------------------------------------------------------------------


def test_captions_are_the_prompts_words() -> None:
    spoken = {Look(context="moon").caption("dog"), Look(tint="red").caption("dog")}
    assert spoken == {"a dog on the Moon", "a red dog"}
    both = Look(context="moon", outfit="santa hat", tint="red", style=True).caption("cat")
    assert both == ("a red cat wearing a santa hat on the Moon in Vincent Van Gogh rendition")


def test_tokenizer_keeps_words_whole_and_survives_strangers(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(tmp_path)
    assert tokenizer.tokenize("a [V] teapot") == ["a</w>", "[V]", "teapot</w>"]
    assert len(tokenizer.tokenize("zebra")) > 1
    assert tokenizer.unk_token_id not in tokenizer("a zebra!").input_ids[1:-1]


def test_learning_rate_warms_up_stays_and_falls() -> None:
    rates = [learning_rate(s, 3000, 1.0, warmup=100) for s in (0, 49, 99, 1999, 2500, 3000)]
    # by hand: 1/100, 50/100, full; full until two thirds; half way down the cosine; its end
    assert rates == pytest.approx([0.01, 0.5, 1.0, 1.0, 0.01 + 0.99 * 0.5, 0.01])


def _regression(work: Path, steps: int) -> nn.Linear:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)

    def loss(rng: np.random.Generator, noise: torch.Generator):
        x = torch.from_numpy(rng.normal(size=(8, 3)).astype(np.float32))
        x = x + 0.1 * torch.randn(x.shape, generator=noise)
        value = (model(x) - x.sum(1, keepdim=True)).square().mean()
        return value, {"loss": value.item()}

    fit("line", model, loss, work, steps=steps, peak=1e-2, seed=4, ema_decay=0.9)
    return model


def test_a_resumed_training_equals_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emojiland.fit.learning_rate", lambda step, steps, peak: peak)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = _regression(tmp_path / "a", 60)
    _regression(tmp_path / "b", 25)
    resumed = _regression(tmp_path / "b", 60)
    assert torch.equal(whole.weight, resumed.weight)
    assert torch.equal(whole.bias, resumed.bias)


def test_instance_loss_by_hand() -> None:
    # Two individuals, two scenes each: their own at cosine 1, the others at 0, temperature 0.1:
    # each row has one positive at logit 10 and two negatives at 0.
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    loss = encoders.instance_loss(features, np.array([5, 5, 9, 9]))
    expected = -np.log(np.exp(10) / (np.exp(10) + 2))
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_caption_loss_lets_equal_captions_share() -> None:
    # Equal captions have equal features: perfect sharing leaves the entropy of the shared targets.
    texts = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    loss = encoders.caption_loss(texts, texts, torch.tensor(100.0), ["a", "a", "b"])
    assert loss.item() == pytest.approx(2 / 3 * np.log(2), abs=1e-5)


class _Reader:
    """A judge whose "picture" of caption k is the k-th axis."""

    def __init__(self, words: list[str]) -> None:
        self.words = words

    def encode_texts(self, texts: list[str]) -> torch.Tensor:
        return torch.stack([torch.eye(len(self.words))[self.words.index(t)] for t in texts])


def test_retrieval_and_choice_count_what_they_say() -> None:
    words = [f"w{k}" for k in range(20)]
    judge = _Reader(words)
    right = torch.eye(20)
    assert evaluate.retrieval(right, words, judge) == 1.0  # type: ignore[arg-type]
    wrong = torch.eye(20)[torch.roll(torch.arange(20), 1)]
    assert evaluate.retrieval(wrong, words, judge, among=20) == 0.0  # type: ignore[arg-type]
    half = [["w0", "w1"], ["w0", "w1"]]
    assert evaluate.choice(right[[0, 0]], [0, 1], half, judge) == 0.5  # type: ignore[arg-type]


def test_psnr_of_a_known_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Off:
        """Reconstructs everything darker by a tenth of the range."""

        def encode(self, x):
            mode = type("D", (), {"mode": staticmethod(lambda: x)})
            return type("E", (), {"latent_dist": mode})

        def decode(self, z):
            return type("S", (), {"sample": z - 0.2})

    images = np.full((3, 64, 64, 3), 200, np.uint8)
    assert autoencoder.psnr(Off(), images) == pytest.approx(20.0, abs=1e-4)  # -10 log10(0.01)


def test_a_grown_model_answers_as_the_narrow_one() -> None:
    """Nothing reads the new channels yet, and in the old ones it says the same."""
    from emojiland import autoencoder, diffusion
    from emojiland.growing import grow

    world = Backbone.load("emojiland", device="cpu")
    narrow, wide = world.vae, autoencoder.new_autoencoder()
    autoencoder.grow_autoencoder(wide, narrow)
    old = narrow.config.latent_channels
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        few, many = (vae.encode(pictures).latent_dist.mean for vae in (narrow, wide.eval()))
        assert many.shape[1] == autoencoder.CHANNELS > old
        torch.testing.assert_close(many[:, :old], few)
        torch.testing.assert_close(wide.decode(many).sample, narrow.decode(few).sample)
        unet, times = diffusion.new_unet().eval(), torch.tensor([10, 700])
        grow(unet, world.denoiser)
        told = world.encode_prompts(["a dog", "a cat"]).tokens
        torch.testing.assert_close(
            unet(many, times, told).sample[:, :old], world.denoiser(few, times, told).sample
        )
    with pytest.raises(ValueError, match="other layers"):
        grow(unet, narrow)
