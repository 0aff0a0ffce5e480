"""Judges, suites, folders of pictures and means: evaluation/ but its metrics and its command."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import save_photos, save_reward
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, ViTConfig, ViTModel

from rpo.data.prompts import BUILT_IN, SPLITS, load_prompt_set, skill_of
from rpo.errors import UserError
from rpo.evaluation.drawn import Drawn, open_folder
from rpo.evaluation.dreambench import NumberedPrompt, Reference, Suite, load_suite
from rpo.evaluation.judges import Judge, Judges, load_judges, read_head
from rpo.evaluation.metrics import average_precision
from rpo.evaluation.scoring import Row, Scorer, compare, summarise

ROOT = Path(__file__).parent.parent
DREAMBENCH = Path(os.environ.get("RPO_DREAMBENCH", ROOT.parent / "shared" / "dreambench"))
PROMPTS = '[test]\nlive = ["a {} in snow", "a red {}"]\nobject = ["a red {}"]\n'


def save_dino(folder: Path, seed: int = 2) -> Path:
    """A random ViT of two patches a side."""
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        initializer_range=0.5,
        image_size=16,
        patch_size=8,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    settings = {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("Richter")
    save_reward(root / "clip")
    return save_dino(root / "dino"), root / "clip"


@pytest.fixture
def judges(models: tuple[Path, Path]) -> Judges:
    return load_judges(*map(str, models), device="cpu")


def pictures(count: int, seed: int = 0, size: tuple[int, int] = (16, 16)) -> list[Image.Image]:
    """Random pictures, all different."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, size[1], size[0], 3)
    pixels = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    return [Image.fromarray(picture.numpy()) for picture in pixels]


# --- judges ------------------------------------------------------------------------------


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


# --- suites ------------------------------------------------------------------------------


def test_every_built_in_prompt_has_one_skill() -> None:
    lists = [getattr(load_prompt_set(name), split) for name in BUILT_IN for split in SPLITS]
    templates = {t for by_kind in lists for kind in by_kind.values() for t in kind}
    assert {skill_of(template) for template in templates} == {
        *("recontextualisation", "accessory", "colour", "property", "style"),
    }
    assert skill_of("a {} of my own") == "other"
    assert skill_of("A red  {}") == "colour"


def own_suite(root: Path) -> Suite:
    """Two dogs and a cup of three photos each, with little lists of prompts."""
    table = {"rex": "dog", "bello": "dog", "cup": "cup"}
    text = "".join(f'[{name}]\nnoun = "{noun}"\n' for name, noun in table.items())
    root.mkdir()
    (root / "subjects.toml").write_text(text, encoding="utf-8")
    (root / "prompts.toml").write_text(PROMPTS, encoding="utf-8")
    for seed, name in enumerate(table):
        save_photos(root / name)
        for file, picture in enumerate(pictures(3, 100 + seed, (40, 32))):
            picture.save(root / name / f"{file}.png")
    return load_suite(root)


def test_a_suite_of_ones_own(tmp_path: Path) -> None:
    suite = own_suite(tmp_path / "meine")
    assert [(e.name, e.noun, e.kind) for e in suite.entries] == [
        ("bello", "dog", "live"),
        ("cup", "cup", "object"),
        ("rex", "dog", "live"),
    ]
    assert [p.plain("dog") for p in suite.numbered("live")] == ["a dog in snow", "a red dog"]
    read = suite.read(24)
    assert [len(r.photos) for r in read] == [3, 3, 3]
    assert {photo.size for r in read for photo in r.photos} == {(24, 24)}
    # without a list of its own it is DreamBench's
    (tmp_path / "meine" / "prompts.toml").unlink()
    assert load_suite(tmp_path / "meine").prompts.test == load_prompt_set("paper").test


