"""Scores of pictures, and their means, intervals and differences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from judging import pictures
from safetensors.torch import save_file

from rpo.evaluation.drawn import Drawn
from rpo.evaluation.dreambench import NumberedPrompt, Reference
from rpo.evaluation.judges import Judges, load_judges
from rpo.evaluation.metrics import average_precision
from rpo.evaluation.scoring import Row, Scorer, compare, summarise

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
