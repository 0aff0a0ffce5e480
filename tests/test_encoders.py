"""encoders.py on tiny random models of the real transformers classes, saved and loaded again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    AlignConfig,
    AlignModel,
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    Dinov2Config,
    Dinov2Model,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTModel,
)

from rpo.errors import UserError
from rpo.models.encoders import BATCH_SIZE, Encoder, load_encoder

SIZE = 16
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
TOWER = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "initializer_range": 0.5,  # the default 0.02 makes all features of a random tower alike
}
PATCHES = {**TOWER, "image_size": SIZE, "patch_size": 8}
TEXTS = ["a dog", "a dog on the moon"]
WORDS = ["a", "dog", "on", "the", "moon"]
FAMILIES = ["align", "clip", "vit", "dinov2"]


def save_processor(folder: Path, kind: str, **settings: Any) -> None:
    settings = {"do_center_crop": False, **settings}
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "image_processor_type": kind,
                "do_resize": True,
                "size": {"height": SIZE, "width": SIZE},
                "do_rescale": True,
                "do_normalize": True,
                "image_mean": MEAN,
                "image_std": STD,
                **settings,
            }
        )
    )


def make_align(folder: Path) -> Any:
    vocabulary = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    save_processor(folder, "EfficientNetImageProcessor", rescale_offset=False, include_top=False)
    vision = {
        "image_size": SIZE,
        "kernel_sizes": [3, 3],
        "in_channels": [32, 8],
        "out_channels": [8, 16],
        "depthwise_padding": [],
        "strides": [1, 2],
        "num_block_repeats": [1, 1],
        "expand_ratios": [1, 2],
        "width_coefficient": 1.0,
        "depth_coefficient": 1.0,
        "hidden_dim": 16,
        "initializer_range": 0.5,
    }
    text = {**TOWER, "vocab_size": len(vocabulary), "max_position_embeddings": 8}
    return AlignModel(AlignConfig(text_config=text, vision_config=vision, projection_dim=16))


def make_clip(folder: Path) -> Any:
    alphabet = sorted(set("".join(WORDS)))
    merges = [("o", "n</w>"), ("t", "h"), ("th", "e</w>")]
    pieces = alphabet + [c + "</w>" for c in alphabet] + ["".join(pair) for pair in merges]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    CLIPTokenizer(vocab=vocabulary, merges=merges).save_pretrained(folder)
    save_processor(folder, "CLIPImageProcessor")
    text = {**TOWER, "vocab_size": len(pieces), "max_position_embeddings": 12}
    text |= {"bos_token_id": len(pieces) - 2, "eos_token_id": len(pieces) - 1}
    text["pad_token_id"] = len(pieces) - 1
    return CLIPModel(CLIPConfig(text_config=text, vision_config=PATCHES, projection_dim=12))


def make_vit(folder: Path) -> Any:
    save_processor(folder, "ViTImageProcessor")
    return ViTModel(ViTConfig(**PATCHES), add_pooling_layer=False)


def make_dinov2(folder: Path) -> Any:
    save_processor(folder, "BitImageProcessor")
    return Dinov2Model(Dinov2Config(**PATCHES))


MAKERS: dict[str, Callable[[Path], Any]] = {
    "align": make_align,
    "clip": make_clip,
    "vit": make_vit,
    "dinov2": make_dinov2,
}


def save(kind: str, folder: Path) -> Any:
    folder.mkdir()
    torch.manual_seed(0)
    model = MAKERS[kind](folder).eval()
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any, Encoder]]:
    root = tmp_path_factory.mktemp("Modelle für Tests")
    made = {}
    for kind in FAMILIES:
        model = save(kind, root / kind)
        made[kind] = (root / kind, model, load_encoder(root / kind))
    return made


def noise(n: int, size: int = SIZE, seed: int = 0) -> Tensor:
    """Random pictures whose values are exact in 8 bits."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, size, size), generator=generator).float() / 255


def normalized(images: Tensor) -> Tensor:
    """The processors' arithmetic by hand, for pictures that need no resizing."""
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    return (images - mean) / std


def expected_images(kind: str, model: Any, images: Tensor) -> Tensor:
    """Straight from the model's forward pass, not through get_image_features."""
    pixels = normalized(images)
    with torch.no_grad():
        if kind == "align":
            features = model.vision_model(pixel_values=pixels).last_hidden_state.mean((2, 3))
        elif kind == "clip":
            pooled = model.vision_model(pixel_values=pixels).pooler_output
            features = model.visual_projection(pooled)
        else:
            features = model(pixel_values=pixels).last_hidden_state[:, 0]
    return features / features.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("kind", FAMILIES)
