"""Every setting of a run: one typed, validated source for the CLI, the files and the docs.

A setting is a dataclass field whose metadata holds its help sentence and its limits. `SETTINGS`
lists them under their dotted names ("training.steps"), the names that TOML files, `--set` and
error messages use. Defaults are the paper's (Table 4 of arXiv 2407.12164); `PRESETS` change them.
"""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import tomli_w

from rpo.errors import UserError
from rpo.models import base_preset
from rpo.presets import BASE_PRESETS, PRESETS
from rpo.settings import Section, Setting

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


TIMESTEPS = 1000  # of the diffusion that the models learned; no solver can take more


def _field(default: Any, help: str, **limits: Any) -> Any:
    return dataclasses.field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True)
class SamplingConfig(Section):
    """How the base model draws the training images."""

    _prefix: ClassVar[str] = "sampling."
    steps: int = _field(50, "Solver steps for each training image.", at_least=1, at_most=TIMESTEPS)
    guidance_scale: float = _field(7.5, "Classifier-free guidance of the base model.", at_least=0)
    images_per_prompt: int = _field(
        4, "Images that the base model draws for each training prompt.", at_least=1
    )
    batch_size: int = _field(8, "Images drawn at once; lower it to save memory.", at_least=1)
    scheduler: Literal["dpm++", "ddim"] = _field(
        "ddim", "The solver that draws them; flow-matching models use their own."
    )


