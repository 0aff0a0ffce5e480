"""LoRA and DoRA: their arithmetic by hand, the base as reference, and their life in a run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from jobs import make_world
from looping import first_step, make_config, make_trainer
from safetensors.torch import load_file
from tiny import LATENT_SHAPE, RESOLUTION, tiny_backbone
from torch import Tensor, nn

import rpo
from rpo.config import Config, LoraConfig
from rpo.errors import UserError
from rpo.events import Notice, StepDone
from rpo.exports.export import export
from rpo.exports.lora_names import ADAPTER_FILE
from rpo.learners.lora import NAME, adapted, is_adapted
from rpo.models.backbone import Backbone
from rpo.quiet import quiet

KINDS = ["epsilon", "v_prediction", "sdxl", "sd3", "flux-dev", "z-image"]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return tiny_backbone()


def with_adapter(backbone: Backbone, dora: bool = False, seed: int = 0, **settings: Any) -> Any:
    return adapted(backbone.denoiser, LoraConfig(**settings), dora=dora, seed=seed)


def layer(denoiser: nn.Module, end: str = "to_q") -> Any:
    """The first adapted layer of that name."""
    return next(m for n, m in denoiser.named_modules() if n.endswith(end) and hasattr(m, "lora_A"))


def stir(denoiser: nn.Module) -> None:
    """Gives the adapter's second half, which starts at zero, something to say."""
    generator = torch.Generator().manual_seed(3)
    for name, parameter in denoiser.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)


def answer(backbone: Backbone, denoiser: nn.Module) -> Tensor:
    latents = torch.randn(2, *LATENT_SHAPE, generator=torch.Generator().manual_seed(1))
    conditions = backbone.encode_prompts(["a [V] dog", "a dog on the Moon"])
    with torch.no_grad():
        return backbone.predict(denoiser, latents, torch.tensor([20, 700]), conditions)


# --- arithmetic -------------------------------------------------------------------------------


def test_lora_adds_the_scaled_product_of_its_two_matrices(backbone: Backbone) -> None:
    denoiser = with_adapter(backbone, rank=2, alpha=6.0)
    stir(denoiser)
    adapted_layer = layer(denoiser)
    x = torch.randn(5, adapted_layer.in_features, generator=torch.Generator().manual_seed(2))
    a, b = adapted_layer.lora_A[NAME].weight, adapted_layer.lora_B[NAME].weight
    assert (a.shape, b.shape) == ((2, x.shape[1]), (adapted_layer.out_features, 2))
    by_hand = x @ adapted_layer.base_layer.weight.T + 6 / 2 * (x @ a.T @ b.T)
    torch.testing.assert_close(adapted_layer(x), by_hand)


def test_dora_scales_each_row_to_its_own_magnitude(backbone: Backbone) -> None:
    denoiser = with_adapter(backbone, dora=True, rank=2, alpha=2.0)
    stir(denoiser)
    adapted_layer = layer(denoiser)
    magnitude = adapted_layer.lora_magnitude_vector[NAME].weight
    base = adapted_layer.base_layer.weight
    torch.testing.assert_close(magnitude.data, base.norm(dim=1))
    magnitude.data = magnitude.data * 1.5
    x = torch.randn(5, adapted_layer.in_features, generator=torch.Generator().manual_seed(2))
    moved = base + adapted_layer.lora_B[NAME].weight @ adapted_layer.lora_A[NAME].weight
    by_hand = x @ (magnitude[:, None] * moved / moved.norm(dim=1, keepdim=True)).T
    torch.testing.assert_close(adapted_layer(x), by_hand)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dora", [False, True])
def test_only_the_adapter_learns_and_it_has_the_size_of_its_ranks(kind: str, dora: bool) -> None:
    backbone = tiny_backbone(kind, precision="bf16")
    denoiser = with_adapter(backbone, dora, rank=3)
    expected = 0
    for name, module in backbone.denoiser.named_modules():
        ends = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj")
        if name.endswith((*ends, "to_add_out")) and isinstance(module, nn.Linear):
            expected += 3 * (module.in_features + module.out_features)
            expected += module.out_features if dora else 0
    learns = [p for p in denoiser.parameters() if p.requires_grad]
    assert sum(p.numel() for p in learns) == expected > 0
    assert {p.dtype for p in learns} == {torch.float32}
    assert {p.dtype for p in backbone.denoiser.parameters()} == {torch.bfloat16}


