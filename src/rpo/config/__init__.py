"""The settings of a run: what there is, presets, and how files and flags become a `Config`."""

from rpo.config.loading import (
    changed,
    for_subject,
    from_toml,
    given,
    load_config,
    to_toml,
    value_of,
    values_of,
)
from rpo.config.methods import METHODS, Passes
from rpo.config.presets import BASE_PRESETS, PRESET_HELP, PRESETS, Presets
from rpo.config.sections import (
    FLOW_SOLVER,
    SETTINGS,
    TIMESTEPS,
    Config,
    DisenBoothConfig,
    DreamBoothConfig,
    LoraConfig,
    OnlineConfig,
    PhotosConfig,
    RewardConfig,
    SamplingConfig,
    TextualInversionConfig,
    TrainingConfig,
    ValidationConfig,
)
from rpo.config.toml import read_toml

__all__ = [
    "BASE_PRESETS",
    "FLOW_SOLVER",
    "METHODS",
    "PRESETS",
    "PRESET_HELP",
    "SETTINGS",
    "TIMESTEPS",
    "Config",
    "DisenBoothConfig",
    "DreamBoothConfig",
    "LoraConfig",
    "OnlineConfig",
    "Passes",
    "PhotosConfig",
    "Presets",
    "RewardConfig",
    "SamplingConfig",
    "TextualInversionConfig",
    "TrainingConfig",
    "ValidationConfig",
    "changed",
    "for_subject",
    "from_toml",
    "given",
    "load_config",
    "read_toml",
    "to_toml",
    "value_of",
    "values_of",
]
