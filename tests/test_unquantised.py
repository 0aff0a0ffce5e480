"""A run on a quantised base shows its pictures on the base model's own weights too."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jobs import World, make_world, measured, results
from PIL import Image
from tiny import RESOLUTION
from toys import ToyReward

import rpo
from rpo.errors import UserError
from rpo.events import Progress, Redrawn, Stopped
from rpo.exports.export import export
from rpo.models.backbone import Backbone
from rpo.models.sampling import sample
from rpo.report.report import render_report
from rpo.runs.result import Run, load_run
from rpo.seeds import derive_seed

pytest.importorskip("bitsandbytes")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("nf4"), "sd3")  # its layers are of whole blocks


def events_of(world: World, out: Path, resume: bool = False, **more: Any) -> Any:
    """A LoRA on an nf4 base: two steps, the validation drawn with a guidance of its own."""
    settings = {
        "resolution": RESOLUTION,
        "method": "similarity",
        "training.weights": "lora",
        "validation.keep": "last",
        "validation.guidance_scale": 2.5,
        "quantize": "nf4",
        **more,
    }
    given = [s for s in world.settings(2, 2, **settings) if not s.startswith("reward.")]
    subject = rpo.Subject.from_folder(world.photos, "dog")
    how = {"settings": given, "resume": resume, "reward": ToyReward()}
    return rpo.iterate(subject, model=str(world.model), out=out, **how)


@pytest.fixture(scope="module")
def run(world: World) -> Run:
    list(events_of(world, world.root / "run"))
    return load_run(world.root / "run")


def redrawn(run: Run) -> list[dict[str, Any]]:
    return [record for record in run.folder.records() if record["event"] == "redrawn"]


def pixels(run: Run, files: list[str]) -> np.ndarray:
    """(N, H, W, 3) of 255."""
    return np.stack([np.asarray(Image.open(run.path / file)) for file in files]).astype(float)


def test_they_are_what_the_exported_pipeline_draws(run: Run) -> None:
    (record,) = redrawn(run)
    assert record["prompts"] == ["a [V] dog at sea", "a blue [V] dog"]
    assert all(file.startswith("images/unquantised/") for file in record["images"])
    merged = Backbone.load(export(run, "diffusers"), "cpu", RESOLUTION)
    seeds = [derive_seed(run.config.seed, "validation", index) for index in range(2)]
    told = merged.encode_prompts(record["prompts"])
    latents = sample(merged, merged.denoiser, told, seeds, steps=2, guidance_scale=2.5)
    expected = merged.decode(latents).permute(0, 2, 3, 1).numpy() * 255
    found = pixels(run, record["images"])
    assert abs(found - expected).max() < 1.01
    last = [r for r in run.folder.records() if r["event"] == "validated"][-1]
    assert last["step"] == record["step"] == run.best_step == 2
    assert abs(pixels(run, last["images"]) - expected).max() > 1.01
    # by ToyReward: r = 1 / (λ / brightness + (1 - λ) / 0.5)
    bright, share = found.mean((1, 2, 3)) / 255, run.config.reward.lambda_val
    by_hand = (1 / (share / bright + (1 - share) / 0.5)).mean()
    assert record["reward"] == pytest.approx(by_hand, abs=0.003)  # PNGs are rounded
    assert record["reward"] != last["reward"]


def test_the_report_shows_both(run: Run) -> None:
    page = run.report.read_text(encoding="utf-8")
    part = page.partition("<h2>Without quantisation</h2>")[2].partition("</section>")[0]
    for prompt in redrawn(run)[0]["prompts"]:
        for where in ("on the base in nf4", "on the base&#x27;s own weights"):
            assert f'alt="{prompt}, {where}"' in part
    assert part.count("<img") == 4
    assert f"{redrawn(run)[0]['reward']:.3f} on the base&#x27;s own weights" in part


def test_a_report_of_lost_pictures_is_written_all_the_same(run: Run, tmp_path: Path) -> None:
    path = shutil.copytree(run.path, tmp_path / "run")
    shutil.rmtree(path / "images" / "unquantised")
    page = render_report(load_run(path).folder)
    assert page.partition("<h2>Without quantisation</h2>")[2].partition("</section>")[0].count(
        "<img"
    ) == len(redrawn(run)[0]["prompts"])


def test_a_picture_outside_the_run_is_not_read(run: Run, tmp_path: Path) -> None:
    path = shutil.copytree(run.path, tmp_path / "run")
    metrics = path / "metrics.jsonl"
    text = metrics.read_text(encoding="utf-8")
    metrics.write_text(text.replace("images/unquantised/01", "images/../../01"), encoding="utf-8")
    with pytest.raises(UserError, match="the path of a file below images/"):
        render_report(load_run(path).folder)


def test_a_job_broken_off_meanwhile_goes_on_to_the_same(
    world: World, run: Run, tmp_path: Path
) -> None:
    events, stopped = events_of(world, tmp_path / "cut"), False
    for event in events:
        stopped |= isinstance(event, Stopped)
        if stopped and isinstance(event, Progress):
            break
    events.close()
    cut = load_run(tmp_path / "cut")
    assert stopped
    assert not cut.finished
    assert not redrawn(cut)
    told = list(events_of(world, cut.path, resume=True))
    assert sum(isinstance(event, Redrawn) for event in told) == 1
    assert results(cut.path) == results(run.path)
    assert measured(cut.path) == measured(run.path)


def test_more_steps_draw_them_anew(world: World, tmp_path: Path) -> None:
    list(events_of(world, tmp_path / "run"))
    list(events_of(world, tmp_path / "run", resume=True, **{"training.steps": 4}))
    assert [record["step"] for record in redrawn(load_run(tmp_path / "run"))] == [4]


def test_where_the_base_model_does_not_fit_the_run_ends_well(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA: no more")

    monkeypatch.setattr(Run, "learner_for", exhausted)
    told = list(events_of(world, tmp_path / "run"))
    run = load_run(tmp_path / "run")
    assert type(told[-1]).__name__ == "Finished"
    assert run.finished
    assert not redrawn(run)
    (notice,) = [r["message"] for r in run.folder.records() if r["event"] == "notice"]
    assert "own weights: the memory ran out; on a larger machine rpo generate --unq" in notice
    assert "Without quantisation" not in run.report.read_text(encoding="utf-8")


def test_a_plain_run_draws_nothing_twice(world: World, tmp_path: Path) -> None:
    told = list(events_of(world, tmp_path / "run", quantize="no"))
    assert not [event for event in told if isinstance(event, Redrawn)]
    assert not (tmp_path / "run" / "images" / "unquantised").exists()
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Without quantisation" not in page
