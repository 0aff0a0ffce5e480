"""Reading files that anybody may have written: each is checked against one shape, or refused.

A shape is a type, None, a union (a tuple), a list of one shape, a mapping of names to shapes (what
it does not name may be anything), or a function that says what it demands where that is not met.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rpo.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

Shape = Any
Demand = Callable[[Any], str]  # "" for a value that is right


def whole(value: Any) -> str:
    """A whole number that counts something."""
    sound = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
    return "" if sound else "a whole number from 0"


def number(value: Any) -> str:
    """A finite number, with room to compute with it."""
    sound = isinstance(value, int | float) and not isinstance(value, bool)
    return "" if sound and abs(value) < 1e300 else "a finite number"


def every(shape: Shape) -> Mapping[None, Shape]:
    """A mapping whose every value has this shape."""
    return {None: shape}


_WORDS = {str: "text", bool: "true or false", type(None): "null", None: "null"}


def misfit(value: Any, shape: Shape, name: str = "") -> str:
    """What is wrong with a value of JSON, as "subject.photos must be a list"; empty if nothing."""
    where = name or "it"
    if isinstance(shape, tuple):
        wrong = [misfit(value, one, name) for one in shape]
        return "" if "" in wrong else wrong[0]
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{where} must be a list"
        return _first(misfit(item, shape[0], f"{name}[{i}]") for i, item in enumerate(value))
    if isinstance(shape, Mapping):
        if not isinstance(value, Mapping):
            return f"{where} must be a table of names and values"
        prefix = f"{name}." if name else ""
        every_one = shape.get(None)
        return _first(
            misfit(item, shape.get(key, every_one), f"{prefix}{key}")
            for key, item in value.items()
            if key in shape or every_one is not None
        )
    if shape is None or isinstance(shape, type):
        sound = value is None if shape is None else isinstance(value, shape)
        return "" if sound else f"{where} must be {_WORDS[shape]}"
    demand = shape(value)
    return f"{where} must be {demand}" if demand else ""


def _first(complaints: Iterable[str]) -> str:
    return next((complaint for complaint in complaints if complaint), "")


class Entries(dict[str, Any]):
    """A table read from a file. One that is asked for and not there is a UserError as well."""

    def __init__(self, values: Mapping[str, Any], source: str, remedy: str, name: str = "") -> None:
        def wrapped(key: str, value: Any) -> Any:
            if isinstance(value, dict):
                return Entries(value, source, remedy, f"{name}{key}.")
            if isinstance(value, list):
                return [wrapped(key, item) for item in value]
            return value

        super().__init__({key: wrapped(key, value) for key, value in values.items()})
        self._source, self._remedy, self._name = source, remedy, name

    def __missing__(self, key: str) -> Any:
        raise UserError(f"{self._source}: lacks {self._name}{key}; {self._remedy}")


def plain(value: Any) -> Any:
    """A nest of values with every `Entries` in it as an ordinary dict, to be copied and kept."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list) else value


def read_bytes(file: Path, remedy: str) -> bytes:
    """A plain file's content. Raises UserError for anything else, such as a link, a pipe."""
    refuse_links(file, remedy)
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); {remedy}") from None


def read_text(file: Path, remedy: str) -> str:
    """As `read_bytes`, of UTF-8."""
    try:
        return read_bytes(file, remedy).decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{file}: damaged, as it is not UTF-8 text; {remedy}") from None


def read_json(file: Path, shape: Shape, remedy: str) -> Entries:
    """A table of JSON. Raises UserError unless it is one of this shape."""
    text = read_text(file, remedy)
    try:
        return as_entries(text, shape, str(file), remedy)
    except ValueError as error:
        raise UserError(f"{file}: damaged ({error}); {remedy}") from None


def as_entries(text: str, shape: Shape, source: str, remedy: str) -> Entries:
    """A table of JSON, of this shape. Raises ValueError that says what is wrong."""
    try:
        value = json.loads(text)
        wrong = misfit(value, shape)
        if not wrong:
            return Entries(value, source, remedy)
    except RecursionError:
        wrong = "nested too deeply"
    except json.JSONDecodeError as error:
        wrong = f"not JSON: {error.msg} in line {error.lineno}"
    except ValueError as error:
        wrong = str(error).partition(";")[0]
    raise ValueError(wrong)


def read_tensors(file: Path, remedy: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a .safetensors file, and its metadata. Raises UserError for any other."""
    from safetensors import SafetensorError, safe_open

    refuse_links(file, remedy)
    try:
        with safe_open(str(file), framework="pt", device="cpu") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            return tensors, opened.metadata() or {}
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), "")[:200]
        raise UserError(f"{file}: cannot be read as safetensors ({reason}); {remedy}") from None


def refuse_links(path: Path, remedy: str = "put the files themselves there") -> None:
    """Raises UserError unless there is a plain file, or a folder of nothing but files and folders.

    So nothing is read or written elsewhere by way of a link, and no pipe is waited for. What is
    not there is no matter.
    """
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    if stat.S_ISDIR(kind):
        try:
            names = sorted(entry.name for entry in path.iterdir())
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
        for name in names:
            refuse_links(path / name, remedy)
    elif not stat.S_ISREG(kind):
        what = "a symbolic link" if stat.S_ISLNK(kind) else "no plain file"
        raise UserError(f"{path}: is {what}, which nothing of a run may be; {remedy}")
