"""The planner: shapes against published counts, bytes against a real step, choices, the command."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from jobs import World, make_world
from original import save_original
from tiny import save_tiny, tiny_pipeline

from rpo.cli import commands as cli
from rpo.config import load_config
from rpo.errors import UserError
from rpo.models.backbone import Backbone
from rpo.models.resolve import known_presets, resolve_model
from rpo.planning.architectures import BUILT_IN, load_architecture
from rpo.planning.estimate import OVERHEAD, Choice, Estimator, Phase, moment_bytes
from rpo.planning.footprint import parameter_count
from rpo.planning.plan import SACRIFICES, command, make_plan
from rpo.planning.rates import (
    CARDS,
    EFFICIENCY,
    Rate,
    card_of_memory,
    find_card,
    measured_rate,
    rate_of,
)

RATE = Rate(1e12, 2e12, "as in a test")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("große Pläne"))


@pytest.fixture(autouse=True)
def _nothing_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))


@cache
def estimator(model: str = "emojiland") -> Estimator:
    return Estimator(load_architecture(model), load_config(model=model), 8, 8)


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


# --- choices -----------------------------------------------------------------------------


class Imagined:
    """An estimator whose phases are sums: a GB for each picture, weights as the settings say."""

    def phases(self, choice: Choice, rate: Rate) -> tuple[Phase, ...]:
        base = 4 if choice.precision == "fp32" else 2
        base /= {"no": 1, "int8": 2, "nf4": 4}[choice.quantize]
        others = 0 if choice.offload else 3
        learning = {"full": 16 if choice.optimizer == "adamw" else 10, "lora": choice.rank / 16}
        kept = choice.batch_size * (2 if choice.checkpointing else 6)
        peaks = {
            "sampling": base + others + choice.sampling_batch,
            "training": base + others + learning[choice.weights] + kept,
            "validation": base + others + learning[choice.weights] + choice.validation_batch,
        }
        return tuple(Phase(name, 0, 0, round(p * 1e9), 1.0) for name, p in peaks.items())


def imagined(gigabytes: float | None, held: tuple[str, ...] = (), **settings: Any) -> Any:
    config = load_config(model="sd15", **settings)
    limit = gigabytes and gigabytes * 1e9
    return make_plan(Imagined(), config, RATE, limit, held)  # type: ignore[arg-type]


def test_what_fits_stays_as_it_is() -> None:
    made = imagined(31)
    assert (made.fits, made.changes, made.choice) == (True, (), Choice())
    assert imagined(None).changes == ()


@pytest.mark.parametrize(
    ("gigabytes", "expected"),
    [
        (29, {"validation.batch_size": 4}),  # 4 + 3 + 16 + 6 in training, 8 in validation
        (26, {"validation.batch_size": 2, "training.checkpointing": True}),
        (23, {"validation.batch_size": 1, "training.checkpointing": True, "offload": True}),
        (
            20.5,
            {
                "validation.batch_size": 1,
                "training.checkpointing": True,
                "offload": True,
                "precision": "bf16",
            },
        ),
    ],
)
def test_sacrifices_come_in_their_order(gigabytes: float, expected: dict[str, Any]) -> None:
    made = imagined(gigabytes)
    assert made.fits
    assert made.settings() == expected


def test_needless_sacrifices_are_taken_back() -> None:
    """With a LoRA there is room again for activations and for what had been sent away."""
    made = imagined(13)
    assert made.fits
    assert made.choice.weights == "lora"
    assert not made.choice.checkpointing
    assert not made.choice.offload
    assert "training.checkpointing" not in made.settings()


def test_a_smaller_card_never_draws_or_trains_more_at_once() -> None:
    sizes = [size / 4 for size in range(4 * 50, 0, -2)]
    plans = [imagined(size, training={"batch_size": 4}) for size in sizes]
    for field in ("sampling_batch", "validation_batch", "batch_size"):
        values = [getattr(made.choice, field) for made in plans]
        assert values == sorted(values, reverse=True)
        assert values[0] > values[-1] == 1
    fitting = [made.fits for made in plans]
    assert fitting == sorted(fitting, reverse=True)
    assert {True, False} == set(fitting)


def test_smaller_batches_are_added_up_to_the_same_pairs() -> None:
    made = imagined(36, training={"batch_size": 4})  # 23 + 24 as given
    assert (made.choice.batch_size, made.choice.accumulate) == (2, 2)
    odd = imagined(36, training={"batch_size": 3})
    assert odd.choice.batch_size == 3


def test_a_base_is_quantised_under_an_adapter_and_no_more_than_needed() -> None:
    # bf16 2, LoRA 1, a pair recomputed 2: 5 in training
    assert imagined(4.1).settings()["quantize"] == "int8"
    assert imagined(3.6).settings()["quantize"] == "nf4"
    assert "quantize" not in imagined(5.1).settings()


def test_what_the_user_set_is_held() -> None:
    made = imagined(26, held=("training.checkpointing", "validation.batch_size"))
    assert not {"training.checkpointing", "validation.batch_size"} & made.settings().keys()
    assert made.choice.validation_batch == 8


def test_savings_are_told_where_they_are_largest() -> None:
    (change,) = imagined(29).changes
    assert (change.settings, change.phase) == ((("validation.batch_size", 8, 4),), "validation")
    assert change.saved == 4e9


def test_the_least_that_does_not_fit() -> None:
    made = imagined(1)
    assert not made.fits
    assert made.peak == 0.5e9 + 0.25e9 + 2e9  # nf4 base, rank 4, one pair recomputed
    assert made.choice.quantize == "nf4"
    assert [s.fields[0] for s in SACRIFICES][-1] == "rank"


def test_the_command_line_can_be_pasted() -> None:
    line = command(imagined(26), "my model", "dpo", ["early-stop"], ["training.steps=5"])
    assert line == (
        "rpo train PHOTOS --noun dog --model 'my model' --method dpo --preset early-stop "
        "--set training.steps=5 --set validation.batch_size=2 --set training.checkpointing=true"
    )


@pytest.mark.slow
def test_stable_diffusion_on_8_gb() -> None:
    made = make_plan(estimator("sd15"), load_config(model="sd15"), RATE, 8e9)
    assert made.fits
    assert made.choice.weights == "lora"
    # weights, gradients, moments and the reference alone are 20 bytes a parameter
    assert max(phase.peak for phase in made.wanted) > 20 * 859.5e6


@pytest.mark.slow
def test_flux_fits_into_16_gb_in_4_bits_alone() -> None:
    """Its 11.9 billion weights are 23.8 GB in bfloat16; T5, of 9.5, has gone when they come."""
    least = {
        "precision": "bf16",
        "offload": True,
        "training": {"weights": "lora", "checkpointing": True, "optimizer": "adamw8bit"},
        "lora": {"rank": 4},
        "sampling": {"batch_size": 1},
        "validation": {"batch_size": 1},
    }
    flux, config = estimator("flux-dev"), load_config(model="flux-dev", **least)
    made = make_plan(flux, config, RATE, 16e9, held=("quantize",))
    assert not made.fits
    assert made.changes == ()
    assert 23.8e9 * 1.08 < made.peak < 35e9
    made = make_plan(flux, config, RATE, 16e9)
    assert made.fits
    assert made.settings() == {"quantize": "nf4"}
    assert made.peak > 9.5e9 * 1.08


# --- speed -------------------------------------------------------------------------------


def test_cards_by_their_names() -> None:
    assert find_card("NVIDIA GeForce RTX 4090").name == "RTX 4090"
    assert find_card("4090") == find_card("rtx4090")
    assert find_card("NVIDIA A100-SXM4-80GB").memory == 80
    assert find_card("NVIDIA A100-PCIE-40GB").memory == 40
    assert find_card("NVIDIA A10").name == "A10"
    assert find_card("A100").memory == 80
    with pytest.raises(UserError, match="not in the table"):
        find_card("NVIDIA A10G")
    with pytest.raises(UserError, match="--gpu rtx 4099: .*RTX 40"):
        find_card("rtx 4099")
    assert card_of_memory(10).memory == 12
    assert card_of_memory(1000) == CARDS[-1]


def test_rates() -> None:
    rate = rate_of(find_card("H100"))
    assert rate.half == pytest.approx(989e12 * EFFICIENCY["half"])
    assert rate.seconds(66.9e12, False) == pytest.approx(1 / EFFICIENCY["fp32"])
    assert 1e7 < measured_rate(0.01).fp32 < 1e15


# --- the command -------------------------------------------------------------------------


def arguments(world: World, *more: str) -> list[str]:
    return ["plan", "--model", str(world.model), *world_settings(world), *more]


def world_settings(world: World) -> list[str]:
    return [word for s in world.settings() for word in ("--set", s)]


def test_a_record_for_scripts(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(arguments(world, "--gpu-memory", "8", "--tflops", "2", "--json")) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["fits"]
    assert record["missing"] == 0
    assert [phase["name"] for phase in record["phases"]] == [
        "loading",
        "sampling",
        "labelling",
        "training",
        "validation",
    ]
    assert record["speed"]["fp32"] == 2e12
    assert record["resolution"] == 16
    assert record["command"].startswith("rpo train PHOTOS --noun dog --model")
    assert record["settings"] == {}


def test_a_table_for_people(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(arguments(world, "--gpu", "RTX 3060")) == 0
    out = capsys.readouterr().out
    for words in ("activations", "validation", "as on an RTX 3060", "Fits into 12 GB", "estimates"):
        assert words in out
    assert "Changed" not in out


def test_no_card_at_all(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a card")
    assert cli.run(arguments(world)) == 0
    out = capsys.readouterr().out
    assert "as measured on this processor" in out
    assert "--gpu-memory" in out


def test_what_does_not_fit_is_told(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Less than the context of an empty card."""
    assert cli.run(arguments(world, "--gpu-memory", "0.5")) == 1
    out = capsys.readouterr().out
    assert "Does not fit into 0.5 GB" in out
    assert "rpo train" not in out
    assert "Changed, for the memory" in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "sd15", "--gpu-memory", "0"], "--gpu-memory 0: must be above 0"),
        (["--model", "sd15", "--gpu-memory", "nan"], "--gpu-memory nan: must be above 0"),
        (["--model", "sd15", "--tflops", "-1"], "--tflops -1: must be above 0"),
        (["--model", "sd16"], "--model sd16: no such model; did you mean .*sd15"),
        (["--model", "zzz"], "--model zzz: no such model; name a folder or a hub id"),
        (["--model", "some/thing"], "hf download some/thing"),
        (["--model", "sd15", "--set", "training.stepz=3"], "did you mean training.steps"),
        ([], "Missing option '--model'"),
    ],
)
def test_wrong_input(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["plan", *flags]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert re.search(message, err)


def test_help_names_every_sacrifice(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["plan", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    order = [
        "pictures drawn at once",
        "pairs at once",
        "gradient checkpointing",
        "offloading",
        "bfloat16",
        "LoRA",
        "8 or 4 bits",
        "8-bit optimiser",
        "lower rank",
    ]
    places = [text.find(words) for words in order]
    assert -1 not in places
    assert places == sorted(places)