def test_suites_that_are_not_there_or_not_whole(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        load_suite(tmp_path / "gone")
    with pytest.raises(UserError, match=r"neither prompts_and_classes.txt nor subjects.toml"):
        load_suite(tmp_path)
    own_suite(tmp_path / "s")
    (tmp_path / "s" / "rex").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="no folder rex with its photos"):
        load_suite(tmp_path / "s")
    table = tmp_path / "s" / "subjects.toml"
    for text, said in (("[rex]\n", "noun"), ("[", "TOML"), ("", "no subject")):
        table.write_text(text)
        with pytest.raises(UserError, match=said):
            load_suite(tmp_path / "s")


def test_dreambenchs_file_is_read(tmp_path: Path) -> None:
    name = "{0} {1}'.format(unique_token, class_token)"
    (tmp_path / "prompts_and_classes.txt").write_text(
        "Classes\n\nsubject_name,class\nrex,dog\nbear_plushie,stuffed animal\n\nPrompts\n\n"
        f"Object Prompts\n\nprompt_list = [\n'a {name},\n'a red {name}\n]\n\n"
        f"Live Subject Prompts\n\nprompt_list = [\n'a wet {name}\n]\n"
    )
    for subject in ("rex", "bear_plushie"):
        save_photos(tmp_path / subject)
    suite = load_suite(tmp_path)
    assert [(e.name, e.noun, e.kind) for e in suite.entries] == [
        ("bear_plushie", "stuffed animal", "object"),
        ("rex", "dog", "live"),
    ]
    assert suite.prompts.test == {"object": ("a {}", "a red {}"), "live": ("a wet {}",)}
    (tmp_path / "prompts_and_classes.txt").write_text("Classes\n")
    with pytest.raises(UserError, match="not DreamBench's list"):
        load_suite(tmp_path)


@pytest.mark.skipif(not DREAMBENCH.is_dir(), reason="DreamBench's photos are not here")
def test_dreambench_itself() -> None:
    suite = load_suite(DREAMBENCH)
    assert len(suite.entries) == 30
    assert sum(entry.kind == "live" for entry in suite.entries) == 9
    assert suite.prompts.test == load_prompt_set("paper").test
    assert len({entry.noun for entry in suite.entries}) == 15


def test_emojilands_thirty() -> None:
    suite = load_suite("emojiland")
    assert len(suite.entries) == 30
    assert len(suite.numbered("live")) == len(suite.numbered("object")) == 25


# --- a folder of pictures ----------------------------------------------------------------


def save_drawings(folder: Path, each: int = 2, prompts: int = 2) -> None:
    """Pictures of both dogs and the cup, which has one prompt."""
    for seed, (name, count) in enumerate((("rex", prompts), ("bello", prompts), ("cup", 1))):
        (folder / name).mkdir(parents=True)
        for place, picture in enumerate(pictures(count * each, seed)):
            picture.save(folder / name / f"{place // each + 1:02d}-{place % each + 1}.png")


def test_a_whole_folder_has_nothing_amiss(tmp_path: Path) -> None:
    suite = own_suite(tmp_path / "suite")
    save_drawings(tmp_path / "drawn")
    found = open_folder(tmp_path / "drawn", suite)
    drawn = list(found.read(suite.read(16), suite))
    assert (found.size, found.per_prompt, found.amiss) == ((16, 16), 2, [])
    assert [(d.subject.name, len(d.images)) for d in drawn] == [
        ("bello", 4),
        ("cup", 2),
        ("rex", 4),
    ]
    assert [(p.number, k) for p, k in zip(drawn[0].prompts, drawn[0].numbers, strict=True)] == [
        *((1, 1), (1, 2), (2, 1), (2, 2)),
    ]
    assert drawn[0].images[3].tobytes() == pictures(4, 1)[3].tobytes()
    assert found.amiss == []


