"""Every metric of two pictures and three photos by hand, and what no figure may depend on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import save_reward
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from transformers import ViTConfig, ViTModel

from rpo.errors import UserError
from rpo.evaluation.drawn import Drawn
from rpo.evaluation.dreambench import NumberedPrompt, Reference
from rpo.evaluation.judges import AESTHETIC_CLIP, Judges, load_judges, read_head
from rpo.evaluation.metrics import METRICS, Features, aesthetic_score
from rpo.evaluation.scoring import Scorer
from rpo.models import encoders


def rows(*vectors: tuple[float, float, float], lengths: tuple[float, ...] = (2, 5, 3)) -> Any:
    """(N, 3), of other lengths than one, which change nothing."""
    return torch.stack(
        [k * torch.tensor(v, dtype=torch.float64) for k, v in zip(lengths, vectors, strict=False)]
    )


# Two pictures of one prompt, three photos: p is the subject's, q its rival's of the same class, r
# of another class. The subject has all three as photos where likeness is measured.
A, B = (1.0, 0.0, 0.0), (0.6, 0.0, 0.8)
P, Q, R = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.6, 0.8)
EXAMPLE = Features(
    pictures=rows(A, B),
    prompts=torch.tensor([1, 1]),
    photos=rows(P, Q, R),
    texts=rows((0.8, 0.6, 0.0), (0.0, 1.0, 0.0)),
    gallery=rows(P, Q, R),
    own=torch.tensor([True, False, False]),
    peers=torch.tensor([True, True, False]),
    class_tuned=rows(A, B),
    class_base=rows(A, (0.0, 0.0, 1.0)),
    head=((torch.tensor([[1.0, 2.0, 3.0]]).double(), torch.tensor([4.0]).double()),),
    lam=0.5,
)
# The cosines are 1, 0, 0 of A and 3/5, 0, 16/25 of B with p, q, r; 4/5 of A and 0 of B with its
# text; 3/5 of A with B.
MEANS = [1 / 3, 31 / 75]
BY_HAND = {
    "dino": MEANS,
    "clip_i": MEANS,
    "clip_t": [4 / 5, 0],
    # S_I = (1/3 + 1) / 2 = 2/3, S_T = 9/10: 1 / (3/4 + 5/9); 53/75, 1/2: 1 / (75/106 + 1)
    "harmonic": [36 / 47, 106 / 181],
    "identity_rank": [1, 1 / 2],  # B is nearest to r, then to p
    "identity_rank_in_class": [1, 1],
    "diversity": [2 / 5, 2 / 5],
    "class_drift": [0, 1 / 5],
    "aesthetic": [5, 3 / 5 + 12 / 5 + 4],
}


def test_every_metric_has_its_example() -> None:
    assert set(BY_HAND) == set(METRICS)


@pytest.mark.parametrize("name", METRICS)
def test_two_pictures_and_three_photos(name: str) -> None:
    values = METRICS[name].values(EXAMPLE)
    assert values is not None
    assert values.tolist() == pytest.approx(BY_HAND[name], abs=1e-12)


# --- order, batch and cache --------------------------------------------------------------


def save_vit(folder: Path) -> Path:
    """A random ViT of two patches a side, as DINO's checkpoints are."""
    tower = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = ViTConfig(
        **tower, intermediate_size=16, image_size=16, patch_size=8, initializer_range=0.5
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    settings = {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("Messlatten")
    save_reward(root / "clip")
    head = root / "head.safetensors"
    save_file({"weight": torch.arange(8.0)[None], "bias": torch.tensor([3.0])}, head)
    return {"dino": save_vit(root / "dino"), "clip": root / "clip", "head": head}


def load(folders: dict[str, Path]) -> Judges:
    clip = str(folders["clip"])
    return load_judges(str(folders["dino"]), clip, folders["head"], clip, "cpu")


def pictures(count: int, seed: int) -> list[Image.Image]:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (count, 16, 16, 3), generator=generator, dtype=torch.uint8)
    return [Image.fromarray(picture.numpy()) for picture in pixels]


def gallery() -> list[Reference]:
    named = (("rex", "dog"), ("waldi", "dog"), ("cup", "cup"))
    return [Reference(n, c, "live", tuple(pictures(3, k))) for k, (n, c) in enumerate(named)]


def drawn(subject: Reference, order: tuple[int, ...]) -> Drawn:
    """Six pictures of two prompts, and two pairs of the class."""
    prompts = [NumberedPrompt(1 + k // 3, ("a {} in snow", "a red {}")[k // 3], "") for k in order]
    images = pictures(6, 40)
    return Drawn(
        subject,
        tuple(images[k] for k in order),
        tuple(prompts),
        tuple(1 + k % 3 for k in order),
        tuple(pictures(2, 41)),
        tuple(pictures(2, 42)),
    )


def figures(scorer: Scorer, order: tuple[int, ...]) -> dict[tuple[int, int], dict[str, float]]:
    subject = next(s for s in scorer.gallery if s.name == "rex")
    return {(r.prompt, r.number): r.figures for r in scorer.score(drawn(subject, order))}


def test_no_figure_depends_on_order_batch_or_cache(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    subjects = gallery()
    plain = figures(Scorer(load(folders), subjects), (0, 1, 2, 3, 4, 5))
    assert {name for own in plain.values() for name in own} == set(METRICS)
    for size in (1, 4):
        monkeypatch.setattr(encoders, "BATCH_SIZE", size)
        scorer = Scorer(load(folders), subjects[::-1])
        for order in ((5, 2, 0, 3, 1, 4), (0, 1, 2, 3, 4, 5)):  # the second time all is known
            again = figures(scorer, order)
            assert again.keys() == plain.keys()
            for at, own in plain.items():
                assert again[at] == pytest.approx(own, abs=2e-6), (size, order, at)
        assert scorer.score_photos(subjects[0]) == pytest.approx(
            Scorer(load(folders), subjects).score_photos(subjects[0]), abs=2e-6
        )


def test_each_judge_sees_each_picture_once(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    judges, seen = load(folders), []
    assert judges.aesthetic is not None
    assert judges.aesthetic.encoder is judges.clip.encoder  # one model, loaded once
    assert "head" in judges.aesthetic.about
    assert "head" not in judges.clip.about
    for name, encoder in (("dino", judges.dino.encoder), ("clip", judges.clip.encoder)):
        encode = encoder.encode_images

        def counting(images: Any, name: str = name, encode: Any = encode) -> Any:
            seen.extend((name, image.tobytes()) for image in images)
            return encode(images)

        monkeypatch.setattr(encoder, "encode_images", counting)
    scorer = Scorer(judges, gallery())
    for subject in scorer.gallery:
        scorer.score_photos(subject)
    figures(scorer, (0, 1, 2, 3, 4, 5))
    figures(scorer, (5, 4, 3, 2, 1, 0))
    assert len(seen) == len(set(seen))
    assert sum(name == "dino" for name, _ in seen) == 9 + 6
    assert sum(name == "clip" for name, _ in seen) == 9 + 6 + 2 * 2


# --- the aesthetic heads as published ----------------------------------------------------


def test_the_improved_aesthetic_head_is_the_published_module(tmp_path: Path) -> None:
    torch.manual_seed(0)

    class Predictor(nn.Module):
        """As published (christophschuhmann/improved-aesthetic-predictor), names and widths too."""

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                *(nn.Linear(768, 1024), nn.Dropout(0.2), nn.Linear(1024, 128), nn.Dropout(0.2)),
                *(nn.Linear(128, 64), nn.Dropout(0.1), nn.Linear(64, 16), nn.Linear(16, 1)),
            )

    predictor = Predictor().eval()
    save_file(predictor.state_dict(), tmp_path / "head.safetensors")
    features = 10 * torch.randn(5, 768)
    unit = features / features.norm(dim=-1, keepdim=True)
    with torch.no_grad():
        expected = predictor.layers(unit).squeeze(1)
    head = read_head(tmp_path / "head.safetensors")
    found = aesthetic_score(Features(features, torch.arange(5), features, head=head))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert expected.std() > 1e-4


def test_the_first_aesthetic_head_is_a_linear_layer(tmp_path: Path) -> None:
    torch.manual_seed(1)
    linear = nn.Linear(768, 1)
    save_file(linear.state_dict(), tmp_path / "sa_0_4_vit_l_14_linear.safetensors")
    head = read_head(tmp_path / "sa_0_4_vit_l_14_linear.safetensors")
    features = torch.randn(4, 768)
    unit = features / features.norm(dim=-1, keepdim=True)
    found = aesthetic_score(Features(features, torch.arange(4), features, head=head))
    torch.testing.assert_close(found, linear(unit).squeeze(1).detach(), rtol=1e-4, atol=1e-5)


# --- the published judges, from the hub's cache ------------------------------------------


def cached(cache: Path, hub_id: str, folder: Path) -> None:
    """Puts a model where the hub's client keeps what it has fetched."""
    place = cache / f"models--{hub_id.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("abc")
    (place / "snapshots").mkdir()
    (place / "snapshots" / "abc").symlink_to(folder)


@pytest.mark.parametrize("clip", ["openai/clip-vit-base-patch32", "openai/clip-vit-base-patch16"])
def test_published_judges_are_found_in_the_hubs_cache(
    clip: str, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    ids = {"facebook/dino-vits16": "dino", clip: "clip"}
    for hub_id, name in ids.items():
        cached(tmp_path, hub_id, folders[name])
    head = folders["head"]
    with pytest.raises(
        UserError, match=f"^{AESTHETIC_CLIP}: .*`hf download {AESTHETIC_CLIP} "
    ) as e:
        load_judges(*ids, head, device="cpu")
    assert "\n" not in str(e.value)
    cached(tmp_path, AESTHETIC_CLIP, folders["clip"])
    found = load_judges(*ids, head, device="cpu")
    names = {name: judge.about["name"] for name, judge in found.named()}
    assert names == {"dino": "facebook/dino-vits16", "clip": clip, "aesthetic": AESTHETIC_CLIP}
    drawings, here = pictures(2, 7), load(folders)
    for (_, judge), (_, other) in zip(found.named(), here.named(), strict=True):
        assert torch.equal(judge.encode_images(drawings), other.encode_images(drawings))
