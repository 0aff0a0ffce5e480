"""Every setting of a run: one typed, validated source for the CLI, the files and the docs.

A setting is a dataclass field whose metadata holds its help sentence and its limits. `SETTINGS`
lists them under their dotted names ("training.steps"), the names that TOML files, `--set` and
error messages use. Defaults are the paper's (Table 4 of arXiv 2407.12164); `PRESETS` change them.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import numbers
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args, get_type_hints

import tomli_w

from rpo.errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Setting:
    """One setting: its dotted name, its type (`bool`, `int`, `float` or `str`) and its limits."""

    key: str
    type: type
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    multiple_of: int | None = None
    form: tuple[str, str] | None = None  # a pattern to match, and what that demands, in words

    def check(self, value: Any) -> Any:
        """`value` as the setting's own type. Raises UserError, naming the setting."""
        value = self._typed(value)
        for violated, demand in (
            (self.choices and value not in self.choices, f"one of {', '.join(self.choices)}"),
            (self.at_least is not None and value < self.at_least, f">= {self.at_least}"),
            (self.above is not None and value <= self.above, f"> {self.above}"),
            (self.at_most is not None and value > self.at_most, f"<= {self.at_most}"),
            (self.multiple_of and value % self.multiple_of, f"a multiple of {self.multiple_of}"),
            (self.form and not re.fullmatch(self.form[0], value), self.form and self.form[1]),
        ):
            if violated:
                raise UserError(f"{self.key} must be {demand}, not {value!r}")
        return value

    def parse(self, text: str) -> Any:
        """The value that `text` spells, as in `--set training.steps=200`. Raises UserError."""
        value: Any = text.strip()
        try:
            if self.type is bool:
                value = {"true": True, "false": False}.get(value.lower(), value)
            elif self.type is not str:
                value = self.type(value)
        except ValueError:
            pass  # still text: check() says what it should have been
        return self.check(value)

    def _typed(self, value: Any) -> Any:
        if self.type is str:
            if isinstance(value, (str, os.PathLike)):
                return os.fspath(value)
            raise UserError(f"{self.key} must be text, not {value!r}")
        if self.type is bool:
            if isinstance(value, bool):
                return value
            raise UserError(f"{self.key} must be true or false, not {value!r}")
        # bool is an int to Python but never what a user means by a number.
        if self.type is int:
            if isinstance(value, numbers.Integral) and not isinstance(value, bool):
                return int(value)
            raise UserError(f"{self.key} must be a whole number, not {value!r}")
        if isinstance(value, numbers.Real) and not isinstance(value, bool):
            if math.isfinite(value):
                return float(value)
            raise UserError(f"{self.key} must be finite, not {value!r}")
        raise UserError(f"{self.key} must be a number, not {value!r}")


def _field(default: Any, help: str, **limits: Any) -> Any:
    return dataclasses.field(default=default, metadata={"help": help, **limits})


class _Section:
    """Checks every setting on construction, so that no invalid configuration can exist."""

    _prefix: ClassVar[str] = ""

    @classmethod
    def _settings(cls) -> dict[str, Setting]:
        """The settings that are fields of this class itself, by field name."""
        hints = get_type_hints(cls)
        own = {}
        for field in dataclasses.fields(cls):  # type: ignore[arg-type]
            if "help" not in field.metadata:
                continue  # a section
            choices = get_args(hints[field.name])  # of a Literal; empty for a plain type
            own[field.name] = Setting(
                key=cls._prefix + field.name,
                type=str if choices else hints[field.name],
                default=field.default,
                choices=choices,
                **field.metadata,
            )
        return own

    def __post_init__(self) -> None:
        for name, setting in self._settings().items():
            object.__setattr__(self, name, setting.check(getattr(self, name)))


@dataclass(frozen=True)
class SamplingConfig(_Section):
    """How the base model draws the training images."""

    _prefix: ClassVar[str] = "sampling."
    steps: int = _field(50, "Solver steps for each training image.", at_least=1)
    guidance_scale: float = _field(7.5, "Classifier-free guidance of the base model.", at_least=0)
    images_per_prompt: int = _field(
        4, "Images that the base model draws for each training prompt.", at_least=1
    )
    batch_size: int = _field(8, "Images drawn at once; lower it to save memory.", at_least=1)
    scheduler: Literal["dpm++", "ddim"] = _field(
        "ddim", "The solver that draws them; flow-matching models use their own."
    )


