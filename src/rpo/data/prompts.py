"""Prompts in their two wordings, and the training, validation and test lists.

A template holds one ``{}`` where the subject goes. Both wordings are built from it: nothing ever
searches a finished text for the identifier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

from rpo.about import ASSETS
from rpo.config import Config, read_toml
from rpo.errors import UserError

BUILT_IN = ("paper", "emojiland")
SPLITS = ("training", "validation", "test")
KINDS = ("live", "object")
REFERENCE_TEMPLATE = "a photo of {}"  # the paper's prompt for every reference photo


def photo_texts(captions: Sequence[str], reference: str) -> list[str]:
    """What the photos are told by: one prompt for all, or each photo's own where some have one.

    captions: a photo's own prompt or "" each, or none at all; reference: that of the others.
    """
    return [caption or reference for caption in captions] or [reference]


@dataclass(frozen=True)
class Prompt:
    """One prompt: ``conditioning`` names the subject by its identifier ("a [V] dog on the
    Moon") and goes to the denoiser; ``plain`` ("a dog on the Moon") goes to rewards and metrics.
    """

    conditioning: str
    plain: str

    @classmethod
    def from_template(cls, template: str, noun: str, identifier: str) -> Prompt:
        """Fills the template's one ``{}``.

        UserError if there is not exactly one ``{}``, if noun or identifier is empty, or if the
        identifier already stands in the template or the noun: plain would then contain it.
        """
        noun, identifier = noun.strip(), identifier.strip()
        _check_template(template, "prompt")
        if not noun:
            raise UserError("noun is empty; name the subject's class, for example --noun dog")
        if not identifier:
            raise UserError('identifier is empty; choose a rare word such as "[V]"')
        plain = template.replace("{}", noun)
        if f" {identifier} " in f" {plain} ":
            raise UserError(
                f'identifier "{identifier}" already stands in "{plain}"; it must only come from '
                "the identifier setting, so take it out of the noun or the prompt"
            )
        return cls(template.replace("{}", f"{identifier} {noun}"), plain)

    @classmethod
    def reference(cls, noun: str, identifier: str) -> Prompt:
        """The reference photos' prompt: "a photo of [V] dog" and "a photo of dog"."""
        return cls.from_template(REFERENCE_TEMPLATE, noun, identifier)


@dataclass(frozen=True)
class PromptSet:
    """Templates by subject kind ("live" or "object") for training, validation and test.

    UserError if a template has not exactly one ``{}``, appears twice in a list, or is shared by
    two of the three lists (of any kind; case and spacing do not make a difference).
    """

    training: Mapping[str, tuple[str, ...]]
    validation: Mapping[str, tuple[str, ...]]
    test: Mapping[str, tuple[str, ...]]
    source: str = "prompts"

    def __post_init__(self) -> None:
        seen: dict[str, set[str]] = {split: set() for split in SPLITS}
        for split in SPLITS:
            for kind, templates in getattr(self, split).items():
                if kind not in KINDS:
                    raise UserError(
                        f'{self.source}: unknown subject kind "{split}.{kind}"; '
                        f"use {' or '.join(KINDS)}"
                    )
                keys = [_key(template) for template in templates]
                for template, key in zip(templates, keys, strict=True):
                    _check_template(template, f"{self.source}: {split}.{kind}")
                    if keys.count(key) > 1:
                        raise UserError(
                            f'{self.source}: {split}.{kind} lists "{template}" twice; remove one'
                        )
                seen[split].update(keys)
        for first, second in combinations(SPLITS, 2):
            if shared := sorted(seen[first] & seen[second]):
                raise UserError(
                    f'{self.source}: "{shared[0]}" is both a {first} and a {second} prompt; '
                    "the lists must be disjoint, so remove it from one"
                )

    def prompts(self, split: str, kind: str, noun: str, identifier: str) -> list[Prompt]:
        """The prompts of one list for one subject. UserError if the list is empty."""
        if split not in SPLITS or kind not in KINDS:
            raise ValueError(f"no prompt list {split}.{kind}")
        templates = getattr(self, split).get(kind, ())
        if not templates:
            raise UserError(f'{self.source}: no {split} prompts; add "{kind} = [...]" to [{split}]')
        return [Prompt.from_template(template, noun, identifier) for template in templates]


def chosen_prompts(config: Config) -> PromptSet:
    """The lists that `config.prompts` names; auto are those that suit the base model."""
    fitting = "emojiland" if config.model == "emojiland" else "paper"
    return load_prompt_set(fitting if config.prompts == "auto" else config.prompts)


def load_prompt_set(name_or_path: str | Path) -> PromptSet:
    """Reads a built-in list ("paper", "emojiland") or a TOML file of the same form.

    The file has the tables [training], [validation] and [test], each with the lists ``live`` and
    ``object``; a missing list is empty. UserError names the file and what to change in it.
    """
    if name_or_path in BUILT_IN:
        path = ASSETS / "prompts" / f"{name_or_path}.toml"
    else:
        path = Path(name_or_path)
    if not path.exists():
        raise UserError(
            f'prompts "{name_or_path}" is neither a built-in list ({", ".join(BUILT_IN)}) '
            "nor a file; correct the name"
        )
    tables = read_toml(path)
    if unknown := [key for key in tables if key not in SPLITS]:
        raise UserError(f"{path}: unknown table [{unknown[0]}]; use {', '.join(SPLITS)}")
    lists = {split: _read_lists(tables.get(split, {}), f"{path}: {split}") for split in SPLITS}
    return PromptSet(**lists, source=str(name_or_path))


def skill_of(template: str) -> str:
    """What a prompt asks for beyond the subject, such as "colour"; "other" for one's own."""
    return _skills().get(_key(template), "other")


@cache
def _skills() -> dict[str, str]:
    table = read_toml(ASSETS / "prompts" / "skills.toml")
    return {_key(t): skill for skill, templates in table.items() for t in templates}


def _read_lists(table: Any, where: str) -> dict[str, tuple[str, ...]]:
    """The kinds of one table, each checked to be a list of strings."""
    if not isinstance(table, dict):
        raise UserError(f"{where} must be a table with the lists {' and '.join(KINDS)}")
    for kind, templates in table.items():
        if not isinstance(templates, list) or not all(isinstance(t, str) for t in templates):
            raise UserError(f'{where}.{kind} must be a list of texts such as "a {{}} on the Moon"')
    return {kind: tuple(templates) for kind, templates in table.items()}


def _check_template(template: str, where: str) -> None:
    if template.count("{}") != 1:
        raise UserError(f'{where}: "{template}" must hold exactly one {{}} for the subject')


def _key(template: str) -> str:
    return " ".join(template.casefold().split())
