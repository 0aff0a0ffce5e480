"""The speed benchmarks' commands on tiny models: what they measure and write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from benchmarks import gpu, speed

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
        torch.manual_seed(0)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=8))
        model.save_pretrained(folder / "reward")
        side = {"height": tiny.RESOLUTION, "width": tiny.RESOLUTION}
        CLIPImageProcessor(size=side, do_center_crop=False).save_pretrained(folder / "reward")
        tokenizer.save_pretrained(folder / "reward")
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


def read(out: Path) -> dict[str, Any]:
    return json.loads(out.read_text(encoding="utf-8"))


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


def test_a_missing_world_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert speed.main(["--world", str(tmp_path), "--out", str(tmp_path / "x.json")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "x.json").exists()
