"""Counts that ship: as counting gives them, and enough for any plan of a built-in model."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rpo.config import METHODS, Config, Passes, changed, given
from rpo.models.resolve import known_presets
from rpo.planning import recorded
from rpo.planning.architectures import BUILT_IN, Part, load_architecture
from rpo.planning.counting import Counter, TrainedWeights
from rpo.planning.estimate import Estimator
from rpo.planning.plan import make_plan
from rpo.planning.rates import Rate

RATE = Rate(1e12, 2e12, "as in a test")


@pytest.fixture(autouse=True)
def _nothing_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))


def counter_of(model: str) -> Counter:
    """One that knows nothing yet."""
    architecture = load_architecture(model)
    return Counter(architecture, architecture.latent_shape(0))


def test_recorded_counts_are_those_of_counting() -> None:
    counter = counter_of("sd15")
    for part in (counter.shape.denoiser, counter.shape.vae, counter.shape.reward):
        counter.parameters(part)
        counter.bytes(part, 1)
    counter.saved("nf4", 2)
    counter.encode_text("text_encoder", "fp32")
    counter.decode("bf16")
    for learner in (TrainedWeights(), TrainedWeights("lora")):
        counter.learning(learner)
    counter.draw("fp32", 2, TrainedWeights())
    counter.step("fp32", METHODS["rpo"].passes(Config()), TrainedWeights(), False)
    counter.step("bf16", METHODS["rpo"].passes(Config()), TrainedWeights("lora"), True)
    known = recorded.load()
    assert counter.counted == {name: known.get(name) for name in counter.counted}
    assert len(counter.counted) == 6 + 1 + 2 + 2 + 1 + 2


@pytest.mark.parametrize("model", BUILT_IN)
def test_no_plan_of_a_built_in_model_counts(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*_: object) -> None:
        raise AssertionError("a network is built")

    monkeypatch.setattr(Part, "build", build)
    architecture = load_architecture(model)
    config = changed(Config(), given(architecture.preset, known=known_presets()) | {"model": model})
    estimator = Estimator(architecture, config, 8, 8)
    assert estimator.parts()["denoiser"] > 8e8
    plans = [make_plan(estimator, config, RATE, size * 1e9) for size in (1, 4, 8, 16, 24, 48, 1000)]
    assert [made.fits for made in plans[:: len(plans) - 1]] == [False, True]
    assert plans[0].choice.rank == 4  # all sacrifices were tried


def test_counts_are_named_by_what_they_depend_on() -> None:
    part = load_architecture("sd15").denoiser
    saved_by_another_version = replace(part, config={**part.config, "_diffusers_version": "9"})
    assert saved_by_another_version.fingerprint == part.fingerprint
    wider = replace(part, config={**part.config, "cross_attention_dim": 1024})
    assert wider.fingerprint != part.fingerprint
    assert replace(part, kind="UNet3DConditionModel").fingerprint != part.fingerprint


def test_what_is_known_is_not_counted_again() -> None:
    architecture = load_architecture("sd15")
    name = f"{architecture.denoiser.fingerprint} parameters"
    counter = Counter(architecture, (4, 64, 64), {name: 7})
    assert counter.parameters(architecture.denoiser) == 7


def test_the_base_may_answer_some_of_the_rows() -> None:
    """Three photos' rows learn and the base answers two: its flops are two thirds of a forward."""
    counter = counter_of("sd15")
    learner = TrainedWeights()
    alone, some, all_ = (
        counter.step("fp32", Passes(3, base=base), learner, False).flops for base in (0, 2, 3)
    )
    assert (some - alone) / (all_ - alone) == pytest.approx(2 / 3, rel=1e-3)


def test_the_command_imports_no_networks_for_a_built_in_model() -> None:
    code = (
        "import sys; from rpo.cli.commands import run; "
        "code = run(['plan', '--model', 'sd15', '--gpu-memory', '8']); "
        "found = {'diffusers', 'transformers', 'peft'} & sys.modules.keys(); "
        "sys.exit(code or ', '.join(found) or 0)"
    )
    source = str(Path(recorded.__file__).parents[2])
    env = os.environ | {"PYTHONPATH": source}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert (run.returncode, run.stderr) == (0, "")
    assert "Fits into 8 GB" in run.stdout
