"""cross_attention.py and custom_diffusion.py: a token, and keys and values of cross-attention."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from jobs import World, contents, measured, results
from PIL import Image, ImageChops
from safetensors.torch import load_file
from teaching import make_config, make_trainer
from tiny import LATENT_SHAPE, RESOLUTION, tiny_backbone
from torch import Tensor

import rpo
from rpo.config import METHODS, Config, load_config
from rpo.data.subject import Subject
from rpo.errors import UserError
from rpo.events import StepDone, Validated
from rpo.exports.token_files import ATTENTION_FILE, insert_token, loading_lines
from rpo.learners.cross_attention import CrossAttention, projections
from rpo.methods.custom_diffusion import CustomDiffusion
from rpo.methods.dreambooth import PhotosAndClass
from rpo.models.conditions import Conditions

FAMILIES = ["epsilon", "v_prediction", "sdxl"]


def config(**training: Any) -> Config:
    values = {"training.weights": "cross-attention", **training}
    overrides = [f"{key}={value}" for key, value in values.items()]
    return load_config("paper", noun="dog", method="custom_diffusion", overrides=overrides)


def disturb(learner: CrossAttention) -> None:
    """Puts all that learns somewhere of its own."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in learner.parameters().values():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


def encoded(pipeline: Any, text: str) -> Conditions:
    """What diffusers' own pipeline gives its denoiser."""
    with torch.no_grad():
        if hasattr(pipeline, "tokenizer_2"):
            tokens, _, pooled, _ = pipeline.encode_prompt(text, None, "cpu", 1, False)
            return Conditions(tokens, pooled)
        return Conditions(pipeline.encode_prompt(text, "cpu", 1, False)[0])