def test_the_base_is_shared_and_stays_as_it_is(backbone: Backbone) -> None:
    before = {name: p.clone() for name, p in backbone.denoiser.named_parameters()}
    trainer = make_trainer(backbone, make_config(weights="lora"))
    own = {p.data_ptr() for p in backbone.denoiser.parameters()}
    shared = [p for p in trainer.denoiser.parameters() if not p.requires_grad]
    assert {p.data_ptr() for p in shared} == own
    list(trainer.run(until=3))
    assert not is_adapted(backbone.denoiser)
    for name, parameter in backbone.denoiser.named_parameters():
        assert torch.equal(parameter, before[name])


# --- training ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["lora", "dora"])
def test_switched_off_it_is_the_base_exactly(kind: str, method: str) -> None:
    backbone = tiny_backbone(kind)
    denoiser: Any = with_adapter(backbone, dora=method == "dora")
    base = answer(backbone, backbone.denoiser)
    if method == "lora":  # untrained; DoRA divides by a norm and multiplies by it again
        assert torch.equal(answer(backbone, denoiser), base)
    stir(denoiser)
    assert not torch.allclose(answer(backbone, denoiser), base, atol=1e-4)
    denoiser.disable_adapters()
    assert torch.equal(answer(backbone, denoiser), base)


def test_the_first_step_is_undecided(backbone: Backbone) -> None:
    step = first_step(make_trainer(backbone, make_config(weights="lora")))
    assert step.figures["margin"] == 0
    assert step.figures["preference"] == pytest.approx(math.log(2), abs=1e-7)


def test_training_lowers_the_loss_and_resumes_exactly(backbone: Backbone) -> None:
    config = make_config(weights="lora", steps=8, learning_rate=0.05)
    whole = make_trainer(backbone, config)
    steps = [event for event in whole.run() if isinstance(event, StepDone)]
    first = make_trainer(backbone, config)
    list(first.run(until=3))
    second = make_trainer(backbone, config)
    second.load_state_dict(first.state_dict())
    list(second.run())
    for name, parameter in whole.parameters.items():
        assert torch.equal(parameter, second.parameters[name])
    assert sum(s.figures["margin"] != 0 for s in steps) == 7
    assert all("lora_" in name for name in whole.state_dict()["weights"])


def test_the_seed_decides_the_first_matrix(backbone: Backbone) -> None:
    torch.manual_seed(99)
    first, second = (layer(with_adapter(backbone, seed=1)).lora_A[NAME].weight for _ in range(2))
    other = layer(with_adapter(backbone, seed=2)).lora_A[NAME].weight
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


# --- layers asked for -------------------------------------------------------------------------


