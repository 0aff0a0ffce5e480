"""What a setting is: a typed, limited value with a name and a help sentence.

`rpo.config.sections` lists the settings themselves.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, get_args, get_type_hints

from rpo.errors import UserError, brief

# What no TOML file or no file name can hold: half a letter, as of bytes that are not UTF-8, or NUL.
_UNSAVEABLE = re.compile("[\ud800-\udfff\0]")


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
                raise UserError(f"{self.key} must be {demand}, not {brief(value)}")
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
                text = os.fspath(value)
                if not isinstance(text, str) or _UNSAVEABLE.search(text):
                    raise UserError(
                        f"{self.key} must be Unicode text without NUL, not {brief(value)}"
                    )
                return text
            raise UserError(f"{self.key} must be text, not {brief(value)}")
        if self.type is bool:
            if isinstance(value, bool):
                return value
            raise UserError(f"{self.key} must be true or false, not {brief(value)}")
        # bool is an int to Python but never what a user means by a number.
        if self.type is int:
            if isinstance(value, numbers.Integral) and not isinstance(value, bool):
                if -(2**63) <= int(value) < 2**63:  # what TOML and PyTorch can hold
                    return int(value)
                raise UserError(f"{self.key} must have 64 bits, not be {brief(value)}")
            raise UserError(f"{self.key} must be a whole number, not {brief(value)}")
        if isinstance(value, numbers.Real) and not isinstance(value, bool):
            with suppress(OverflowError):  # of an int above all floats
                if math.isfinite(value):
                    return float(value)
            raise UserError(f"{self.key} must be finite, not {brief(value)}")
        raise UserError(f"{self.key} must be a number, not {brief(value)}")


class Section:
    """Checks every setting on construction, so that no invalid configuration can exist."""

    _prefix: ClassVar[str] = ""

    @classmethod
    def settings(cls) -> dict[str, Setting]:
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
        for name, setting in self.settings().items():
            object.__setattr__(self, name, setting.check(getattr(self, name)))
