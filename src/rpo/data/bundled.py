"""The subjects that ship with the embedded model, for `rpo demo`."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from rpo.about import ASSETS
from rpo.config import read_toml
from rpo.errors import UserError

if TYPE_CHECKING:
    from rpo.data.subject import Subject

_FOLDER = ASSETS / "emojiland"
DEFAULT = "dog"


def bundled_names() -> tuple[str, ...]:
    """The names that `bundled_subject` takes, in the file's order."""
    return tuple(bundled_table())


def bundled_subject(name: str = "") -> Subject:
    """One bundled subject; without a name the one called "dog", or else the first.

    Raises UserError for an unknown name, with near matches, and where none is installed.
    """
    from rpo.data.subject import Subject  # here, because it is slow and the names alone are not

    table = bundled_table()
    name = name or (DEFAULT if DEFAULT in table else next(iter(table)))
    if name not in table:
        near = difflib.get_close_matches(name, table, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(table)}"
        raise UserError(f"--subject {name}: no such bundled subject; {hint}")
    entry = table[name]
    return Subject.from_folder(
        _FOLDER / "subjects" / name, noun=entry["noun"], kind=entry.get("kind", "auto")
    )


def bundled_table() -> dict[str, dict]:
    """What is said of each bundled subject: its noun, and its kind where that is not guessed."""
    file = _FOLDER / "subjects.toml"
    if not file.is_file():
        raise UserError(f"{file}: this installation lacks the bundled subjects; reinstall rpo")
    return read_toml(file)