def test_all_that_is_wrong_is_named_and_the_rest_read(tmp_path: Path) -> None:
    suite = own_suite(tmp_path / "suite")
    folder = tmp_path / "drawn"
    save_drawings(folder)
    for name in ("01-1.png", "01-2.png"):
        (folder / "bello" / name).unlink()  # a missing prompt
    (folder / "cup" / "01-2.png").write_bytes((folder / "cup" / "01-1.png").read_bytes()[:300])
    Image.new("RGB", (24, 16)).save(folder / "rex" / "02-2.png")  # a wrong size
    (folder / "rex" / "notes.txt").write_text("mine")
    (folder / "rex" / "3-1.png").write_bytes((folder / "rex" / "01-1.png").read_bytes())
    (folder / "rex" / "1-01.png").write_bytes((folder / "rex" / "01-1.png").read_bytes())
    (folder / "rex" / ".DS_Store").write_text("the system's")
    (folder / "waldi").mkdir()
    (folder / "readme.md").write_text("mine")
    found = open_folder(folder, suite)
    drawn = {d.subject.name: d for d in found.read(suite.read(16), suite)}
    assert {name: len(d.images) for name, d in drawn.items()} == {"bello": 2, "cup": 1, "rex": 3}
    assert [prompt.number for prompt in drawn["rex"].prompts] == [1, 1, 2]
    told = "\n".join(found.amiss)
    for said in (
        "readme.md: not judged, not in a subject's folder",
        "waldi: not judged, no subject of the suite",
        "rex/3-1.png: not judged, there are 2 prompts",
        "rex/notes.txt: not judged, its name is not PROMPTNUMBER-K.png",
        "rex/1-01.png: not judged, the same number as 01-1.png",
        "rex/02-2.png: not judged, 24 x 16 pixels where most are 16 x 16",
        "bello: pictures missing of prompt 1 (2 of 2)",
        "rex: pictures missing of prompt 2 (1 of 2)",
        "cup/01-2.png: damaged",
        "cup: pictures missing of prompt 1 (1 of 2)",
    ):
        assert said in told
    assert len(found.amiss) == 10


def test_subjects_without_pictures_and_more_pictures_than_asked_for(tmp_path: Path) -> None:
    suite = own_suite(tmp_path / "suite")
    save_drawings(tmp_path / "drawn", each=3)
    for file in (tmp_path / "drawn" / "cup").iterdir():
        file.unlink()
    found = open_folder(tmp_path / "drawn", suite, images_per_prompt=2)
    assert [len(d.images) for d in found.read(suite.read(16), suite)] == [4, 4]
    assert found.amiss[-1] == "1 of 3 subjects without any picture: cup"
    assert sum("beyond 2 pictures a prompt" in line for line in found.amiss) == 4