def answer(backbone: Any, denoiser: Any, conditions: Conditions) -> Tensor:
    noisy = torch.randn(1, *LATENT_SHAPE, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return backbone.predict(denoiser, noisy, torch.tensor([400]), conditions)


# --- what learns --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FAMILIES)
def test_keys_values_and_the_token_learn_and_the_base_is_untouched(kind: str) -> None:
    backbone = tiny_backbone(kind)
    base = backbone.denoiser
    before = {name: value.clone() for name, value in base.state_dict().items()}
    learner = CrossAttention(backbone, config())
    names = {
        name
        for name, _ in base.named_parameters()
        if "attn2" in name and (".to_k." in name or ".to_v." in name)
    }
    assert len(names) == 8  # four blocks with cross-attention
    assert {*learner.parameters()} == names | {
        f"{name}.token" for name in backbone.family.text_encoders
    }
    prompt = ["a dog at sea"]
    assert torch.equal(
        answer(backbone, learner.denoiser, learner.encode(prompt)),
        answer(backbone, base, backbone.encode_prompts(prompt)),
    )
    disturb(learner)
    mine = dict(learner.denoiser.named_parameters())
    for name, value in base.named_parameters():
        assert torch.equal(value, before[name])
        assert not value.requires_grad
        assert (mine[name] is value) == (name not in names)


def test_what_learns_is_float32_on_a_base_in_half_precision() -> None:
    backbone = tiny_backbone(precision="bf16")
    learner = CrossAttention(backbone, config())
    assert {p.dtype for p in learner.parameters().values()} == {torch.float32}
    frozen = {p.dtype for p in learner.denoiser.parameters() if not p.requires_grad}
    assert frozen == {torch.bfloat16}
    tokens = learner.encode(["a [V] dog"])
    backbone.predict(learner.denoiser, torch.randn(1, *LATENT_SHAPE), torch.tensor([400]), tokens)


@pytest.mark.parametrize("kind", ["sd3", "flux-dev"])
def test_families_without_cross_attention_are_refused_in_a_line(kind: str) -> None:
    with pytest.raises(UserError, match="training.weights cross-attention cannot be taught") as e:
        CrossAttention.refuse(tiny_backbone(kind), config())
    assert "\n" not in str(e.value)


def test_a_u_net_without_plain_projections_is_refused() -> None:
    backbone = tiny_backbone()
    CrossAttention.refuse(backbone, config())
    for module in backbone.denoiser.modules():
        if isinstance(module, torch.nn.Linear) and module.bias is None:
            module.bias = torch.nn.Parameter(torch.zeros(module.out_features))
    with pytest.raises(UserError, match="has no plain cross-attention"):
        CrossAttention.refuse(backbone, config())


def test_quantised_projections_cannot_learn() -> None:
    from rpo.models.quantization import refuse_impossible

    with pytest.raises(UserError, match="quantised weights cannot learn"):
        refuse_impossible(config(quantize="int8"))


# --- the loss -----------------------------------------------------------------------------


def test_loss_and_gradient_are_those_of_plain_diffusers(tmp_path: Path) -> None:
    """Autograd through a stock pipeline that holds what was learned; photos and class apart."""
    settings = make_config(
        "custom_diffusion",
        training={"weights": "cross-attention"},
        dreambooth=rpo.config.DreamBoothConfig(class_images=3, prior_weight=0.5),
    )
    backbone = tiny_backbone()
    trainer = make_trainer(backbone, settings)
    learner, method, data = trainer.learner, trainer.method, trainer.data
    assert isinstance(learner, CrossAttention)
    assert isinstance(method, CustomDiffusion)
    assert isinstance(data, PhotosAndClass)
    disturb(learner)
    batch = method.batch(data, 4)
    terms = method.loss(learner, data, batch)
    terms.loss.backward()

    learner.snapshot()(tmp_path)
    stock = tiny_backbone().family.pipeline
    insert_token(stock, tmp_path)
    rows = stock.text_encoder.get_input_embeddings().weight.requires_grad_(True)
    weights = {name: p.requires_grad_(True) for name, p in projections(stock.unet).items()}

    def error(text: str, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        tokens, _ = stock.encode_prompt(text, "cpu", 1, False)
        a = stock.scheduler.alphas_cumprod[t]
        noisy = a.sqrt() * clean + (1 - a).sqrt() * noise
        said = stock.unet(noisy[None], t, encoder_hidden_states=tokens).sample[0]
        return (said - noise).pow(2).mean()

    photos = [
        error("a photo of <v> dog", data.reference_latents[i], batch.noise[0][k],
              batch.timesteps[0][k])
        for k, i in enumerate(batch.photos)
    ]  # fmt: skip
    prior = [
        error("a photo of dog", data.class_latents[i], batch.class_noise[k],
              batch.class_timesteps[k])
        for k, i in enumerate(batch.pictures)
    ]  # fmt: skip
    loss = torch.stack(photos).mean() + 0.5 * torch.stack(prior).mean()
    loss.backward()
    assert terms.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    assert terms.figures["prior"].item() == pytest.approx(torch.stack(prior).mean().item(), 1e-5)
    ours = learner.parameters()
    for name, weight in weights.items():
        assert_gradients_agree(ours[name].grad, weight.grad)
    assert rows.grad is not None
    assert_gradients_agree(ours["text_encoder.token"].grad, rows.grad[-1:])


def assert_gradients_agree(ours: Tensor | None, theirs: Tensor | None) -> None:
    assert ours is not None
    assert theirs is not None
    assert theirs.abs().max() > 1e-6
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-7)


def test_the_cost_counts_the_class_and_the_text() -> None:
    passes = METHODS["custom_diffusion"].passes(config())
    counted = (passes.learning, passes.texts, passes.base, passes.class_pictures)
    assert counted == (2, 1, 0, 200)  # 200 as in the paper


# --- files --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FAMILIES)
def test_plain_diffusers_reads_both_files(kind: str, tmp_path: Path) -> None:
    backbone = tiny_backbone(kind)
    learner = CrossAttention(backbone, config())
    disturb(learner)
    learner.snapshot()(tmp_path)
    expected = answer(backbone, learner.denoiser, learner.encode(["a [V] dog at sea"]))

    other = tiny_backbone(kind)
    pipeline = other.family.pipeline
    untaught = answer(other, pipeline.unet, other.encode_prompts(["a dog at sea"]))
    exec("\n".join(loading_lines(tmp_path, str(tmp_path))), {"pipeline": pipeline})
    assert {type(p).__name__ for p in pipeline.unet.attn_processors.values()} == {
        "CustomDiffusionAttnProcessor"
    }
    theirs = answer(other, pipeline.unet, encoded(pipeline, "a <v> dog at sea"))
    torch.testing.assert_close(expected, theirs, rtol=1e-4, atol=1e-5)
    assert (theirs - untaught).abs().max() > 1e-2

    # diffusers writes these very names and numbers; the empty ones are where it writes nothing.
    pipeline.unet.save_attn_procs(tmp_path / "again")
    saved, again = (load_file(f / ATTENTION_FILE) for f in (tmp_path, tmp_path / "again"))
    filled = {name: tensor for name, tensor in saved.items() if tensor.numel()}
    assert filled.keys() == again.keys()
    assert all(torch.equal(filled[name], again[name]) for name in again)
    assert {*saved} - {*filled} == {n for n in pipeline.unet.attn_processors if "attn1" in n}

    mine = tiny_backbone(kind)
    back = CrossAttention(mine, learner.config, tmp_path)
    assert torch.equal(answer(mine, back.denoiser, back.encode(["a [V] dog at sea"])), expected)
    assert not any(p.requires_grad for p in back.denoiser.parameters())


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    CrossAttention(tiny_backbone(), config()).snapshot()(tmp_path)
    (tmp_path / ATTENTION_FILE).write_bytes(b"nothing")
    with pytest.raises(UserError, match=f"{ATTENTION_FILE}: cannot be read"):
        CrossAttention(tiny_backbone(), config(), tmp_path)


# --- the whole job ------------------------------------------------------------------------


SETTINGS = {"dreambooth.class_images": 3, "training.accumulate": 1}


def train(world: World, out: Path, **more: Any) -> rpo.Run:
    return rpo.train(
        Subject.from_folder(world.photos, "dog"),
        str(world.model),
        out=out,
        method="custom_diffusion",
        settings=world.settings(**{**SETTINGS, **more}),
    )


@pytest.fixture(scope="module")
def run(world: World) -> rpo.Run:
    return train(world, world.root / "done", **{"validation.keep": "last"})


def drawn(pipeline: Any, run: rpo.Run, prompt: str) -> Image.Image:
    """A picture by diffusers alone, as `Run.generate` draws it from seed 3."""
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    return pipeline(
        prompt,
        num_inference_steps=run.config.sampling.steps,
        guidance_scale=run.config.sampling.guidance_scale,
        height=RESOLUTION,
        width=RESOLUTION,
        generator=torch.Generator().manual_seed(3),
    ).images[0]


def difference(one: Image.Image, other: Image.Image) -> int:
    """The largest of any pixel's, out of 255."""
    return max(high for _, high in ImageChops.difference(one, other).getextrema())


def test_the_job_runs_and_plain_diffusers_draws_the_same(world: World, run: rpo.Run) -> None:
    assert run.config.training.weights == "cross-attention"
    assert run.best_step == 4
    assert {*contents(run.best)} == {"learned_embeds.safetensors", ATTENTION_FILE, "rpo.json"}
    picture = run.generate("a [V] dog at sea", seed=3)[0]
    pipeline = DiffusionPipeline.from_pretrained(world.model)
    untaught = drawn(pipeline, run, "a dog at sea")
    exec("\n".join(loading_lines(run.best, str(run.best))), {"pipeline": pipeline})
    assert difference(picture, drawn(pipeline, run, "a <v> dog at sea")) <= 1
    assert difference(picture, untaught) > 5
    assert "load_attn_procs" in run.report.read_text(encoding="utf-8")


def test_the_exported_pipeline_draws_the_same(run: rpo.Run, tmp_path: Path) -> None:
    folder = rpo.export(run, "diffusers", tmp_path / "export")
    pipeline = DiffusionPipeline.from_pretrained(folder)
    picture = run.generate("a [V] dog at sea", seed=3)[0]
    assert difference(picture, drawn(pipeline, run, "a <v> dog at sea")) <= 1
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "Name the subject as `<v> dog`: `a photo of <v> dog`." in card
    assert "Custom Diffusion ([arXiv 2212.04488]" in card
    for to in ("lora", "kohya", "comfyui"):
        with pytest.raises(UserError, match=f"--to {to}: .* taught a new token.*--to diffusers$"):
            rpo.export(run, to, tmp_path / to)


def test_a_run_that_was_broken_off_goes_on_as_if_it_had_not(world: World, tmp_path: Path) -> None:
    whole = train(world, tmp_path / "whole")
    photos = Subject.from_folder(world.photos, "dog")
    for name, kind, step in (("early", StepDone, 1), ("late", Validated, 2)):
        out = tmp_path / name
        events = rpo.iterate(
            photos,
            str(world.model),
            out=out,
            method="custom_diffusion",
            settings=world.settings(**SETTINGS),
        )
        for event in events:
            if isinstance(event, kind) and event.step == step:
                break
        events.close()
        rpo.train(photos, out=out, resume=True)
        assert results(out) == results(whole.path), name
        assert timeless(measured(out)) == timeless(measured(whole.path)), name


def timeless(records: list[dict[str, Any]]) -> list[Mapping[str, Any]]:
    """Without what differs from one session to another."""
    return [{k: v for k, v in r.items() if k not in ("number", "run", "time")} for r in records]


def test_it_runs_offloaded_averaged_and_with_checkpointing(world: World, tmp_path: Path) -> None:
    plain = train(world, tmp_path / "plain")
    away = train(world, tmp_path / "away", offload=True)
    assert [v.reward for v in away.history] == [v.reward for v in plain.history]
    more = {"training.ema": 0.5, "training.checkpointing": True, "training.accumulate": 2}
    train(world, tmp_path / "averaged", **more)