def test_image_features_are_the_model_s_own(kind: str, saved: Any) -> None:
    _, model, encoder = saved[kind]
    images = noise(3)
    features = encoder.encode_images(images)
    torch.testing.assert_close(features, expected_images(kind, model, images))
    assert features.dtype == torch.float32
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(3))
    assert (features @ features.T - torch.eye(3)).max() < 0.999, "the test pictures look alike"


@pytest.mark.parametrize("kind", ["align", "clip"])
def test_joint_space_is_the_one_of_the_forward_pass(kind: str, saved: Any) -> None:
    """The model's own joint forward, with token ids spelled out here, gives the same vectors."""
    _, model, encoder = saved[kind]
    if kind == "align":  # [CLS] words [SEP], padded with 0
        ids = [[2, 4, 5, 3, 0, 0, 0], [2, 4, 5, 6, 7, 8, 3]]
        mask = [[1] * 4 + [0] * 3, [1] * 7]
    else:  # letters of a d e g h m n o t, then the same with a word's end, then the merges
        letters = "adeghmnot"
        inner, last = letters.index, lambda c: letters.index(c) + 9
        start, end = 21, 22
        dog = [last("a"), inner("d"), inner("o"), last("g")]
        moon = [18, 20, inner("m"), inner("o"), inner("o"), last("n")]
        moon[-2:] = [18]  # "o" and the final "n" merge
        ids = [[start, *dog, end], [start, *dog, *moon, end]]
        mask = [[1] * 6 + [0] * (len(ids[1]) - 6), [1] * len(ids[1])]
        ids[0] += [end] * (len(ids[1]) - 6)
    images = noise(2)
    with torch.no_grad():
        output = model(
            input_ids=torch.tensor(ids),
            attention_mask=torch.tensor(mask),
            pixel_values=normalized(images),
        )
    torch.testing.assert_close(encoder.encode_images(images), output.image_embeds)
    torch.testing.assert_close(encoder.encode_texts(TEXTS), output.text_embeds)
    assert not torch.allclose(output.text_embeds[0], output.text_embeds[1], atol=1e-3)


@pytest.mark.parametrize("kind", FAMILIES)
def test_batches_do_not_matter(kind: str, saved: Any) -> None:
    encoder = saved[kind][2]
    images = noise(BATCH_SIZE + 3)
    features = encoder.encode_images(images)
    singles = torch.cat(
        [encoder.encode_images(images[i : i + 1]) for i in (0, BATCH_SIZE, BATCH_SIZE + 2)]
    )
    torch.testing.assert_close(features[[0, BATCH_SIZE, -1]], singles)
    if encoder.has_text:
        texts = TEXTS * BATCH_SIZE
        repeated = encoder.encode_texts(texts)
        assert repeated.shape[0] == len(texts)
        torch.testing.assert_close(repeated[-2:], encoder.encode_texts(TEXTS))
        torch.testing.assert_close(repeated[:1], encoder.encode_texts(TEXTS[:1]))


@pytest.mark.parametrize("kind", FAMILIES)
def test_pil_images_equal_tensors_also_where_resizing_is_needed(kind: str, saved: Any) -> None:
    encoder = saved[kind][2]
    images = noise(2, size=40)
    pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    pictures = [Image.fromarray(np.ascontiguousarray(p)) for p in pixels]
    assert torch.equal(encoder.encode_images(images), encoder.encode_images(pictures))
    grey = [pictures[0].convert("L"), Image.new("RGB", (50, 33), "red")]  # mixed sizes and modes
    assert encoder.encode_images(grey).shape == (2, encoder.encode_images(images).shape[1])


def test_values_are_rounded_to_eight_bits(saved: Any) -> None:
    encoder = saved["vit"][2]
    images = noise(1)
    wobble = images + 0.4 / 255 * torch.sign(0.5 - images)
    assert torch.equal(encoder.encode_images(images), encoder.encode_images(wobble))


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(3, 8, 8),
        torch.zeros(1, 4, 8, 8),
        torch.zeros(0, 3, 8, 8),
        torch.full((1, 3, 8, 8), -1.0),
        torch.full((1, 3, 8, 8), 255.0),
        torch.full((1, 3, 8, 8), float("nan")),
        [],
    ],
)
def test_what_is_not_a_picture_is_refused(images: Any, saved: Any) -> None:
    with pytest.raises(ValueError, match="images"):
        saved["vit"][2].encode_images(images)