def test_folders_that_hold_nothing_to_judge(tmp_path: Path) -> None:
    suite = own_suite(tmp_path / "suite")
    with pytest.raises(UserError, match="no such folder"):
        open_folder(tmp_path / "gone", suite)
    (tmp_path / "drawn" / "rex").mkdir(parents=True)
    with pytest.raises(UserError, match="whose first subject is bello"):
        open_folder(tmp_path / "drawn", suite)
    (tmp_path / "drawn" / "rex" / "1-1.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="not one of its pictures can be read"):
        open_folder(tmp_path / "drawn", suite)


# --- scores ------------------------------------------------------------------------------


def drawings(subject: Reference, seed: int, order: Sequence[int] = range(4)) -> Drawn:
    """Four pictures of two prompts, and three pairs of the class."""
    prompts = [NumberedPrompt(1, "a {} in snow", "other")] * 2
    prompts += [NumberedPrompt(2, "a red {}", "colour")] * 2
    images, numbers = pictures(4, seed), [1, 2, 1, 2]
    return Drawn(
        subject,
        tuple(images[k] for k in order),
        tuple(prompts[k] for k in order),
        tuple(numbers[k] for k in order),
        tuple(pictures(3, seed + 50)),
        tuple(pictures(3, seed + 60)),
    )


def gallery() -> list[Reference]:
    names = (("rex", "dog"), ("bello", "dog"), ("cup", "cup"))
    return [
        Reference(name, noun, "live", tuple(pictures(3, 200 + seed)))
        for seed, (name, noun) in enumerate(names)
    ]


def test_scores_are_the_metrics_of_plain_features(judges: Judges) -> None:
    subjects = gallery()
    rows = Scorer(judges, subjects).score(drawings(subjects[0], 5))
    drawn, photos = pictures(4, 5), subjects[0].photos
    dino, clip = judges.dino.encoder, judges.clip.encoder
    seen = dino.encode_images(drawn), dino.encode_images(photos)
    texts = clip.encode_texts(["a dog in snow"] * 2 + ["a red dog"] * 2)
    expected = (seen[0] @ seen[1].T).mean(dim=1).tolist()
    assert [row.figures["dino"] for row in rows[:4]] == pytest.approx(expected, abs=1e-6)
    expected = (clip.encode_images(drawn) * texts).sum(dim=1).tolist()
    assert [row.figures["clip_t"] for row in rows[:4]] == pytest.approx(expected, abs=1e-6)
    tuned, base = (clip.encode_images(pictures(3, 5 + more)) for more in (50, 60))
    expected = (1 - (tuned * base).sum(dim=1)).tolist()
    assert [row.figures["class_drift"] for row in rows[4:]] == pytest.approx(expected, abs=1e-6)
    assert [set(row.figures) for row in rows[4:]] == [{"class_drift"}] * 3
    assert 0 < rows[0].figures["identity_rank"] <= 1
    assert rows[0].figures["diversity"] == pytest.approx(rows[1].figures["diversity"])


def test_scores_depend_neither_on_the_order_nor_on_what_was_seen_before(judges: Judges) -> None:
    subjects = gallery()
    plain = Scorer(judges, subjects).score(drawings(subjects[0], 5))
    scorer = Scorer(judges, subjects[::-1])
    scorer.score(drawings(subjects[1], 9))
    order = (2, 0, 3, 1)
    turned = scorer.score(drawings(subjects[0], 5, order))
    for place, k in enumerate(order):
        assert (turned[place].prompt, turned[place].number) == (plain[k].prompt, plain[k].number)
        assert turned[place].figures == pytest.approx(plain[k].figures, abs=1e-6)


def test_the_oracle_row_leaves_each_photo_out(judges: Judges) -> None:
    subjects = gallery()
    found = Scorer(judges, subjects).score_photos(subjects[0])
    features = judges.dino.encoder.encode_images(subjects[0].photos)
    cosines = features @ features.T
    pairs = [cosines[i, j].item() for i in range(3) for j in range(3) if i != j]
    assert found["dino"] == pytest.approx(sum(pairs) / 6, abs=1e-6)
    assert set(found) == {"dino", "clip_i", "identity_rank", "identity_rank_in_class"}
    ranks = []
    for k in range(3):  # photo k looks for the two others, among them and six of other subjects
        rest = [r.photos[j] for r in subjects for j in range(3) if (r.name, j) != ("rex", k)]
        scores = features[[k]] @ judges.dino.encoder.encode_images(rest).T
        ranks.append(average_precision(scores, torch.arange(8) < 2).item())
    assert found["identity_rank"] == pytest.approx(sum(ranks) / 3, abs=1e-6)
    # of the photos themselves as drawings each would find itself first
    itself = Drawn(
        subjects[0], subjects[0].photos, (NumberedPrompt(1, "a {}", "other"),) * 3, (1, 2, 3)
    )
    rows = Scorer(judges, subjects).score(itself)
    assert sum(row.figures["dino"] for row in rows) / 3 > found["dino"]
    assert "identity_rank_in_class" not in Scorer(judges, subjects[2:]).score_photos(subjects[2])


def test_the_aesthetic_judge_is_the_head_on_clip_features(
    models: tuple[Path, Path], tmp_path: Path
) -> None:
    head = {"weight": torch.arange(8.0)[None], "bias": torch.tensor([3.0])}
    save_file(head, tmp_path / "head.safetensors")
    dino, clip = map(str, models)
    judges = load_judges(dino, clip, tmp_path / "head.safetensors", clip, "cpu")
    subjects = gallery()
    rows = Scorer(judges, subjects).score(drawings(subjects[0], 5))
    features = judges.clip.encoder.encode_images(pictures(4, 5))
    expected = (features @ head["weight"].T + 3).squeeze(1).tolist()
    assert [row.figures["aesthetic"] for row in rows[:4]] == pytest.approx(expected, abs=1e-5)
    assert dict(judges.named())["aesthetic"].about["head"] == "head.safetensors"


# --- means -------------------------------------------------------------------------------


def row(subject: str, prompt: int, number: int, **figures: float) -> Row:
    templates = {1: ("a {} in snow", "place"), 2: ("a red {}", "colour"), 3: ("a {}", "colour")}
    return Row(subject, prompt, number, *templates[prompt], figures)


# rex: prompt 1 (.2 + .4) / 2 = .3, prompt 2 .9 -> .6; cup: prompt 2 .1
ROWS = [
    row("rex", 1, 1, dino=0.2, clip_t=0.5),
    row("rex", 1, 2, dino=0.4),
    row("rex", 2, 1, dino=0.9),
    row("cup", 2, 1, dino=0.1),
    Row("rex", 0, 1, "", "", {"class_drift": 0.25}),
    Row("rex", 0, 2, "", "", {"class_drift": 0.75}),
]


def test_means_by_hand() -> None:
    found = summarise(ROWS)
    close = pytest.approx
    assert found["subjects"]["rex"] == close({"dino": 0.6, "clip_t": 0.5, "class_drift": 0.5})
    assert found["subjects"]["cup"] == close({"dino": 0.1})
    overall = found["overall"]
    assert overall["dino"] == close({"mean": 0.35, "low": 0.1, "high": 0.6, "n": 2})
    assert overall["clip_t"] == {"mean": 0.5, "low": None, "high": None, "n": 1}
    # of one of the two subjects alone: its prompts or pictures are no subjects
    assert overall["class_drift"] == {"mean": 0.5, "low": None, "high": None, "n": 1}
    alone = summarise([row for row in ROWS if row.subject == "rex"])["overall"]
    assert alone["class_drift"] == close({"mean": 0.5, "low": 0.25, "high": 0.75, "n": 2})
    assert found["skills"]["place"]["dino"] == close(0.3)
    assert found["skills"]["colour"]["dino"] == close(0.5)
    assert found["prompts"]["a red {}"]["dino"] == close(0.5)
    assert summarise(ROWS[::-1])["overall"] == overall


def test_a_prompt_with_more_pictures_weighs_no_more() -> None:
    rows = [row("rex", 2, 1, dino=0.9), row("rex", 3, 1, dino=0.1), row("rex", 3, 2, dino=0.3)]
    found = summarise(rows)
    for told in (found["subjects"]["rex"], found["skills"]["colour"]):
        assert told["dino"] == pytest.approx((0.9 + 0.2) / 2)
    assert found["overall"]["dino"]["n"] == 2


def test_of_one_subject_the_interval_is_over_prompts() -> None:
    overall = summarise(ROWS[:3])["overall"]
    assert overall["dino"] == pytest.approx({"mean": 0.6, "low": 0.3, "high": 0.9, "n": 2})


def test_differences_are_paired() -> None:
    others: list[Any] = [
        row("rex", 1, 1, dino=0.1),
        row("rex", 2, 1, dino=0.3),
        row("bello", 1, 1, dino=0.0),
    ]
    # they share rex alone: .3 - .1 and .9 - .3 by its prompts
    found = compare(ROWS, others)
    assert found["dino"] == pytest.approx({"mean": 0.4, "low": 0.2, "high": 0.6, "n": 2})
    assert set(found) == {"dino"}
    # two shared subjects: .6 - .2 and .1 - 0
    both = compare(ROWS, [*others[:2], row("cup", 2, 1, dino=0.0)])
    assert both["dino"] == pytest.approx({"mean": 0.25, "low": 0.1, "high": 0.4, "n": 2})
    assert compare(ROWS, [row("bello", 1, 1, dino=0.0)]) == {}
