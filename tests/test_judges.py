"""The judges of an evaluation: their features, names and heads."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from judging import pictures
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, ViTModel

from rpo.errors import UserError
from rpo.evaluation.judges import Judge, Judges, load_judges, read_head


def test_features_are_transformers_own(models: tuple[Path, Path], judges: Judges) -> None:
    dino, clip = models
    drawn, texts = pictures(3, size=(20, 14)), ["a red dog", "a dog in snow"]
    vit = ViTModel.from_pretrained(dino, add_pooling_layer=False).eval()
    pixels = AutoImageProcessor.from_pretrained(dino, backend="pil")(drawn, return_tensors="pt")
    both = CLIPModel.from_pretrained(clip).eval()
    seen = AutoImageProcessor.from_pretrained(clip, backend="pil")(drawn, return_tensors="pt")
    tokens = AutoTokenizer.from_pretrained(clip)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        class_tokens = vit(**pixels).last_hidden_state[:, 0]
        joint = both(**tokens, **seen)  # which normalises the features itself
    expected = class_tokens / class_tokens.norm(dim=1, keepdim=True)
    torch.testing.assert_close(judges.dino.encode_images(drawn), expected)
    torch.testing.assert_close(judges.clip.encode_images(drawn), joint.image_embeds)
    torch.testing.assert_close(judges.clip.encode_texts(texts), joint.text_embeds)
    assert expected.std(dim=0).mean() > 0.01  # the pictures are told apart


def test_each_picture_is_encoded_once_and_copies_are_known_by_content(judges: Judges) -> None:
    encoder, batches = judges.dino.encoder, []

    class Counting:
        def encode_images(self, images: Sequence[Image.Image]) -> torch.Tensor:
            batches.append(len(images))
            return encoder.encode_images(images)

    judge = Judge(Counting(), {})  # type: ignore[arg-type]
    first, second, third = pictures(3)
    together = judge.encode_images([first, second, first.copy()])
    assert batches == [2]
    assert torch.equal(together[0], together[2])
    again = judge.encode_images([third, second.copy(), first])
    assert batches == [2, 1]
    assert torch.equal(again[1:], together[[1, 0]])
    # neither the batch nor the cache decides what a picture's features are
    torch.testing.assert_close(again, encoder.encode_images([third, second, first]))


def test_judges_tell_their_names_hashes_and_preprocessing(judges: Judges) -> None:
    about = judges.clip.about
    assert about["name"].endswith("/clip")
    assert len(about["sha256"]["model.safetensors"]) == 64
    assert about["preprocessing"]["size"] == {"height": 16, "width": 16}
    assert about["preprocessing"]["do_center_crop"] is False
    json.dumps(about)


def test_judges_that_do_not_fit_are_refused(
    models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    dino, clip = map(str, models)
    with pytest.raises(UserError, match=r"--clip .*no text tower"):
        load_judges(dino, dino, device="cpu")
    with pytest.raises(UserError, match=r"hf download facebook/dino-vits16 .*hf download openai"):
        load_judges("facebook/dino-vits16", "openai/clip-vit-base-patch32")
    save_file({"weight": torch.ones(1, 5), "bias": torch.zeros(1)}, tmp_path / "head.safetensors")
    with pytest.raises(UserError, match=r"reads 5 features, but .* gives 8; .*--aesthetic-clip"):
        load_judges(dino, clip, tmp_path / "head.safetensors", clip, "cpu")


def test_the_layers_of_a_head_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    # LAION's improved predictor: 0, 2, 4, 6, 7; here with a layer 10, which "10" < "2" would swap
    widths = {0: (4, 3), 2: (3, 2), 10: (2, 1)}
    tensors = {}
    for number, (wide, narrow) in widths.items():
        tensors[f"layers.{number}.weight"] = torch.full((narrow, wide), float(number + 1))
        tensors[f"layers.{number}.bias"] = torch.full((narrow,), float(number))
    save_file(tensors, tmp_path / "five.safetensors")
    head = read_head(tmp_path / "five.safetensors")
    assert [tuple(weight.shape) for weight, _ in head] == [(3, 4), (2, 3), (1, 2)]
    assert [bias[0].item() for _, bias in head] == [0, 2, 10]


@pytest.mark.parametrize(
    "tensors",
    [
        {"weight": torch.ones(1, 4)},
        {"weight": torch.ones(2, 4), "bias": torch.ones(2)},
        {"weight": torch.ones(1, 4), "bias": torch.ones(1), "more": torch.ones(1)},
        {
            "0.weight": torch.ones(3, 4),
            "0.bias": torch.ones(3),
            "1.weight": torch.ones(1, 2),
            "1.bias": torch.ones(1),
        },
    ],
)
def test_what_is_no_head_is_refused(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "head.safetensors")
    with pytest.raises(UserError, match="not a chain of linear layers"):
        read_head(tmp_path / "head.safetensors")
    (tmp_path / "head.pth").write_bytes(pickle.dumps({"weight": 1}))
    with pytest.raises(UserError, match="not a safetensors file"):
        read_head(tmp_path / "head.pth")
    with pytest.raises(UserError, match="no such file"):
        read_head(tmp_path / "gone.safetensors")
