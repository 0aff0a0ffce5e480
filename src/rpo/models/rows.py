"""Frozen dataclasses of tensors that stay together: what a method prepares, and its batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rpo.models.conditions import Conditions

if TYPE_CHECKING:
    from typing_extensions import Self


class Rows:
    """Base of a frozen dataclass whose fields are tensors, Conditions, Rows, or tuples of tensors.

    Equal tensors in one value stay one tensor when it is moved or split.
    """

    def _mapped(self, change: Callable[[Any], Any]) -> Self:
        done: dict[int, Any] = {}

        def apply(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(apply(part) for part in value)
            if isinstance(value, Rows):
                return value._mapped(change)
            if id(value) not in done:
                done[id(value)] = change(value)
            return done[id(value)]

        return type(self)(**{f.name: apply(getattr(self, f.name)) for f in fields(self)})  # type: ignore[arg-type]

    def to(self, device: torch.device) -> Self:
        """The same on `device`; to a GPU the host sends it without waiting."""

        def send(value: Any) -> Any:
            if device.type == "cuda" and isinstance(value, Tensor) and value.device.type == "cpu":
                return value.pin_memory().to(device, non_blocking=True)
            return value.to(device)

        return self._mapped(send)

    def split(self, parts: int) -> Iterator[Self]:
        """As many equal parts of its rows."""
        for part in range(parts):

            def rows(value: Any, part: int = part) -> Any:
                size = len(value) // parts
                return value[part * size : (part + 1) * size]

            yield self._mapped(rows)

    def tensors(self) -> dict[str, Tensor]:
        """All of it by name, for saving; "generated_conditions.tokens" and the like."""
        named: dict[str, Tensor] = {}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, Conditions):
                named |= {f"{field.name}.{key}": part for key, part in value.tensors().items()}
            else:
                named[field.name] = value
        return named

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """The inverse of `tensors`. Raises TypeError for other names."""
        values: dict[str, Any] = {}
        for name, tensor in tensors.items():
            field, _, part = name.partition(".")
            if part:
                values.setdefault(field, {})[part] = tensor
            else:
                values[field] = tensor
        for name, value in values.items():
            if isinstance(value, dict):
                values[name] = Conditions.from_tensors(value)
        return cls(**values)
