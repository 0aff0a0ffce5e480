"""The registry of model families: light facts, and a family given from outside."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from jobs import make_world
from tiny import RESOLUTION, tiny_pipeline
from torch import Tensor, nn

import rpo
from rpo.config.presets import Preset
from rpo.models.conditions import Conditions
from rpo.models.families import FAMILIES, Family
from rpo.models.families.family import FLOW_SCHEDULERS, clip_limit, rectified_flow, token_ids
from rpo.models.loading import pipeline_class
from rpo.models.noise import NoiseProcess
from rpo.models.resolve import base_preset, known_presets
from rpo.quiet import quiet


def test_facts_are_read_without_pytorch() -> None:
    code = (
        "import sys; from rpo.models.resolve import known_presets; known_presets();"
        "from rpo.exports.lora_names import place_of; place_of('FluxPipeline',"
        "'transformer_blocks.0.attn.to_q');"
        "print([name for name in ('torch', 'diffusers', 'numpy') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"


@pytest.mark.parametrize("name", FAMILIES)
def test_families_are_named_after_pipelines_of_diffusers(name: str) -> None:
    assert pipeline_class(name).__name__ == name


def test_every_preset_has_one_home() -> None:
    names = [name for family in FAMILIES.values() for name in family.presets]
    assert len(names) == len(set(names))
    assert set(names) < set(known_presets().settings)


# --- a family given from outside --------------------------------------------------------------


class ToyPipeline(DiffusionPipeline):
    """A pipeline that diffusers does not have."""

    def __init__(
        self, net: Any, vae: Any, text_encoder: Any, tokenizer: Any, scheduler: Any
    ) -> None:
        super().__init__()
        self.register_modules(
            net=net, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, scheduler=scheduler
        )


class Toy(Family):
    """A U-Net that flows and reads only as many words as there are."""

    pipeline_type = ToyPipeline
    denoiser_name = "net"
    text_encoders = ("text_encoder",)
    unused = ()
    schedulers = FLOW_SCHEDULERS
    latent_scale = 0.7
    presets: ClassVar = {"toy": Preset("few steps", {"sampling": {"steps": 3}})}

    def process(self, image_tokens: int) -> NoiseProcess:
        return rectified_flow(self.pipeline.scheduler, image_tokens)

    def encode(self, texts: Sequence[str]) -> Conditions:
        tokenizer, encoder = self.pipeline.tokenizer, self.pipeline.text_encoder
        ids = token_ids(tokenizer, texts, clip_limit(tokenizer, encoder))
        lengths = torch.tensor([len(tokenizer(text).input_ids) for text in texts])
        return Conditions(encoder(ids)[0], lengths=lengths)

    def predict(
        self,
        denoiser: nn.Module,
        noisy: Tensor,
        timesteps: Tensor,
        conditions: Conditions,
        guidance: float,
    ) -> Tensor:
        assert conditions.lengths is not None
        own = torch.arange(conditions.tokens.shape[1]) < conditions.lengths[:, None]
        return denoiser(
            noisy,
            timesteps,
            encoder_hidden_states=conditions.tokens,
            encoder_attention_mask=own,
            return_dict=False,
        )[0]


def test_a_family_given_from_outside_runs_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(tmp_path)
    parts, folder = tiny_pipeline().components, str(tmp_path / "toy")
    kept = {name: parts[name] for name in ("vae", "text_encoder", "tokenizer")}
    with quiet():
        toy = ToyPipeline(
            net=parts["unet"], scheduler=FlowMatchEulerDiscreteScheduler(shift=2.0), **kept
        )
        toy.save_pretrained(folder)
    monkeypatch.setitem(FAMILIES, "ToyPipeline", Toy)
    assert base_preset(folder) == "toy"

    settings = [s for s in world.settings(2, 2) if not s.startswith("sampling.steps")]
    subject = rpo.Subject.from_folder(world.photos, noun="dog")
    run = rpo.train(
        subject, folder, out=tmp_path / "run", settings=[*settings, "validation.keep=last"]
    )
    assert run.best_step == 2
    assert run.config.sampling.steps == 3  # the family's preset
    with quiet():
        trained = ToyPipeline.from_pretrained(run.best).net.state_dict()
    base = parts["unet"].state_dict()
    assert sum(not torch.equal(base[name], trained[name]) for name in base) > len(base) / 2
    assert run.generate("a [V] dog", seed=5, steps=2)[0].size == (RESOLUTION, RESOLUTION)
