"""The benchmarks' commands on a tiny world: what they write, and what a rerun does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from benchmarks import gpu, learning, learning_report, methods, speed, sweep
from benchmarks.provenance import commit
from benchmarks.world import MODELS, chosen_subjects, model_hashes
from rpo.errors import UserError

SUBJECTS = {"cat": ("cat", "live"), "clock": ("clock", "object"), "dog": ("dog", "live")}
TOKENS = 96  # a token a letter, and the longest test prompt
TOWER = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "initializer_range": 0.5,  # the default makes all features of a random tower alike
}
VISION = {**TOWER, "image_size": tiny.RESOLUTION, "patch_size": 8}
QUICK = ["training.steps=2", "validation.every=2", "validation.steps=1", "sampling.steps=1"]
QUICK += ["sampling.images_per_prompt=1"]


def settings() -> list[str]:
    return [word for setting in QUICK for word in ("--set", setting)]


def save_encoder(folder: Path, model: Any, processor: type) -> None:
    side = {"height": tiny.RESOLUTION, "width": tiny.RESOLUTION}
    model.save_pretrained(folder)
    options = {} if processor is ViTImageProcessor else {"do_center_crop": False}
    processor(size=side, **options).save_pretrained(folder)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a wörld")
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        patch.setattr(tiny, "TOKENS", TOKENS)
        tiny.save_tiny(folder / "pipeline", "v_prediction")
        tokenizer = tiny.tiny_tokenizer()
        text = {**TOWER, "vocab_size": len(tokenizer), "max_position_embeddings": TOKENS}
        for name in ("bos", "eos", "pad"):
            text[f"{name}_token_id"] = getattr(tokenizer, f"{name}_token_id")
        for seed, kind in enumerate(("reward", "judge-clip")):
            torch.manual_seed(seed)
            model = CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=8))
            save_encoder(folder / kind, model, CLIPImageProcessor)
            tokenizer.save_pretrained(folder / kind)
        vit = ViTModel(ViTConfig(**VISION), add_pooling_layer=False)
        save_encoder(folder / "judge-dino", vit, ViTImageProcessor)
    table = []
    for seed, (name, (noun, kind)) in enumerate(SUBJECTS.items()):
        photos = folder / "subjects" / name
        photos.mkdir(parents=True)
        for index in range(2):
            pixels = np.random.default_rng((seed, index)).integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(photos / f"{index:02d}.png")
        table.append(f'[{name}]\nnoun = "{noun}"\nkind = "{kind}"\n')
    (folder / "subjects.toml").write_text("\n".join(table), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def learned(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("results") / "learning.json"
    assert learn(world, out) == 0
    return out


def learn(world: Path, out: Path, *words: str) -> int:
    counts = [] if "--subjects" in words else ["--subjects", "2", "--seeds", "1"]
    return learning.main(["--world", str(world), "--out", str(out), *counts, *words, *settings()])


def read(out: Path) -> dict[str, Any]:
    return json.loads(out.read_text(encoding="utf-8"))


def keys(results: dict[str, Any]) -> list[tuple[str, int, str]]:
    return [(r["subject"], r["seed"], r["method"]) for r in results["records"]]


def test_every_subject_seed_and_method_is_judged_once(learned: Path) -> None:
    results = read(learned)
    expected = {(name, 0, m) for name in ("cat", "clock") for m in learning_report.METHODS}
    assert len(keys(results)) == len(expected)
    assert set(keys(results)) == expected
    for record in results["records"]:
        assert record["pictures"] == 25
        assert all(-1 <= record[metric] <= 1 for metric in ("dino", "clip_i", "clip_t"))
        assert all(0 < record[m] < 1 for m in ("harmonic_judge", "harmonic_reward_model"))
    steps = {(r["subject"], r["method"]): r["step"] for r in results["records"]}
    for name in ("cat", "clock"):
        assert steps[name, "base"] == 0
        assert steps[name, "similarity"] == steps[name, "rpo-last"] == 2
        rewards = next(
            r["validation_rewards"]
            for r in results["records"]
            if (r["subject"], r["method"]) == (name, "rpo")
        )
        assert list(rewards) == ["0", "2"]
        assert rewards[str(steps[name, "rpo"])] == max(rewards.values())


def test_the_best_step_draws_what_was_drawn_at_that_step(learned: Path) -> None:
    """The best weights are really put back: only steps 0 and 2 were validated."""
    records = {(r["subject"], r["method"]): r for r in read(learned)["records"]}
    pairs = [
        (records[name, method], records[name, other])
        for name in ("cat", "clock")
        for method, last in (("rpo", "rpo-last"), ("similarity-best", "similarity"))
        for step, other in ((0, "base"), (2, last))
        if records[name, method]["step"] == step
    ]
    assert len(pairs) == 4
    for best, other in pairs:
        assert best["dino"] == other["dino"]
        assert best["harmonic_judge"] == other["harmonic_judge"]
    assert records["cat", "base"]["dino"] != records["cat", "rpo-last"]["dino"]


def test_summary_is_over_subjects(learned: Path) -> None:
    results = read(learned)
    values = {
        method: [r["dino"] for r in results["records"] if r["method"] == method]
        for method in ("rpo", "base")
    }
    mean = results["summary"]["methods"]["rpo"]["dino"]
    assert mean["n"] == 2
    assert mean["mean"] == pytest.approx(sum(values["rpo"]) / 2, abs=2e-6)
    difference = results["summary"]["differences"]["rpo - base"]["dino"]
    gaps = [a - b for a, b in zip(values["rpo"], values["base"], strict=True)]
    # two values d1, d2: half width = t(1) |d1 - d2| / 2 with t(1) = 12.706
    assert difference["mean"] == pytest.approx(sum(gaps) / 2, abs=2e-6)
    half = (difference["high"] - difference["low"]) / 2
    assert half == pytest.approx(12.706 * abs(gaps[0] - gaps[1]) / 2, rel=1e-3, abs=1e-4)


def test_the_table_and_the_picture_stand_beside_the_results(learned: Path, world: Path) -> None:
    text = learned.with_suffix(".md").read_text(encoding="utf-8")
    for words in ("| **rpo** |", "| real photos |", "rpo − base", "rpo − similarity", "At commit"):
        assert words.lower() in text.lower()
    with Image.open(learned.with_suffix(".png")) as picture:
        assert picture.size == (4 * (192 + 6) + 6, 28 + 2 * (192 + 24))
        # the first cell is the first photo's centre square, enlarged sixfold without smoothing
        with Image.open(world / "subjects" / "cat" / "00.png") as photo:
            scale = 192 // photo.width
            for x, y in ((0, 0), (31, 31), (7, 20)):
                at = (6 + x * scale + scale // 2, 28 + y * scale + scale // 2)
                assert picture.getpixel(at) == photo.getpixel((x, y))
    sheet = learning_report.sheet_path(learned, "cat", 0, "rpo")
    with Image.open(sheet) as row:
        assert row.size == (25 * tiny.RESOLUTION, tiny.RESOLUTION)


def test_provenance_is_complete(learned: Path, world: Path) -> None:
    results = read(learned)
    (session,) = results["sessions"]
    assert session["records"] == 10
    assert session["seconds"] > 0
    assert session["versions"]["torch"] == torch.__version__
    assert session["hardware"]["processor"]
    assert session["hardware"]["threads"] == torch.get_num_threads()
    assert session["commit"] == commit()
    assert results["models"] == model_hashes(world)
    assert all(results["models"][kind] for kind in MODELS)
    assert results["config"]["training"]["steps"] == 2


def test_resume_computes_only_what_is_missing(learned: Path, world: Path, tmp_path: Path) -> None:
    results = read(learned)
    kept = [r for r in results["records"] if (r["subject"], r["method"]) != ("clock", "rpo")]
    for record in kept:
        record["seconds_of_judging"] = 1234.5  # to be recognised again
    out = tmp_path / "learning.json"
    out.write_text(json.dumps(results | {"records": kept}), encoding="utf-8")
    assert learn(world, out, "--resume") == 0
    again = read(out)
    fresh = [r for r in again["records"] if r["seconds_of_judging"] != 1234.5]
    assert [(r["subject"], r["method"]) for r in fresh] == [("clock", "rpo")]
    (original,) = [r for r in results["records"] if (r["subject"], r["method"]) == ("clock", "rpo")]
    for metric in learning_report.METRICS:  # the same work gives the same figures
        assert fresh[0][metric] == pytest.approx(original[metric], abs=1e-5)
    assert [session["records"] for session in again["sessions"]] == [10, 1]
    assert learn(world, out, "--resume") == 0
    assert keys(read(out)) == keys(again)
    assert len(read(out)["sessions"]) == 2


def test_an_interrupted_run_leaves_what_was_done(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "learning.json"

    def interrupt(record: dict[str, Any], seconds: float) -> None:
        if record["method"] == "similarity":
            raise KeyboardInterrupt

    monkeypatch.setattr(learning, "_tell", interrupt)
    with pytest.raises(KeyboardInterrupt):
        learn(world, out)
    assert keys(read(out)) == [("cat", 0, "base"), ("cat", 0, "similarity")]


def test_results_of_other_settings_are_not_mixed(
    learned: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = learned.read_bytes()
    assert learn(world, learned) == 2
    assert "--resume completes it" in capsys.readouterr().err
    assert learn(world, learned, "--resume", "--set", "training.beta=2") == 2
    assert "another config" in capsys.readouterr().err
    assert learn(world, learned, "--resume", "--images", "2") == 2
    assert "another images_per_prompt" in capsys.readouterr().err
    assert learned.read_bytes() == before


def test_a_subjects_seeds_are_averaged_before_the_interval() -> None:
    records = [
        {"subject": name, "seed": seed, "method": "rpo", "dino": value}
        for name, seed, value in (("b", 0, 0.5), ("a", 0, 0.1), ("a", 1, 0.3), ("b", 1, 0.6))
    ]
    assert learning_report.by_subject(records, "rpo", "dino") == pytest.approx([0.2, 0.55])


def test_verdicts() -> None:
    assert learning_report.verdict({"low": 0.01, "high": 0.2}) == "higher than"
    assert learning_report.verdict({"low": -0.2, "high": -0.01}) == "lower than"
    assert learning_report.verdict({"low": -0.1, "high": 0.2}) == "not told apart from"


def test_chosen_subjects_are_every_nth_by_name() -> None:
    names = [f"{letter}{digit}" for digit in "10" for letter in "edcba"]
    assert chosen_subjects(names, 5) == ["a0", "b0", "c0", "d0", "e0"]
    assert chosen_subjects(names, 3) == ["a0", "b1", "d0"]  # places 0, 3 and 6 of 10
    for count in (1, 11):
        with pytest.raises(UserError, match="--subjects"):
            chosen_subjects(names, count)


def test_speed(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "speed.json"
    words = ["--world", str(world), "--out", str(out), "--pictures", "3", "--rounds", "1"]
    assert speed.main([*words, "--steps", "1", *settings()]) == 0
    results = read(out)
    job, sampling, step = results["job"], results["sampling"], results["step"]
    assert results["subject"] == "dog"
    assert {"loading", "sampling", "labelling", "training", "validation"} <= set(job["phases"])
    assert sum(phase["seconds"] for phase in job["phases"].values()) <= job["seconds"] + 0.1
    assert (job["training_pictures"], job["gradient_steps"]) == (8, 2)
    assert job["validation_pictures"] == 2 * 8
    assert job["peak_memory_mb"] > 100
    assert sampling["greatest_difference"] < 1e-3  # both ways draw the same pictures
    assert sampling["ratio"] == pytest.approx(
        sampling["library_pictures_per_second"] / sampling["pipeline_pictures_per_second"], rel=0.01
    )
    assert step["ratio"] == pytest.approx(
        step["dreambooth_and_reference_seconds"] / step["rpo_seconds"], rel=0.02
    )
    assert results["versions"]["torch"] == torch.__version__
    printed = capsys.readouterr().out
    assert str(sampling["ratio"]) in printed
    assert str(step["ratio"]) in printed


def test_gpu_runs_small_on_the_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gpu.json"
    words = ["--models", "tiny", "--device", "cpu", "--naive", "--batch", "2", "--steps", "1"]
    assert gpu.main([*words, "--pictures", "1", "--out", str(out)]) == 0
    case = read(out)["cases"]["tiny"]
    job, step, naive = case["job"], case["step"], case["naive"]
    assert {"loading", "sampling", "labelling", "training", "validation"} <= set(job["phases"])
    assert (job["training_pictures"], job["gradient_steps"]) == (32, 4)
    assert job["validation_pictures"] == 3 * 32
    assert step["flop"] > 0
    assert step["share_of_matmul"] == pytest.approx(
        step["tflops_per_second"] / step["matmul_tflops_per_second"], abs=0.05
    )
    # 32 training pictures and two validations of 32, as the paper's counts without step 0's
    assert naive["pictures"] == 32 + 2 * 32
    a_picture = naive["picture_seconds"] + naive["judgement_seconds"]
    by_hand = 96 * a_picture + 4 * naive["step_seconds"]
    assert naive["job_seconds"] == pytest.approx(by_hand, abs=0.05)
    assert naive["ratio"] == pytest.approx(naive["job_seconds"] / job["seconds"], abs=0.02)
    assert f"({naive['ratio']} times)" in capsys.readouterr().out


def test_gpu_refuses_a_device_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert gpu.main(["--models", "sd15"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_take_turns_gives_each_contestants_median(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0, 1, 1, 5, 5, 8, 8, 9, 9, 11, 11, 19])  # a: 1, 3, 2; b: 4, 1, 8
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(clock))
    order: list[str] = []
    contestants = {name: lambda name=name: order.append(name) for name in "ab"}
    assert speed.take_turns(contestants, 3) == {"a": 2, "b": 4}
    assert order == list("ababab")


def test_a_sweep_trains_each_case_and_a_rerun_adds_what_is_missing(
    world: Path, tmp_path: Path
) -> None:
    out = tmp_path / "sweep.json"

    def sweep_of(*cases: str) -> dict[str, Any]:
        words = [word for case in cases for word in ("--case", case)]
        words += ["--world", str(world), "--out", str(out), "--names", "cat", "--resume"]
        assert sweep.main([*words, *settings()]) == 0
        return read(out)

    alone, strong = "training.preference_weight=0", "training.beta=50 reward.lambda_train=1"
    records = sweep_of(alone)["records"]
    assert [(r["method"], r["case"]) for r in records] == [("last", alone), ("best", alone)]
    assert "last_margin" not in records[0]
    more = sweep_of(alone, strong)
    assert more["records"][:2] == records  # kept, not done again
    last, best = more["records"][2:]
    assert (last["case"], last["method"], best["method"]) == (strong, "last", "best")
    assert last["last_margin"] != 0
    assert best["validation_rewards"][str(best["step"])] == max(best["validation_rewards"].values())
    row = out.with_suffix(".md").read_text(encoding="utf-8").splitlines()[-3]
    assert row.startswith(f"| `{strong}` | {last['label_mean_probability']:.2f} | ")
    assert row.endswith(f" {best['harmonic_judge']:.3f} |")


def test_the_table_of_methods_is_completed_by_a_rerun(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "methods.json"
    words = ["--world", str(world), "--out", str(out), "--names", "cat", "--resume", *settings()]
    assert methods.main([*words, "--methods", "similarity"]) == 0
    first = read(out)["records"]
    assert [record["method"] for record in first] == ["base", "similarity"]
    assert methods.main([*words, "--methods", "similarity", "dpo"]) == 0
    records = read(out)["records"]
    assert records[:2] == first  # kept, not done again
    assert [record["method"] for record in records[2:]] == ["dpo"]
    table = out.with_suffix(".md").read_text(encoding="utf-8")
    assert f"| Diffusion-DPO | {records[2]['dino']:.3f} | " in table
    assert records[2]["trained_parameters"] == first[1]["trained_parameters"] > 0


def test_a_sweep_over_an_unknown_subject_is_one_line(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--case", "training.beta=1", "--names", "cta", "--world", str(world)]
    assert sweep.main([*words, "--out", str(tmp_path / "x.json")]) == 2
    assert capsys.readouterr().err.startswith("error: --names: no subject cta in ")


@pytest.mark.parametrize("command", [learning, speed])
def test_a_missing_world_is_one_line(
    command: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--world", str(tmp_path), "--out", str(tmp_path / "x.json")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "x.json").exists()


def test_settings_that_came_later_are_at_their_defaults_in_older_results() -> None:
    old = {"seed": 3, "training": {"steps": 5}}
    now = {"seed": 0, "training": {"steps": 400, "ema": 0.0}, "photos": {"crop": "centre"}}
    assert learning.completed(old, now) == {
        "seed": 3,
        "training": {"steps": 5, "ema": 0.0},
        "photos": {"crop": "centre"},
    }
    assert learning.completed({"gone": 1}, {}) == {"gone": 1}  # and so is told apart