@dataclass(frozen=True)
class TrainingConfig(Section):
    """The optimisation (Eq. 7 to 9, Table 4)."""

    _prefix: ClassVar[str] = "training."
    steps: int = _field(400, "Gradient steps.", at_least=1)
    learning_rate: float = _field(5e-6, "Constant learning rate of AdamW.", above=0)
    weight_decay: float = _field(1e-2, "Weight decay of AdamW.", at_least=0)
    max_grad_norm: float = _field(1.0, "The gradient's norm is clipped to this.", above=0)
    beta: float = _field(1.0, "Strength of the preference, the beta of Eq. 9.", at_least=0)
    batch_size: int = _field(1, "Pairs of a photo and a drawn image at once.", at_least=1)
    accumulate: int = _field(
        1, "Batches whose gradients are added up to one step; saves memory.", at_least=1
    )
    optimizer: Literal["adamw", "adamw8bit"] = _field(
        "adamw", "AdamW, or bitsandbytes' one that keeps its moments in 8 bits."
    )
    weights: Literal["full", "lora", "dora"] = _field(
        "full", "What learns: the whole denoiser (the paper), or a low-rank adapter of it."
    )
    checkpointing: bool = _field(
        False, "Compute activations twice instead of keeping them: a third slower, far less memory."
    )
    similarity_weight: float = _field(
        1.0, "Weight of the similarity loss; 0 is Diffusion-DPO alone (Table 7).", at_least=0
    )
    preference_weight: float = _field(
        1.0, "Weight of the preference loss; 0 is the similarity loss alone (Table 2).", at_least=0
    )
    independent_noise: bool = _field(
        False, "Give the halves of a pair noise and timesteps of their own, as the official code."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.similarity_weight == self.preference_weight == 0:
            raise UserError(
                "training.similarity_weight and training.preference_weight are both 0, "
                "which trains nothing; set at least one above 0"
            )


@dataclass(frozen=True)
class LoraConfig(Section):
    """The adapter, where training.weights is lora (arXiv 2106.09685) or dora (arXiv 2402.09353)."""

    _prefix: ClassVar[str] = "lora."
    rank: int = _field(16, "Rank of the adapter's matrices.", at_least=1)
    alpha: float = _field(16.0, "The adapter is scaled by alpha / rank.", above=0)
    targets: str = _field(
        "auto",
        "Layers that get one, by the ends of their names (to_q,to_k); auto is all attention.",
        form=(r"[\w.]+(\s*,\s*[\w.]+)*", "auto, or names with commas between them"),
    )


@dataclass(frozen=True)
class RewardConfig(Section):
    """The lambda-harmonic reward (Eq. 5) and the preference labels (Eq. 6)."""

    _prefix: ClassVar[str] = "reward."
    model: str = _field(
        "auto",
        "Reward model: a folder, a hub id or auto.",
        form=(r".+", "a folder, hub id or auto"),
    )
    mean: Literal["harmonic", "arithmetic"] = _field(
        "harmonic", "How image and text alignment are averaged (Table 6)."
    )
    lambda_train: float = _field(
        0.0, "Weight of image alignment in the labels; 0 is text alone.", at_least=0, at_most=1
    )
    lambda_val: float = _field(
        0.5, "Weight of image alignment in validation.", at_least=0, at_most=1
    )
    temperature: float = _field(1.0, "Divides the gap of the rewards in Eq. 6.", above=0)
    labels: Literal["drawn", "expected"] = _field(
        "drawn", "Draw a pair's label by its probability (Eq. 6), or let that be the label."
    )


@dataclass(frozen=True)
class ValidationConfig(Section):
    """When and how a checkpoint is judged; the best one is kept."""

    _prefix: ClassVar[str] = "validation."
    every: int = _field(40, "Gradient steps from one validation to the next.", at_least=1)
    images_per_prompt: int = _field(1, "Images drawn for each validation prompt.", at_least=1)
    steps: int = _field(
        20, "Solver steps for each validation image.", at_least=1, at_most=TIMESTEPS
    )
    guidance_scale: float = _field(7.5, "Classifier-free guidance in validation.", at_least=0)
    batch_size: int = _field(8, "Images drawn at once; lower it to save memory.", at_least=1)
    scheduler: Literal["dpm++", "ddim"] = _field(
        "dpm++", "The solver that draws them; flow-matching models use their own."
    )
    keep: Literal["best", "last"] = _field(
        "best", "Which validated step is the result; last is training without selection (Table 2)."
    )
    patience: int = _field(
        0, "Stop after this many validations without a new best; 0 runs all steps.", at_least=0
    )


_SECTION_TYPES: dict[str, Any] = {
    "sampling": SamplingConfig,
    "training": TrainingConfig,
    "lora": LoraConfig,
    "reward": RewardConfig,
    "validation": ValidationConfig,
}


@dataclass(frozen=True)
class Config(Section):
    """A whole run. Raises UserError, naming the setting, where a value is invalid."""

    model: str = _field(
        "emojiland",
        "Base model: emojiland, a folder, a .safetensors file or a hub id.",
        form=(r".+", "a folder, file or hub id"),
    )
    noun: str = _field("", "What the photos show, in a word or two, such as dog.")
    identifier: str = _field(
        "[V]", "The rare token that names the subject.", form=(r"\S+", "one word")
    )
    subject_kind: Literal["auto", "live", "object"] = _field(
        "auto", "Which list of prompts fits the subject; auto decides by the noun."
    )
    prompts: str = _field(
        "auto",
        "Prompt lists: paper, emojiland, a TOML file, or auto to suit the base model.",
        form=(r".+", "paper, emojiland, a TOML file or auto"),
    )
    seed: int = _field(0, "All randomness derives from it.", at_least=0, at_most=2**32 - 1)
    device: str = _field(
        "auto",
        "Where to compute: auto, cpu, mps, cuda, cuda:N or xpu.",
        form=(r"auto|cpu|mps|(cuda|xpu)(:\d+)?", "auto, cpu, mps, cuda, cuda:N or xpu"),
    )
    resolution: int = _field(
        0, "Side of the images in pixels; 0 is the model's own.", at_least=0, multiple_of=8
    )
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = _field(
        "fp32", "Number format of all that is frozen and of the arithmetic; what learns is fp32."
    )
    quantize: Literal["no", "int8", "nf4"] = _field(
        "no", "Hold the frozen denoiser in 8 or 4 bits under a LoRA; needs bitsandbytes."
    )
    offload: bool = _field(
        False, "Keep on the GPU only what is computing: all but the denoiser come and go."
    )
    compile: bool = _field(
        False, "Compile the denoiser: minutes of waiting first, then faster steps and pictures."
    )
    sampling: SamplingConfig = SamplingConfig()
    training: TrainingConfig = TrainingConfig()
    lora: LoraConfig = LoraConfig()
    reward: RewardConfig = RewardConfig()
    validation: ValidationConfig = ValidationConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, section in _SECTION_TYPES.items():
            if not isinstance(getattr(self, name), section):
                raise UserError(f"{name} must be a {section.__name__}")


SETTINGS: Mapping[str, Setting] = {
    setting.key: setting
    for section in (Config, *_SECTION_TYPES.values())
    for setting in section.settings().values()
}

FLOW_SOLVER = "flow-euler"  # the solver of flow-matching models, which have no other


def default_preset(model: str) -> str:
    """The preset that suits `model`, where the user names none."""
    return base_preset(model)


def load_config(
    preset: str | None = None,
    file: Path | None = None,
    overrides: Sequence[str] = (),
    base: Config | None = None,
    **fields: Any,
) -> Config:
    """Merge preset < TOML `file` < `fields` < `overrides` ("training.steps=200") over the defaults.

    Without a preset, the one that suits the resulting model is taken (`default_preset`). `fields`
    are Config's: a section is a mapping of what to change or a whole section object; None means
    "not given". `base` is a complete Config that stands in the preset's and the file's place.
    Raises UserError for an unknown preset or setting, with near matches, and for an invalid
    value, each naming where it came from.
    """
    layers = given(preset, file, overrides, base, **fields)
    if preset not in BASE_PRESETS:
        suitable = default_preset(layers.get("model", SETTINGS["model"].default))
        layers = _checked(PRESETS[suitable], f"preset {suitable}") | layers
    return _build(layers)


def given(
    preset: str | None = None,
    file: Path | None = None,
    overrides: Sequence[str] = (),
    base: Config | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """What the arguments of `load_config` say themselves, under dotted names; raises as it does."""
    layers: dict[str, Any] = {}
    if base is not None:
        if preset is not None:
            raise UserError(
                f"preset {preset!r} and a Config exclude each other, as a Config sets everything; "
                "give one, or make the Config by load_config(preset)"
            )
        layers |= values_of(base)
    if preset is not None:
        if preset not in PRESETS:
            raise UserError(f"unknown preset {preset!r}; {_suggest(preset, PRESETS)}")
        layers |= _checked(PRESETS[preset], f"preset {preset}")
    if file is not None:
        layers |= _checked(_parse_toml(_read(Path(file)), str(file)), str(file))
    layers |= _checked({name: value for name, value in fields.items() if value is not None})
    for override in overrides:
        layers |= _parse_override(override)
    return layers


def changed(config: Config, values: Mapping[str, Any]) -> Config:
    """`config` with other values for the settings of these dotted names."""
    return _build({**values_of(config), **values})


def value_of(config: Config, key: str) -> Any:
    """The value of the setting with that dotted name."""
    section, _, name = key.rpartition(".")
    return getattr(getattr(config, section) if section else config, name)


def values_of(config: Config) -> dict[str, Any]:
    """Every setting's value under its dotted name."""
    return {key: value_of(config, key) for key in SETTINGS}


def for_subject(config: Config, noun: str, kind: Literal["live", "object"]) -> Config:
    """`config` with the subject's noun, and its kind where the settings leave it open.

    Raises UserError where the settings name another noun.
    """
    if config.noun and " ".join(config.noun.split()) != noun:
        raise UserError(
            f"noun is {config.noun!r} in the settings, but the photos were said to show "
            f"{noun!r}; give it once, by --noun"
        )
    chosen = kind if config.subject_kind == "auto" else config.subject_kind
    return replace(config, noun=noun, subject_kind=chosen)


def to_toml(config: Config) -> str:
    """Every setting of `config`, commented with its help; `from_toml` gives an equal Config."""
    lines, section = [], ""
    for key, setting in SETTINGS.items():
        *parents, name = key.split(".")
        if parents and parents[0] != section:
            section = parents[0]
            lines += ["", f"# {_SECTION_TYPES[section].__doc__}", f"[{section}]"]
        lines += [f"# {setting.help}", tomli_w.dumps({name: value_of(config, key)}).rstrip("\n")]
    return "\n".join(lines) + "\n"


def from_toml(text: str, source: str = "TOML") -> Config:
    """The Config that `text` spells out; what it leaves out is the default, without any preset.

    `source` (a file's name) heads the message of the UserError that invalid text raises.
    """
    values = _checked(_parse_toml(text, source), source)
    with _naming(source):
        return _build(values)


def _build(values: Mapping[str, Any]) -> Config:
    """A Config from checked values under dotted names."""
    own: dict[str, dict[str, Any]] = {name: {} for name in ("", *_SECTION_TYPES)}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        own[section][name] = value
    sections = {name: section(**own[name]) for name, section in _SECTION_TYPES.items()}
    return Config(**own[""], **sections)


def _checked(layer: Mapping[str, Any], source: str = "") -> dict[str, Any]:
    """The values of a nested `layer` under dotted names, each of them known and valid."""
    with _naming(source):
        return {key: _setting(key).check(value) for key, value in _flatten(layer)}


def _flatten(layer: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in layer.items():
        if isinstance(value, Section):
            value = {own: getattr(value, own) for own in value.settings()}
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _parse_override(override: str) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    if not equals:
        raise UserError(f"--set {override}: write it as name=value, such as training.steps=200")
    with _naming(f"--set {override}"):
        return {key.strip(): _setting(key.strip()).parse(text)}


@contextmanager
def _naming(source: str) -> Iterator[None]:
    """Puts `source` before the message of a UserError."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{source}: {error}" if source else str(error)) from None


def _setting(key: str) -> Setting:
    if key not in SETTINGS:
        raise UserError(f"unknown setting {key!r}; {_suggest(key, SETTINGS)}")
    return SETTINGS[key]


def _suggest(name: str, known: Iterable[str]) -> str:
    """What the user may have meant: a section's settings, a near spelling, another section's."""
    known = list(known)
    leaf = name.rpartition(".")[2]
    near = [key for key in known if key.startswith(f"{name}.")]
    near += difflib.get_close_matches(name, known, n=2)
    near += [key for key in known if key.rpartition(".")[2] == leaf]
    if near:
        return f"did you mean {' or '.join(list(dict.fromkeys(near))[:4])}?"
    return f"choose from {', '.join(known)}"


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")  # Windows editors put a byte order mark first
    except FileNotFoundError:
        raise UserError(f"{file}: no such file; name an existing TOML file") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); name a TOML file") from None


def _parse_toml(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{source}: not valid TOML: {error}") from None
