"""Settings that are wrong: one line names the setting or file, and the remedy."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from rpo.config import (
    Config,
    RewardConfig,
    SamplingConfig,
    TrainingConfig,
    ValidationConfig,
    from_toml,
    load_config,
)
from rpo.errors import UserError
from rpo.models.resolve import known_presets

KNOWN = known_presets()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainingConfig(steps=0), "training.steps must be >= 1, not 0"),
        (lambda: TrainingConfig(learning_rate=0), "training.learning_rate must be > 0, not 0.0"),
        (lambda: TrainingConfig(beta=math.nan), "training.beta must be finite, not nan"),
        (lambda: TrainingConfig(steps=True), "training.steps must be a whole number, not True"),
        (lambda: TrainingConfig(steps=2.0), "training.steps must be a whole number, not 2.0"),
        (lambda: TrainingConfig(beta="1"), "training.beta must be a number, not '1'"),
        (
            lambda: TrainingConfig(independent_noise=1),
            "training.independent_noise must be true or false, not 1",
        ),
        (lambda: RewardConfig(lambda_val=1.01), "reward.lambda_val must be <= 1, not 1.01"),
        (lambda: RewardConfig(lambda_train=-0.1), "reward.lambda_train must be >= 0, not -0.1"),
        (
            lambda: RewardConfig(mean="geometric"),
            "reward.mean must be one of harmonic, arithmetic, not 'geometric'",
        ),
        (lambda: SamplingConfig(steps=1001), "sampling.steps must be <= 1000, not 1001"),
        (lambda: ValidationConfig(steps=1001), "validation.steps must be <= 1000, not 1001"),
        (lambda: Config(noun=None), "noun must be text, not None"),
        (lambda: Config(seed=-1), "seed must be >= 0, not -1"),
        (lambda: Config(seed=2**32), "seed must be <= 4294967295, not 4294967296"),
        (lambda: Config(resolution=100), "resolution must be a multiple of 8, not 100"),
        (lambda: Config(identifier=""), "identifier must be one word, not ''"),
        (
            lambda: Config(device="gpu"),
            "device must be auto, cpu, mps, cuda, cuda:N or xpu, not 'gpu'",
        ),
        (lambda: Config(training={"steps": 1}), "training must be a TrainingConfig"),
    ],
)
def test_an_invalid_value_names_its_setting(make, message: str) -> None:
    with pytest.raises(UserError) as error:
        make()
    assert str(error.value) == message


def test_both_loss_weights_zero_is_refused() -> None:
    with pytest.raises(UserError, match=r"training\.similarity_weight and .* both 0"):
        load_config(overrides=["training.similarity_weight=0", "training.preference_weight=0"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.steps=ten", "training.steps must be a whole number, not 'ten'"),
        ("training.steps=0", "training.steps must be >= 1, not 0"),
        ("training.beta=inf", "training.beta must be finite, not inf"),
        ("training.independent_noise=yes", "must be true or false, not 'yes'"),
        ("training.steps", "write it as name=value"),
        ("trainig.steps=2", "unknown setting 'trainig.steps'; did you mean training.steps or "),
        ("lambda_vall=1", "did you mean reward.lambda_val"),
        ("patience=1", "unknown setting 'patience'; did you mean validation.patience?"),
        ("seed.x=1", "did you mean seed?"),
        ("reward=1", "did you mean reward.model or reward.mean"),
        ("xyzzy=1", "choose from model, method, noun"),
    ],
)
def test_a_wrong_override_is_quoted_with_the_remedy(override: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        load_config(overrides=[override])
    assert str(error.value).startswith(f"--set {override}: ")
    assert message in str(error.value)


def test_unknown_field_and_preset_list_near_matches() -> None:
    with pytest.raises(UserError, match="unknown setting 'modell'; did you mean model"):
        load_config(modell="emojiland")
    with pytest.raises(UserError, match="unknown setting 'presets'"):
        load_config(presets="lora")
    with pytest.raises(UserError, match="unknown preset 'earlystop'; did you mean early-stop"):
        load_config("earlystop")
    with pytest.raises(UserError, match="choose from paper, emojiland, sd3"):
        load_config("q", known=KNOWN)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"seed = ", "not valid TOML"),
        (b"noun = '\xff'", "not UTF-8"),
        (b"sed = 1", "unknown setting 'sed'; did you mean seed"),
        (b"[training]\nstep = 1", "unknown setting 'training.step'; did you mean training.steps"),
        (b"[training]\nsteps = 'x'", "training.steps must be a whole number, not 'x'"),
        (b"training = 3", "unknown setting 'training'; did you mean training.steps"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "mein Lauf.toml"
    file.write_bytes(content)
    with pytest.raises(UserError) as error:
        load_config(file=file)
    assert str(error.value).startswith(f"{file}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_config(file=tmp_path / "none.toml")
    with pytest.raises(UserError, match="cannot be read"):
        load_config(file=tmp_path)


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    file = tmp_path / "windows.toml"
    file.write_text("seed = 5", encoding="utf-8-sig")
    assert load_config(file=file).seed == 5


def test_from_toml_names_its_source_for_rules_across_settings() -> None:
    text = "[training]\nsimilarity_weight = 0\npreference_weight = 0"
    with pytest.raises(UserError, match=r"^run/config\.toml: training\.similarity_weight"):
        from_toml(text, "run/config.toml")