@dataclass(frozen=True)
class TrainingConfig(_Section):
    """The optimisation (Eq. 7 to 9, Table 4)."""

    _prefix: ClassVar[str] = "training."
    steps: int = _field(400, "Gradient steps.", at_least=1)
    learning_rate: float = _field(5e-6, "Constant learning rate of AdamW.", above=0)
    weight_decay: float = _field(1e-2, "Weight decay of AdamW.", at_least=0)
    max_grad_norm: float = _field(1.0, "The gradient's norm is clipped to this.", above=0)
    beta: float = _field(1.0, "Strength of the preference, the beta of Eq. 9.", at_least=0)
    batch_size: int = _field(1, "Pairs of a photo and a drawn image in each step.", at_least=1)
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
class RewardConfig(_Section):
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


@dataclass(frozen=True)
class ValidationConfig(_Section):
    """When and how a checkpoint is judged; the best one is kept."""

    _prefix: ClassVar[str] = "validation."
    every: int = _field(40, "Gradient steps from one validation to the next.", at_least=1)
    images_per_prompt: int = _field(1, "Images drawn for each validation prompt.", at_least=1)
    steps: int = _field(20, "Solver steps for each validation image.", at_least=1)
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
    "reward": RewardConfig,
    "validation": ValidationConfig,
}


@dataclass(frozen=True)
class Config(_Section):
    """A whole run. Raises UserError, naming the setting, where a value is invalid."""

    model: str = _field(
        "emojiland",
        "Base model: emojiland, a folder or a hub id.",
        form=(r".+", "a folder or hub id"),
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
        "Where to compute: auto, cpu, mps, cuda or cuda:N.",
        form=(r"auto|cpu|mps|(cuda|xpu)(:\d+)?", "auto, cpu, mps, cuda, cuda:N or xpu"),
    )
    resolution: int = _field(
        0, "Side of the images in pixels; 0 is the model's own.", at_least=0, multiple_of=8
    )
    sampling: SamplingConfig = SamplingConfig()
    training: TrainingConfig = TrainingConfig()
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
    for setting in section._settings().values()
}

FLOW_SOLVER = "flow-euler"  # the solver of flow-matching models, which have no other

# "paper" and "emojiland" are whole sets of settings, one for each scale of base model. The others
# change a few of them: they come on top of the set that suits the model.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "emojiland": {
        "sampling": {"steps": 20, "guidance_scale": 3.0, "scheduler": "dpm++"},
        "training": {"learning_rate": 1e-4},
        "validation": {"guidance_scale": 3.0},
    },
    "early-stop": {"validation": {"patience": 3}},
}
BASE_PRESETS = ("paper", "emojiland")


def default_preset(model: str) -> str:
    """The preset that suits `model`, where the user names none."""
    return "emojiland" if model == "emojiland" else "paper"


def load_config(
    preset: str | None = None,
    file: Path | None = None,
    overrides: Sequence[str] = (),
    **fields: Any,
) -> Config:
    """Merge preset < TOML `file` < `fields` < `overrides` ("training.steps=200") over the defaults.

    Without a preset, the one that suits the resulting model is taken (`default_preset`). `fields`
    are Config's: a section is a mapping of what to change or a whole section object; None means
    "not given". Raises UserError for an unknown preset or setting, with near matches, and for an
    invalid value, each naming where it came from.
    """
    layers: dict[str, Any] = {}
    if file is not None:
        layers |= _checked(_parse_toml(_read(Path(file)), str(file)), str(file))
    layers |= _checked({name: value for name, value in fields.items() if value is not None})
    for override in overrides:
        layers |= _parse_override(override)

    base = default_preset(layers.get("model", SETTINGS["model"].default))
    preset = preset or base
    if preset not in PRESETS:
        raise UserError(f"unknown preset {preset!r}; {_suggest(preset, PRESETS)}")
    if preset not in BASE_PRESETS:
        layers = _checked(PRESETS[preset], f"preset {preset}") | layers
        preset = base
    return _build(_checked(PRESETS[preset], f"preset {preset}") | layers)


def to_toml(config: Config) -> str:
    """Every setting of `config`, commented with its help; `from_toml` gives an equal Config."""
    lines, section = [], ""
    for key, setting in SETTINGS.items():
        *parents, name = key.split(".")
        if parents and parents[0] != section:
            section = parents[0]
            lines += ["", f"# {_SECTION_TYPES[section].__doc__}", f"[{section}]"]
        owner = getattr(config, section) if parents else config
        lines += [f"# {setting.help}", tomli_w.dumps({name: getattr(owner, name)}).rstrip("\n")]
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
        if isinstance(value, _Section):
            value = {own: getattr(value, own) for own in value._settings()}
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
