"""Diffusion-DPO on RPO's pairs, and a job that was written down."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from jobs import World, break_off, measured, results
from looping import drawn, make_config, make_data, make_trainer
from tiny import tiny_backbone

import rpo
from rpo.api import run_job
from rpo.config import METHODS, Config
from rpo.errors import UserError
from rpo.events import StepDone
from rpo.methods.dpo import DPO
from rpo.runs.spec import JobSpec


def test_the_loss_is_that_of_the_pairs_alone() -> None:
    """-log σ(±β (Δ_ref - Δ_gen)) by plain calls of the two networks, in float64."""
    import dataclasses

    backbone, beta = tiny_backbone("v_prediction"), 3.0
    config = dataclasses.replace(make_config(beta=beta), method="dpo")
    trainer, data = make_trainer(backbone, config), make_data(backbone)
    assert isinstance(trainer.method, DPO)
    with torch.no_grad():
        for parameter in trainer.learner.parameters().values():
            parameter.add_(0.01)
    batch = drawn(trainer, 0)
    terms = trainer.method.loss(trainer.learner, trainer.data, batch)

    def error(network, latents, tokens, times, noise):
        noisy = backbone.process.add_noise(latents, noise, times)
        truth = backbone.process.target(latents, noise, times)
        said = network(noisy, times, tokens).sample
        return ((truth - said).double() ** 2).mean(dim=(1, 2, 3))

    photos = (
        data.reference_latents[batch.photos],
        data.reference_conditions.tokens.repeat(2, 1, 1),
        batch.timesteps[0],
        batch.noise[0],
    )
    pictures = (
        data.generated_latents[batch.generated],
        data.generated_conditions.tokens[batch.generated],
        batch.timesteps[1],
        batch.noise[1],
    )
    with torch.no_grad():
        better = [
            error(backbone.denoiser, *half) - error(trainer.denoiser, *half)
            for half in (photos, pictures)
        ]
    wins = torch.sigmoid(beta * (better[0] - better[1]))
    y = batch.labels.double()
    expected = -(y * wins.log() + (1 - y) * (1 - wins).log()).mean()
    assert terms.loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert set(terms.figures) == {"preference", "margin", "label_mean"}
    assert METHODS["dpo"].passes(Config(method="dpo")).base == 2


def test_it_runs_and_resumes_exactly(world: World, tmp_path: Path) -> None:
    subject = rpo.Subject.from_folder(world.photos, noun="dog")
    settings = world.settings(method="dpo")
    whole = rpo.train(subject, str(world.model), out=tmp_path / "whole", settings=settings)
    break_off(world, tmp_path / "parts", StepDone, 3, method="dpo")
    parts = rpo.train(subject, out=tmp_path / "parts", resume=True)
    assert results(parts.path) == results(whole.path)
    assert measured(parts.path) == measured(whole.path)
    steps = [record for record in whole.folder.records() if record["event"] == "step"]
    assert all("similarity" not in record for record in steps)


def test_a_job_that_was_written_down_is_the_same_job(world: World, tmp_path: Path) -> None:
    subject = rpo.Subject.from_folder(world.photos, noun="dog")
    direct = rpo.train(
        subject, str(world.model), out=tmp_path / "direct", settings=world.settings(method="dpo")
    )
    spec = JobSpec(world.photos, direct.config, tmp_path / "written")
    again = JobSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec
    list(run_job(again))
    assert results(again.path) == results(direct.path)
    with pytest.raises(UserError, match="not a job"):
        JobSpec.from_dict({"path": "x"})
    memory = JobSpec(None, direct.config, tmp_path / "memory")
    with pytest.raises(UserError, match="another process's memory"):
        list(run_job(memory))
