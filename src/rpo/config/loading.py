"""From files, flags and presets to a `Config`, and back to TOML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import tomli_w

from rpo.config.methods import METHODS
from rpo.config.presets import OWN, Presets
from rpo.config.sections import SECTIONS, SETTINGS, Config
from rpo.config.settings import Section, Setting
from rpo.config.toml import parse_toml, read_toml
from rpo.errors import UserError, brief, near_names, printable

PresetNames = str | Sequence[str] | None


def load_config(
    preset: PresetNames = None,
    file: Path | None = None,
    overrides: Sequence[str] = (),
    base: Config | None = None,
    known: Presets = OWN,
    **fields: Any,
) -> Config:
    """Merge presets < TOML `file` < `fields` < `overrides` ("training.steps=200"), over defaults.

    preset: one name or several, later ones over earlier ones. Under them lies what suits the
    method, and under that, unless a whole preset is given, the one that suits the model. `known`
    are the presets to choose from: `rpo.models.resolve.known_presets()` has those of all model
    families. `fields` are Config's: a section is a mapping of what to change or a whole section
    object; None means "not given". `base` is a complete Config that stands in the presets' and the
    file's place.
    Raises UserError for an unknown preset or setting, with near matches, and for an invalid
    value, each naming where it came from.
    """
    layers = _explicit(preset, file, overrides, base, known, **fields)
    if base is not None:
        return _build(layers)
    suitable = known.base_of(_names(preset))
    if not suitable:
        suitable = [known.suitable(layers.get("model", SETTINGS["model"].default))]
    under: dict[str, Any] = {}
    for name in suitable:
        under |= _checked(known.settings[name], f"preset {name}")
    method = layers.get("method", SETTINGS["method"].default)
    if facts := METHODS.get(method):
        if facts.learners[0] != "full":
            under["training.weights"] = facts.learners[0]
        under |= _checked(facts.settings, f"method {method}")
        if "emojiland" in suitable:
            under |= _checked(facts.emojiland, f"method {method}")
    return _build(under | layers)


def _names(preset: PresetNames) -> tuple[str, ...]:
    return () if preset is None else (preset,) if isinstance(preset, str) else tuple(preset)


def given(
    preset: PresetNames = None,
    file: Path | None = None,
    overrides: Sequence[str] = (),
    base: Config | None = None,
    known: Presets = OWN,
    **fields: Any,
) -> dict[str, Any]:
    """What the arguments of `load_config` say themselves, under dotted names; raises as it does."""
    layers: dict[str, Any] = {}
    whole = known.base_of(_names(preset))
    if whole and base is None:  # what they say of a setting may lie under what the method says
        merged = load_config(preset, file, overrides, known=known, **fields)
        for name in whole:
            layers |= {key: value_of(merged, key) for key, _ in _flatten(known.settings[name])}
    return layers | _explicit(preset, file, overrides, base, known, **fields)


def _explicit(
    preset: PresetNames,
    file: Path | None,
    overrides: Sequence[str],
    base: Config | None,
    known: Presets,
    **fields: Any,
) -> dict[str, Any]:
    """What is said over everything that suits model and method: `given` without whole presets."""
    layers: dict[str, Any] = {}
    for name in _names(preset):
        if base is not None:
            raise UserError(
                f"preset {name!r} and a Config exclude each other, as a Config sets everything; "
                "give one, or make the Config by load_config(preset)"
            )
        if name not in known.settings:
            raise UserError(f"unknown preset {name!r}; {near_names(name, known.settings)}")
        if name not in known.base:
            layers |= _checked(known.settings[name], f"preset {name}")
    if base is not None:
        layers |= values_of(base)
    if file is not None:
        layers |= _checked(read_toml(Path(file)), str(file))
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
            lines += ["", f"# {SECTIONS[section].__doc__}", f"[{section}]"]
        lines += [f"# {setting.help}", tomli_w.dumps({name: value_of(config, key)}).rstrip("\n")]
    return "\n".join(lines) + "\n"


def from_toml(text: str, source: str = "TOML") -> Config:
    """The Config that `text` spells out; what it leaves out is the default, without any preset.

    `source` (a file's name) heads the message of the UserError that invalid text raises.
    """
    values = _checked(parse_toml(text, source), source)
    with _naming(source):
        return _build(values)


def _build(values: Mapping[str, Any]) -> Config:
    """A Config from checked values under dotted names."""
    own: dict[str, dict[str, Any]] = {name: {} for name in ("", *SECTIONS)}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        own[section][name] = value
    sections = {name: section(**own[name]) for name, section in SECTIONS.items()}
    return Config(**own[""], **sections)


def _checked(layer: Mapping[str, Any], source: str = "") -> dict[str, Any]:
    """The values of a nested `layer` under dotted names, each of them known and valid."""
    with _naming(source):
        return {key: _setting(key).check(value) for key, value in _flatten(layer)}


def _flatten(layer: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in layer.items():
        if isinstance(value, Section):
            value = {own: getattr(value, own) for own in value.settings()}
        # deeper than any setting it is an unknown one, and Python's stack is not for its depth
        if isinstance(value, Mapping) and prefix.count(".") < 3:
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _parse_override(override: str) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    shown = printable(override[:200])
    if not equals:
        raise UserError(f"--set {shown}: write it as name=value, such as training.steps=200")
    with _naming(f"--set {shown}"):
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
        raise UserError(f"unknown setting {brief(key)}; {near_names(key, SETTINGS)}")
    return SETTINGS[key]
