"""Shapes against published counts, bytes against a real step, times against operations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from jobs import World
from original import save_original
from planning import RATE, estimator
from tiny import save_tiny, tiny_pipeline

from rpo.config import load_config
from rpo.errors import UserError
from rpo.models.backbone import Backbone
from rpo.models.resolve import known_presets, resolve_model
from rpo.planning.architectures import BUILT_IN, load_architecture
from rpo.planning.estimate import OVERHEAD, Choice, Estimator, moment_bytes
from rpo.planning.footprint import parameter_count

pytestmark = pytest.mark.usefixtures("nothing_cached")


# --- shapes ------------------------------------------------------------------------------

# As published: in the models' papers and cards, rounded as there.
PUBLISHED = {
    "sd15": {"denoiser": 859.5e6, "text_encoder": 123.1e6, "autoencoder": 83.7e6},
    "sd21": {"denoiser": 865.9e6, "text_encoder": 340.4e6},
    "sdxl": {"denoiser": 2.567e9, "text_encoder_2": 694.7e6},
    "sd35-medium": {"denoiser": 2.243e9, "text_encoder_3": 4.762e9},
    "flux-dev": {"denoiser": 11.90e9, "text_encoder_2": 4.762e9, "reward model": 172.1e6},
}


@pytest.mark.parametrize("model", BUILT_IN)
def test_parameters_are_as_published(model: str) -> None:
    counted = estimator(model).parts()
    for part, published in PUBLISHED[model].items():
        assert counted[part] == pytest.approx(published, rel=1e-3), part


def test_presets_are_those_of_the_families() -> None:
    presets = {model: load_architecture(model).preset for model in BUILT_IN}
    assert presets == {
        "sd15": "paper",
        "sd21": "paper",
        "sdxl": "paper",
        "sd35-medium": "sd3",
        "flux-dev": "flux",
    }


def test_resolutions_are_the_models_own() -> None:
    sides = {model: estimator(model).picture[1] for model in BUILT_IN}
    assert sides == {"sd15": 512, "sd21": 768, "sdxl": 1024, "sd35-medium": 1024, "flux-dev": 1024}


def test_a_hub_id_that_is_not_here_is_built_in() -> None:
    found = load_architecture("stable-diffusion-v1-5/stable-diffusion-v1-5")
    assert found.name == load_architecture("sd15").name
    assert load_architecture("sd15").hub_id == found.hub_id


@pytest.mark.parametrize(
    "kind", ["epsilon", "sdxl", "sd3", "sd3-without-t5", "flux-dev", "z-image"]
)
def test_every_family_is_planned_from_its_folder(kind: str, tmp_path: Path, world: World) -> None:
    folder = save_tiny(tmp_path / "ein Modell", kind)
    backbone = Backbone.load(folder, device="cpu")
    config = load_config(model=str(folder), known=known_presets())
    shape = load_architecture(str(folder), str(world.reward))
    found = Estimator(shape, config, 2, 2)
    assert found.counter.latent_shape == backbone.latent_shape
    assert found.parts()["denoiser"] == parameter_count(backbone.denoiser)
    told, heard = shape.conditions(3), backbone.encode_prompts(["a", "b", "c"])
    assert {name: tensor.shape for name, tensor in told.tensors().items()} == {
        name: tensor.shape for name, tensor in heard.tensors().items()
    }
    full = found.phases(Choice(), RATE)
    dora = found.phases(Choice(weights="dora", precision="bf16", rank=2, checkpointing=True), RATE)
    assert all(phase.peak > 0 and phase.seconds > 0 for phase in (*full, *dora))
    weights = [{p.name: p.weights for p in phases}["training"] for phases in (full, dora)]
    assert weights[1] < weights[0] / 3  # 2 bytes and the adapter, of 4 + 4 + 8


def test_a_single_file_is_planned_by_the_configurations_beside_it(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "a model")
    file = save_original(tiny_pipeline(), tmp_path / "a model.safetensors")
    assert load_architecture(str(file)).latent_shape(0) == (4, 8, 8)
    counts = [parameter_count(load_architecture(str(m)).denoiser.build()) for m in (file, folder)]
    assert counts[0] == counts[1] > 0


def test_a_resolution_that_the_model_cannot_have() -> None:
    with pytest.raises(UserError, match="resolution must be a multiple of 8"):
        load_architecture("sd15").latent_shape(500)


# --- weights -----------------------------------------------------------------------------


def test_moments_of_the_optimisers() -> None:
    assert moment_bytes(5000, "adamw") == 8 * 5000
    assert moment_bytes(4096, "adamw8bit") == 2 * (4096 + 16 * 4)  # 16 blocks of 256, a scale each
    assert moment_bytes(4095, "adamw8bit") == 8 * 4095


def test_weights_of_each_way_to_train() -> None:
    found = estimator()
    parts = found.parts()
    frozen = parts["text_encoder"] + parts["autoencoder"] + parts["denoiser"]
    training = {p.name: p for p in found.phases(Choice(), RATE)}["training"]
    # fp32: what is frozen, the copy that learns, and two moments of it; buffers are few
    whole = 4 * (frozen + parts["reward model"] + 3 * parts["denoiser"])
    assert training.weights == pytest.approx(whole, rel=2e-3)
    half = {p.name: p for p in found.phases(Choice(precision="bf16"), RATE)}["training"]
    halved = 2 * (frozen + parts["reward model"])
    assert training.weights - half.weights == pytest.approx(halved, rel=2e-3)
    away = {p.name: p for p in found.phases(Choice(offload=True), RATE)}["training"]
    staying = 4 * 4 * parts["denoiser"]
    assert away.weights == pytest.approx(staying, rel=2e-3)
    assert training.peak == round(
        (training.weights + training.activations) * (1 + OVERHEAD[1]) + OVERHEAD[0]
    )


# --- activations -------------------------------------------------------------------------


@pytest.mark.parametrize("pairs", [1, 6])
def test_a_step_takes_the_bytes_that_a_real_one_takes(pairs: int) -> None:
    """Peak of all tensors of a training step on the CPU, as PyTorch's profiler books them."""
    from torch.profiler import ProfilerActivity, profile

    backbone = Backbone.load(resolve_model("emojiland"), device="cpu")
    learns, told = backbone.trainable_copy(), backbone.encode_prompts(["a dog"])
    latents = torch.zeros(2 * pairs, *backbone.latent_shape)
    given = (latents, latents, torch.zeros(2 * pairs, dtype=torch.long), told.expand(2 * pairs))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        error = backbone.denoising_error(learns, *given)
        with torch.no_grad():
            base = backbone.denoising_error(backbone.denoiser, *given)
        (base - error).sum().backward()
    events = profiled.profiler.kineto_results.events()
    alive = peak = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    phases = estimator().phases(Choice(batch_size=pairs), RATE)
    (training,) = [phase for phase in phases if phase.name == "training"]
    assert training.activations == pytest.approx(peak, rel=0.1)


def test_times_follow_from_the_operations() -> None:
    found, choice = estimator(), Choice()
    slow, fast = found.phases(choice, RATE), found.phases(choice, replace(RATE, fp32=2e12))
    for a, b in zip(slow[1:], fast[1:], strict=True):
        assert a.seconds == pytest.approx(2 * b.seconds)
    seconds = {phase.name: phase.seconds for phase in slow}
    steps = found.config.training.steps
    assert seconds["training"] == pytest.approx(steps * found._step(choice).flops / 1e12)
    # two rows for guidance; drawn 32 times in 20 steps for training, 8 in 20 in each validation
    forward = found._draw(choice, False, 3.0).flops
    assert seconds["sampling"] > 32 * 20 * forward / 1e12
    assert found._draw(choice, False, 1.0).flops * 2 == forward
    decode, reward = found.counter.decode("fp32").flops, found.counter.reward("fp32").flops
    judged = 11 * 8 * (20 * forward + decode + reward)
    assert seconds["validation"] == pytest.approx(judged / 1e12)  # at 0, 40, … 400
