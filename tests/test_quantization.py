"""quantization.py: a frozen base in 8 or 4 bits, and adapters that learn on it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from jobs import make_world
from looping import make_config, make_trainer
from PIL import Image
from tiny import RESOLUTION, tiny_backbone
from torch import Tensor, nn

import rpo
from rpo.cli import commands as cli
from rpo.config import Config, load_config
from rpo.errors import UserError
from rpo.exports.export import export
from rpo.models.backbone import Backbone
from rpo.models.quantization import quantize, quantized_layers, refuse_impossible, saved_bytes
from rpo.models.sampling import sample
from rpo.runs.result import quantisation_remark

pytest.importorskip("bitsandbytes")
KINDS = ("sdxl", "sd3", "flux-dev")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(64, 128), nn.Linear(128, 32, bias=False)])
        self.proj_out = nn.Linear(32, 8)


def seeded() -> Block:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Block()


def held_bytes(module: nn.Module) -> int:
    """What the quantised weights take, by the library's own tensors."""
    total = 0
    for layer in module.modules():
        weight = getattr(layer, "weight", None)
        if type(weight).__name__ == "Params4bit":
            total += weight.nbytes + weight.quant_state.absmax.nbytes
        elif type(weight).__name__ == "Int8Params":
            total += weight.nbytes + layer.state.SCB.nbytes
    return total


def test_the_linear_layers_of_the_blocks_are_quantised() -> None:
    model = seeded()
    assert list(quantized_layers(model)) == ["blocks.0", "blocks.1"]
    with pytest.raises(UserError, match="quantize nf4: the denoiser has no linear layers"):
        quantize(nn.Sequential(nn.Conv2d(1, 1, 1)), "nf4", torch.float32)


def test_nf4_keeps_the_largest_of_64_weights_and_16_values_beside_it() -> None:
    from bitsandbytes.functional import dequantize_4bit

    model, plain = seeded(), seeded()
    quantize(model, "nf4", torch.float32)
    model.to("cpu")
    for small, layer in zip(model.blocks, plain.blocks, strict=True):
        back = dequantize_4bit(small.weight.data, small.weight.quant_state)
        blocks, rounded = layer.weight.detach().view(-1, 64), back.view(-1, 64)
        largest = blocks.abs().amax(1, keepdim=True)
        assert len((rounded / largest).mul(50).round().unique()) <= 16
        # the widest gap between two of the 16 values is from -1 to -0.6962 (arXiv 2305.14314, E)
        assert ((rounded - blocks).abs() <= (1 - 0.6962) / 2 * largest + 1e-6).all()
        assert torch.equal(small.bias, layer.bias) if layer.bias is not None else True


def test_int8_rounds_each_row_to_its_largest_weight() -> None:
    model, plain = seeded(), seeded()
    quantize(model, "int8", torch.float32)
    model.to("cpu")
    small, layer = model.blocks[0], plain.blocks[0]
    largest = layer.weight.detach().abs().amax(1, keepdim=True)
    by_hand = (layer.weight.detach() / largest * 127).round()
    assert (small.weight.data.float() - by_hand).abs().max() <= 1  # ties go either way
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(1))
    assert (small(x) - layer(x)).norm() < 0.02 * layer(x).norm()


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_the_saving_is_what_the_tensors_take(kind: str) -> None:
    model = seeded()
    saved = saved_bytes(model, kind, 4)
    plain = sum(4 * layer.weight.numel() for layer in quantized_layers(model).values())
    quantize(model, kind, torch.float32)
    model.to("cpu")
    if kind == "int8":  # its scales are made with the first product
        model.blocks[1](model.blocks[0](torch.ones(1, 64)))
    assert plain - saved == held_bytes(model)
    assert saved_bytes(model, "no", 4) == 0


def answer(backbone: Backbone, denoiser: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, *backbone.latent_shape, generator=generator)
    told = backbone.encode_prompts(["a dog", "a cat"])
    with torch.no_grad():
        return backbone.predict(denoiser, latents, torch.tensor([10, 600]), told)


@pytest.mark.parametrize("bits", ["int8", "nf4"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_learns_on_a_quantised_base(kind: str, bits: str) -> None:
    plain = tiny_backbone(kind)
    backbone = tiny_backbone(kind, quantize=bits)
    expected = answer(plain, plain.denoiser)
    base = answer(backbone, backbone.denoiser)
    assert 0 < (base - expected).norm() < 0.3 * expected.norm()
    trainer = make_trainer(backbone, make_config(weights="lora", steps=2))
    assert torch.equal(answer(backbone, trainer.denoiser), base)  # untrained: the reference
    list(trainer.run())
    assert {p.dtype for p in trainer.parameters.values()} == {torch.float32}
    assert torch.equal(answer(backbone, backbone.denoiser), base)
    assert not torch.equal(answer(backbone, trainer.denoiser), base)


def test_the_whole_job_and_a_picture_from_its_run(tmp_path: Path) -> None:
    world = make_world(tmp_path, "sd3")
    more = {"resolution": RESOLUTION, "validation.keep": "last", "training.weights": "lora"}
    settings = world.settings(2, 2, quantize="nf4", offload="true", **more)
    subject = rpo.Subject.from_folder(world.photos, noun="dog")
    run = rpo.train(subject, str(world.model), out=tmp_path / "run", settings=settings)
    kept = type(run._learner.denoiser.transformer_blocks[0].attn.to_q.base_layer.weight)
    assert kept.__name__ == "Params4bit"
    assert run.generate("a [V] dog", seed=5, steps=2)[0].size == (RESOLUTION, RESOLUTION)
    said = "It learned on the base model held in nf4"
    assert said in run.report.read_text(encoding="utf-8")
    for to in ("lora", "diffusers"):
        assert said in (export(run, to) / "README.md").read_text(encoding="utf-8")

    # What the export draws, `rpo generate --unquantised` draws, and what the run did, it does not.
    command = ["generate", str(run.path), "a [V] dog", "--seed", "5", "--steps", "2", "--out"]
    pictures = {}
    for name, more in (("here", []), ("there", ["--unquantised"])):
        assert cli.run([*command, str(tmp_path / name), *more]) == 0
        (file,) = (tmp_path / name).glob("*.png")
        pictures[name] = Image.open(file)
    merged = Backbone.load(run.path / "export" / "diffusers", "cpu", RESOLUTION)
    latents = sample(
        merged,
        merged.denoiser,
        merged.encode_prompts(["a [V] dog"]),
        [5],
        steps=2,
        guidance_scale=run.config.sampling.guidance_scale,
    )
    expected = merged.decode(latents)[0].permute(1, 2, 0).numpy() * 255
    apart = {name: abs(np.asarray(p) - expected).max() for name, p in pictures.items()}
    assert apart["there"] < 1.01 < apart["here"]
    assert pictures["there"].info["quantize"] == "no"
    assert "quantize" not in pictures["here"].info


def test_nothing_is_said_of_a_plain_base() -> None:
    assert quantisation_remark(Config()) == ""


def test_what_cannot_work_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lora = load_config("lora", noun="dog", overrides=["quantize=nf4"])
    refuse_impossible(lora)
    refuse_impossible(Config())
    full = dataclasses.replace(lora, training=Config().training)
    with pytest.raises(UserError, match="quantised weights cannot learn.*training.weights=lora"):
        refuse_impossible(full)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="bitsandbytes', which is not installed; pip install"):
        refuse_impossible(lora)