def test_targets_by_name(backbone: Backbone) -> None:
    denoiser = with_adapter(backbone, targets="to_q, conv1")
    names = [n.rsplit(".", 2)[0] for n, p in denoiser.named_parameters() if p.requires_grad]
    assert {name.rsplit(".", 1)[0].rsplit(".", 1)[-1] for name in names} == {"to_q", "conv1"}


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ("to_q,attention_q", "lora.targets: no layer of this model is named attention_q; use auto"),
        ("q", "lora.targets: no layer of this model is named q; "),
    ],
)
def test_targets_that_are_nowhere_are_refused(
    backbone: Backbone, targets: str, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        with_adapter(backbone, targets=targets)
    assert "to_q" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_job_refuses_them_before_it_draws_or_writes(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    more = {"training.weights": "lora", "lora.targets": "nowhere"}
    subject = rpo.Subject.from_folder(world.photos, noun="dog")
    with pytest.raises(UserError, match="lora.targets: no layer of this model is named nowhere"):
        rpo.train(subject, str(world.model), out=tmp_path / "run", settings=world.settings(**more))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("targets", ["", "to_q,", "to q"])
def test_targets_are_names(targets: str) -> None:
    with pytest.raises(UserError, match="lora.targets must be auto, or names with commas"):
        Config(lora=LoraConfig(targets=targets))


# --- the whole job ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_job(kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    world = make_world(tmp_path, kind)
    weights = "dora" if kind == "v_prediction" else "lora"
    more = {"resolution": RESOLUTION, "validation.keep": "last", "training.weights": weights}
    more |= {"lora.rank": 4, "lora.alpha": 2.0}
    if kind in ("epsilon", "v_prediction"):
        more["lora.targets"] = "to_q,to_v,conv1,proj_in"
    settings = world.settings(2, 2, **more)
    subject = rpo.Subject.from_folder(world.photos, noun="dog")
    capfd.readouterr()
    run = rpo.train(subject, str(world.model), out=tmp_path / "run", settings=settings)
    assert capfd.readouterr() == ("", "")
    assert sorted(f.name for f in run.best.iterdir()) == [ADAPTER_FILE, "rpo.json"]
    picture = run.generate("a [V] dog", seed=5, steps=2)[0]
    assert picture.size == (RESOLUTION, RESOLUTION)

    # The same in diffusers alone.
    base = Backbone.load(world.model, "cpu", RESOLUTION)
    ours = Backbone.load(world.model, "cpu", RESOLUTION)
    ours.load_adapter(run.best, ADAPTER_FILE)
    with quiet():
        stock = DiffusionPipeline.from_pretrained(world.model)
        stock.load_lora_weights(str(run.best))
    theirs = getattr(stock, base.family.denoiser_name)
    assert torch.equal(answer(ours, ours.denoiser), answer(base, theirs))
    assert not torch.allclose(answer(base, theirs), answer(base, base.denoiser), atol=1e-5)

    # And what the file holds is what was trained.
    saved = load_file(run.best / ADAPTER_FILE)
    state = run.folder.load_last()["weights"]
    assert len(saved) == len(state)
    total = sum(t.double().sum() for t in state.values())
    assert sum(t.double().sum() for t in saved.values()) == pytest.approx(float(total))

    again = rpo.train(subject, str(world.model), out=tmp_path / "again", settings=settings)
    assert (again.best / ADAPTER_FILE).read_bytes() == (run.best / ADAPTER_FILE).read_bytes()


@pytest.mark.parametrize(
    ("kind", "weights", "targets", "refused", "why"),
    [
        ("epsilon", "lora", "to_q,conv_in,linear_1", ["kohya"], "conv_in, time_embedding.linear_1"),
        (
            "flux-dev",
            "dora",
            "auto",
            ["kohya"],
            "single_blocks.0.linear1 is trained as DoRA in par",
        ),
        ("flux-dev", "lora", "to_q,proj_out", ["kohya", "comfyui"], "proj_out has no name"),
        ("flux-dev", "lora", "auto", [], ""),
        ("sd3", "dora", "auto", [], ""),
        ("sdxl", "dora", "auto", [], ""),
    ],
)
def test_what_no_export_can_hold_is_said_before_the_training(
    kind: str, weights: str, targets: str, refused: list[str], why: str, tmp_path: Path
) -> None:
    world = make_world(tmp_path, kind)
    more = {"training.weights": weights, "lora.targets": targets, "validation.keep": "last"}
    subject = rpo.Subject.from_folder(world.photos, noun="dog")
    settings = world.settings(1, 1, resolution=RESOLUTION, **more)
    events: list[Any] = []
    run = rpo.train(
        subject, str(world.model), out=tmp_path / "run", settings=settings, on_event=events.append
    )
    notices = [event.message for event in events if isinstance(event, Notice)]
    assert len(notices) == bool(refused)
    if refused:
        assert isinstance(events[1], Notice)  # right after Started
        formats = " or ".join(f"--to {to}" for to in refused)
        start = f"lora.targets {targets} with training.weights {weights} cannot be exported"
        assert notices[0].startswith(f"{start} {formats}: ")
        assert why in notices[0]
        assert "; use --to " in notices[0]
        assert notices[0] in [r.get("message") for r in run.folder.records()]
    for to in ("kohya", "comfyui"):
        if to in refused:
            with pytest.raises(UserError) as caught:
                export(run, to)
            assert str(caught.value) == f"--to {to}: {notices[0].split(': ', 1)[1]}"
            assert not (run.path / "export").exists()
        else:
            export(run, to, tmp_path / to)
