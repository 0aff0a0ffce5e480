"""A token through the whole job: taught, resumed, drawn with, reported and exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from jobs import World, contents, make_world, measured, results
from PIL import ImageChops
from tiny import RESOLUTION

import rpo
from rpo.data.subject import Subject
from rpo.errors import UserError
from rpo.events import StepDone, Validated
from rpo.exports.token_files import find_token


def train(world: World, out: Path, **more: Any) -> rpo.Run:
    settings = world.settings(**{"textual_inversion.vectors": 2, **more})
    return rpo.train(
        Subject.from_folder(world.photos, "dog"),
        str(world.model),
        out=out,
        method="textual_inversion",
        settings=settings,
    )


@pytest.fixture(scope="module")
def run(world: World) -> rpo.Run:
    # the last step, so that there is something learned
    return train(world, world.root / "done", **{"validation.keep": "last"})


def test_the_job_teaches_a_token_and_draws_with_it(world: World, run: rpo.Run) -> None:
    assert run.config.training.weights == "token"
    assert run.best_step == 4
    assert {*contents(run.best)} == {"learned_embeds.safetensors", "rpo.json"}
    picture = run.generate("a [V] dog at sea", seed=3)[0]
    pipeline = DiffusionPipeline.from_pretrained(world.model)
    pipeline.load_textual_inversion(run.best)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    theirs = pipeline(
        "a <v> dog at sea",
        num_inference_steps=run.config.sampling.steps,
        guidance_scale=run.config.sampling.guidance_scale,
        height=RESOLUTION,
        width=RESOLUTION,
        generator=torch.Generator().manual_seed(3),
    ).images[0]
    assert difference(picture, theirs) <= 1
    untaught = DiffusionPipeline.from_pretrained(world.model)
    assert find_token(run.best) == "<v>"
    assert "<v>" not in untaught.tokenizer.get_vocab()


def difference(one: Any, other: Any) -> int:
    """The largest of any pixel's, out of 255."""
    return max(high for _, high in ImageChops.difference(one, other).getextrema())


def test_the_report_says_how_plain_diffusers_draws_with_it(run: rpo.Run) -> None:
    report = run.report.read_text(encoding="utf-8")
    assert "load_textual_inversion" in report
    assert "load_lora_weights" not in report
    assert "a &lt;v&gt; dog on the Moon" in report  # in diffusers
    assert "a [V] dog on the Moon" in report  # here


def test_a_run_that_was_broken_off_goes_on_as_if_it_had_not(world: World, tmp_path: Path) -> None:
    whole = train(world, tmp_path / "whole")
    for name, kind, step in (("early", StepDone, 1), ("late", Validated, 2)):
        out = tmp_path / name
        events = rpo.iterate(
            Subject.from_folder(world.photos, "dog"),
            str(world.model),
            out=out,
            method="textual_inversion",
            settings=world.settings(**{"textual_inversion.vectors": 2}),
        )
        for event in events:
            if isinstance(event, kind) and event.step == step:
                break
        events.close()
        rpo.train(Subject.from_folder(world.photos, "dog"), out=out, resume=True)
        assert results(out) == results(whole.path), name
        numbers = [
            [{k: v for k, v in r.items() if k not in ("number", "run", "time")} for r in records]
            for records in (measured(out), measured(whole.path))
        ]
        assert numbers[0] == numbers[1], name


def test_a_method_and_a_learner_that_do_not_go_together_are_refused(world: World) -> None:
    with pytest.raises(
        UserError, match="weights lora cannot be taught by method textual_inversion"
    ):
        train(world, world.root / "not", **{"training.weights": "lora"})
    with pytest.raises(UserError, match="weights token cannot be taught by method similarity"):
        rpo.train(
            Subject.from_folder(world.photos, "dog"),
            str(world.model),
            out=world.root / "not",
            method="similarity",
            settings=world.settings(**{"training.weights": "token"}),
        )
    assert not (world.root / "not").exists()


def test_another_family_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    world = make_world(tmp_path, "flux-dev")
    with pytest.raises(UserError, match="use a Stable Diffusion 1.x, 2.x or XL"):
        train(world, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_offloaded_and_averaged_it_runs_too(world: World, tmp_path: Path) -> None:
    plain = train(world, tmp_path / "plain")
    away = train(world, tmp_path / "away", offload=True)
    assert (
        contents(away.best)["learned_embeds.safetensors"]
        == (contents(plain.best)["learned_embeds.safetensors"])
    )
    assert [v.reward for v in away.history] == [v.reward for v in plain.history]
    one, other = (r.generate("a [V] dog at sea")[0].tobytes() for r in (plain, away))
    assert one == other
    train(world, tmp_path / "averaged", **{"training.ema": 0.5, "training.checkpointing": True})


# --- exports ------------------------------------------------------------------------------


def test_the_whole_pipeline_is_exported_with_the_token_in_it(run: rpo.Run, tmp_path: Path) -> None:
    folder = rpo.export(run, "diffusers", tmp_path / "export")
    pipeline = DiffusionPipeline.from_pretrained(folder)
    learner = run._learner
    with torch.no_grad():
        ours = learner.encode(["a [V] dog at sea"]).tokens
        theirs, _ = pipeline.encode_prompt("a <v> dog at sea", "cpu", 1, False)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "Name the subject as `<v> dog`: `a photo of <v> dog`." in card
    assert "Textual inversion ([arXiv 2208.01618](https://arxiv.org/abs/2208.01618))" in card
    assert "[V]" not in card
    assert "Reward Preference" not in card


@pytest.mark.parametrize("to", ["lora", "kohya", "comfyui"])
def test_adapter_formats_are_refused_in_a_line(run: rpo.Run, to: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"--to {to}: .* taught a new token") as error:
        rpo.export(run, to, tmp_path / "export")
    assert "\n" not in str(error.value)
    assert "learned_embeds.safetensors among the embeddings of A1111 or ComfyUI" in str(error.value)
    assert not (tmp_path / "export").exists()


def test_a_damaged_token_is_named_before_anything_is_exported(world: World, tmp_path: Path) -> None:
    run = train(world, tmp_path / "run")
    file = run.best / "learned_embeds.safetensors"
    file.write_bytes(b"nothing")
    for use in (lambda: rpo.export(run, "diffusers", tmp_path / "export"),
                lambda: run.generate("a [V] dog")):  # fmt: skip
        with pytest.raises(UserError, match=r"learned_embeds.safetensors: cannot be read"):
            use()
    assert not (tmp_path / "export").exists()
