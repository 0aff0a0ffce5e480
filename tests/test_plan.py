"""The planner: choices, their order, cards and the command."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch
from jobs import World
from planning import RATE, estimator

from rpo.cli import commands as cli
from rpo.config import load_config
from rpo.errors import UserError
from rpo.planning.estimate import Choice, Phase
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

pytestmark = pytest.mark.usefixtures("nothing_cached")


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