def test_texts_longer_than_the_model_reads_are_cut(saved: Any) -> None:
    encoder = saved["align"][2]  # 8 positions: [CLS], six words, [SEP]
    long = encoder.encode_texts(["a dog on the moon a dog dog dog dog"])
    torch.testing.assert_close(long, encoder.encode_texts(["a dog on the moon a"]))


def test_texts_need_a_text_tower_and_a_sequence(saved: Any) -> None:
    assert [saved[kind][2].has_text for kind in FAMILIES] == [True, True, False, False]
    with pytest.raises(TypeError, match="no text tower"):
        saved["vit"][2].encode_texts(TEXTS)
    with pytest.raises(TypeError, match="not one string"):
        saved["clip"][2].encode_texts("a dog")
    with pytest.raises(ValueError, match="no texts"):
        saved["clip"][2].encode_texts([])


def test_the_model_is_frozen_and_its_features_usable_in_autograd(saved: Any) -> None:
    encoder = saved["clip"][2]
    assert not encoder.model.training
    assert not any(p.requires_grad for p in encoder.model.parameters())
    weight = torch.ones(12, requires_grad=True)
    (encoder.encode_images(noise(1)) * weight).sum().backward()  # raises on inference tensors
    assert weight.grad is not None


def test_loading_is_silent_and_leaves_the_random_stream_alone(
    saved: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    for kind in FAMILIES:
        load_encoder(saved[kind][0])
    assert torch.equal(torch.rand(3), expected)
    assert "".join(capfd.readouterr()) == ""


def test_half_precision_files_are_loaded_in_float32(tmp_path: Path) -> None:
    model = save("clip", tmp_path / "half")
    model.half().save_pretrained(tmp_path / "half")
    encoder = load_encoder(tmp_path / "half")
    assert {p.dtype for p in encoder.model.parameters()} == {torch.float32}


def test_names(saved: Any, tmp_path: Path) -> None:
    folder, _, encoder = saved["vit"]
    assert encoder.name == f"{folder.parent.name}/vit"
    snapshot = tmp_path / "models--org--tiny-vit" / "snapshots" / "0123"
    snapshot.parent.mkdir(parents=True)
    save("vit", snapshot)
    assert load_encoder(snapshot).name == "org/tiny-vit"


def test_unknown_model_type_is_named(tmp_path: Path) -> None:
    BertModel(BertConfig(**TOWER, vocab_size=8)).save_pretrained(tmp_path / "bert")
    with pytest.raises(UserError, match='"bert" is not a known encoder; use one of align, clip'):
        load_encoder(tmp_path / "bert")


@pytest.mark.parametrize(
    "missing", ["config.json", "preprocessor_config.json", "model.safetensors", "tokenizer*"]
)
def test_a_missing_file_is_a_user_error(missing: str, tmp_path: Path) -> None:
    save("align", tmp_path / "model")
    removed = [path.unlink() for path in (tmp_path / "model").glob(missing)]
    assert removed
    with pytest.raises(UserError, match="model: cannot load this encoder") as caught:
        load_encoder(tmp_path / "model")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("broken", ["config.json", "model.safetensors"])
def test_a_broken_file_is_a_user_error(broken: str, tmp_path: Path) -> None:
    save("vit", tmp_path / "model")
    (tmp_path / "model" / broken).write_bytes(b"\x00garbage")
    with pytest.raises(UserError, match="cannot load this encoder"):
        load_encoder(tmp_path / "model")


def test_pickled_weights_are_never_read(tmp_path: Path) -> None:
    model = save("vit", tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        load_encoder(tmp_path / "model")


def test_missing_weights_are_not_left_random(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save("vit", tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    weights = load_file(file)
    del weights["layernorm.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 weights, the first layernorm.weight"):
        load_encoder(tmp_path / "model")


def test_only_folders_are_taken_and_nothing_is_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rpo.models.encoders.AutoConfig", None)  # using it would be another error
    for folder in (tmp_path / "nowhere", "./nowhere", "org/model"):
        with pytest.raises(UserError, match="no such model folder"):
            load_encoder(folder)


def test_what_a_folder_lacks_is_not_asked_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path such as "org/model" is a hub id in form."""
    (tmp_path / "org").mkdir()
    save("clip", tmp_path / "org" / "model")
    (tmp_path / "org" / "model" / "config.json").unlink()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"org.model: cannot load this encoder"):
        load_encoder("org/model")
