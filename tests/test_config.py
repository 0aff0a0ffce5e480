"""Settings: defaults, presets, files and overrides, and which of them prevails."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from rpo.config import (
    SETTINGS,
    Config,
    RewardConfig,
    SamplingConfig,
    TrainingConfig,
    ValidationConfig,
    changed,
    for_subject,
    from_toml,
    given,
    load_config,
    to_toml,
    value_of,
    values_of,
)
from rpo.config.sections import SECTIONS
from rpo.errors import UserError
from rpo.models.resolve import known_presets

KNOWN = known_presets()
# A value that differs from the default, for every setting; the first test keeps it complete.
OTHER = {
    "photos.crop": "subject",
    "photos.unmasked_weight": 0.2,
    "photos.captions": False,
    "dreambooth.class_images": 5,
    "dreambooth.prior_weight": 0.5,
    "online.weight": 2.5,
    "online.lambda_online": 0.3,
    "online.start": 7,
    "online.every": 5,
    "online.pictures": 3,
    "online.steps": 12,
    "online.late": 2,
    "online.depth": 3,
    "online.shift": 0.1,
    "online.decoder": "tiny",
    "method": "dpo",
    "training.schedule": "cosine",
    "training.warmup": 7,
    "training.ema": 0.9,
    "training.photos": 3,
    "training.flip": True,
    "model": "models/Größe 2",
    "noun": 'dög "in quotes"',
    "identifier": "sks",
    "subject_kind": "live",
    "prompts": "my prompts.toml",
    "seed": 7,
    "device": "cuda:1",
    "resolution": 768,
    "precision": "bf16",
    "offload": True,
    "compile": True,
    "quantize": "nf4",
    "sampling.steps": 3,
    "sampling.guidance_scale": 1.25,
    "sampling.images_per_prompt": 2,
    "sampling.batch_size": 5,
    "sampling.scheduler": "dpm++",
    "training.steps": 11,
    "training.learning_rate": 3.3e-7,
    "training.weight_decay": 0.0,
    "training.max_grad_norm": 0.5,
    "training.beta": 1000.0,
    "training.batch_size": 4,
    "training.accumulate": 2,
    "training.optimizer": "adamw8bit",
    "training.weights": "dora",
    "training.checkpointing": True,
    "lora.rank": 4,
    "lora.alpha": 8.0,
    "lora.targets": "to_q, to_out.0",
    "disenbooth.weak_weight": 0.5,
    "disenbooth.disentangle_weight": 0.0,
    "training.similarity_weight": 0.0,
    "training.preference_weight": 0.25,
    "training.independent_noise": True,
    "reward.model": "org/name",
    "reward.mean": "arithmetic",
    "reward.lambda_train": 0.3,
    "reward.lambda_val": 1.0,
    "reward.temperature": 0.1,
    "reward.labels": "expected",
    "validation.every": 10,
    "validation.images_per_prompt": 3,
    "validation.steps": 50,
    "validation.guidance_scale": 0.0,
    "validation.batch_size": 1,
    "validation.scheduler": "ddim",
    "validation.keep": "last",
    "validation.patience": 2,
    "textual_inversion.vectors": 3,
    "textual_inversion.initializer": "sks",
}


def other_config() -> Config:
    return load_config(overrides=[f"{key}={value}" for key, value in OTHER.items()])


def test_every_field_is_a_setting_with_one_sentence_of_help() -> None:
    sections = set(SECTIONS)
    names = {field.name for field in dataclasses.fields(Config)} - sections
    for section in sections:
        owner = getattr(Config(), section)
        names |= {f"{section}.{field.name}" for field in dataclasses.fields(owner)}
    assert set(SETTINGS) == names == set(OTHER)
    for key, setting in SETTINGS.items():
        assert setting.key == key
        assert setting.default == value_of(Config(), key)
        assert setting.help.endswith(".")
        assert setting.help.count("\n") == 0
        assert OTHER[key] != setting.default


def test_defaults_are_the_paper() -> None:
    config = Config()
    assert config.training == TrainingConfig(
        steps=400, learning_rate=5e-6, weight_decay=1e-2, max_grad_norm=1.0, beta=1.0, batch_size=1
    )
    assert config.sampling == SamplingConfig(steps=50, images_per_prompt=4, scheduler="ddim")
    assert config.reward == RewardConfig(mean="harmonic", lambda_train=0, lambda_val=0.5)
    assert config.validation == ValidationConfig(every=40, patience=0)
    assert load_config("paper") == config


@pytest.mark.parametrize("key", SETTINGS)
def test_every_setting_can_be_given_as_override_and_survives_toml(key: str) -> None:
    config = load_config("paper", overrides=[f"{key}={OTHER[key]}"])
    assert value_of(config, key) == OTHER[key]
    assert type(value_of(config, key)) is SETTINGS[key].type
    back = from_toml(to_toml(config), "config.toml")
    assert back == config
    assert type(value_of(back, key)) is SETTINGS[key].type


def test_toml_is_complete_and_replayable_over_any_preset(tmp_path: Path) -> None:
    config = other_config()
    assert {key: value_of(config, key) for key in SETTINGS} == OTHER
    text = to_toml(config)
    assert from_toml(text, "x") == config
    for setting in SETTINGS.values():
        assert f"# {setting.help}\n" in text
    file = tmp_path / "Übung 1.toml"
    file.write_text(text, encoding="utf-8")
    for preset in KNOWN.settings:
        assert load_config(preset, file, known=KNOWN) == config


def test_what_a_toml_leaves_out_is_the_default() -> None:
    assert from_toml("seed = 3", "x") == Config(seed=3)
    assert from_toml("training.steps = 5", "x") == Config(training=TrainingConfig(steps=5))


def test_precedence_is_preset_file_fields_overrides(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("seed = 1\n[validation]\npatience = 4\nevery = 4\nsteps = 4\n")

    def validation(**given: object) -> ValidationConfig:
        return load_config("early-stop", **given).validation  # type: ignore[arg-type]

    assert validation().patience == 3
    assert validation(file=file).patience == 4
    fields = {"every": 5, "patience": 5}
    merged = validation(file=file, validation=fields, overrides=["validation.patience=6"])
    assert (merged.patience, merged.every, merged.steps) == (6, 5, 4)
    assert merged.images_per_prompt == 1


def test_early_stop_comes_on_top_of_the_preset_that_suits_the_model() -> None:
    small = load_config("early-stop", model="emojiland")
    assert small == dataclasses.replace(
        load_config("emojiland"),
        validation=dataclasses.replace(load_config("emojiland").validation, patience=3),
    )
    large = load_config("early-stop", model="some/model")
    assert large.training.learning_rate == 5e-6
    assert large.validation.patience == 3


def test_last_override_wins() -> None:
    assert load_config(overrides=["seed=1", "seed = 2 "]).seed == 2


def test_fields_take_sections_and_none_means_not_given(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("noun = 'cat'\nseed = 9")
    config = load_config("paper", file, noun=None, seed=0, reward=RewardConfig(lambda_val=0.7))
    assert (config.noun, config.seed) == ("cat", 0)
    assert config.reward == RewardConfig(lambda_val=0.7)


def test_without_a_preset_the_model_decides(tmp_path: Path) -> None:
    assert load_config() == load_config("emojiland") != Config()
    assert load_config(model="org/name") == Config(model="org/name")
    assert load_config(overrides=["model=org/name"]) == Config(model="org/name")
    file = tmp_path / "a.toml"
    file.write_text('model = "org/name"')
    assert load_config(file=file) == Config(model="org/name")


def test_a_family_brings_its_own_guidance_and_steps(tmp_path: Path) -> None:
    """The preset is taken by the folder; what was given explicitly, and a saved file, win."""
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusion3Pipeline"}')
    three = str(tmp_path)
    config = load_config(model=three, known=KNOWN)
    assert (config.sampling.steps, config.sampling.guidance_scale) == (28, 5.0)
    assert (config.validation.steps, config.validation.guidance_scale) == (20, 5.0)
    plain = {"sampling.steps": 50, "sampling.guidance_scale": 7.5, "validation.guidance_scale": 7.5}
    assert changed(config, plain) == Config(model=three)
    assert load_config("paper", model=three, known=KNOWN) == Config(model=three)
    early = load_config("early-stop", model=three, known=KNOWN)
    assert early.sampling.guidance_scale == 5.0
    given = load_config(model=three, overrides=["sampling.guidance_scale=2"], known=KNOWN)
    assert (given.sampling.guidance_scale, given.validation.guidance_scale) == (2.0, 5.0)
    file = tmp_path / "config.toml"
    for saved in (given, Config(model=three)):
        file.write_text(to_toml(saved), encoding="utf-8")
        assert load_config(file=file, known=KNOWN) == saved
    schnell = load_config("flux-schnell", model=three, known=KNOWN)
    assert (schnell.sampling.steps, schnell.sampling.guidance_scale) == (4, 0.0)
    assert load_config("flux", model=three, known=KNOWN).validation.guidance_scale == 3.5


def test_the_settings_know_neither_the_models_nor_pytorch() -> None:
    code = (
        "import sys; from rpo.config import load_config; load_config(); load_config(model='a/b');"
        "print([name for name in sys.modules if name.startswith(('rpo.models', 'torch'))])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"


def test_every_preset_has_one_clause_of_help() -> None:
    assert list(KNOWN.help) == list(KNOWN.settings)
    assert all(text and "." not in text and "\n" not in text for text in KNOWN.help.values())


def test_a_whole_config_is_the_base_and_fields_change_single_settings() -> None:
    base = other_config()
    config = load_config(base=base, training={"steps": 200}, overrides=["reward.lambda_val=0.9"])
    assert config == changed(base, {"training.steps": 200, "reward.lambda_val": 0.9})
    assert config.training.beta == OTHER["training.beta"]
    assert config.sampling == base.sampling
    assert load_config(base=base) == base
    assert load_config(base=Config()) == Config()  # no preset on top, although it is emojiland
    with pytest.raises(UserError, match="preset 'paper' and a Config exclude each other"):
        load_config("paper", base=base)


def test_given_is_what_was_said_and_no_default(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("seed = 9\n[validation]\npatience = 5")
    said = given("early-stop", file, ["training.steps=7"], sampling={"steps": 3}, noun=None)
    assert said == {"validation.patience": 5, "seed": 9, "sampling.steps": 3, "training.steps": 7}
    assert given(base=Config()) == values_of(Config())


def test_the_subject_fills_what_the_settings_leave_open() -> None:
    open_ = Config()
    assert for_subject(open_, "dog", "live") == Config(noun="dog", subject_kind="live")
    chosen = Config(noun=" dog", subject_kind="object")
    assert for_subject(chosen, "dog", "live") == Config(noun="dog", subject_kind="object")
    with pytest.raises(UserError, match="noun is 'cat' in the settings.* 'dog'"):
        for_subject(Config(noun="cat"), "dog", "live")


@pytest.mark.parametrize("preset", KNOWN.settings)
def test_every_preset_is_valid_and_changes_what_it_says(preset: str) -> None:
    config = load_config(preset, known=KNOWN)
    for section, values in KNOWN.settings[preset].items():
        for name, value in values.items() if isinstance(values, dict) else [(section, values)]:
            owner = getattr(config, section) if isinstance(values, dict) else config
            assert getattr(owner, name) == value


def test_numbers_become_the_fields_type() -> None:
    beta = TrainingConfig(beta=2).beta
    assert beta == 2.0
    assert type(beta) is float
    assert from_toml("[training]\nbeta = 2", "x").training.beta == 2.0
    assert Config(model=Path("a") / "b").model == str(Path("a/b"))  # type: ignore[arg-type]
