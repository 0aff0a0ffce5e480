"""The tables of a suite's file: which lines each has, and which of them it is about."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rpo.bench.records import line_key
from rpo.errors import UserError, near_names
from rpo.reading import Shape

TABLE: Shape = {"title": str, "lines": [str], "first": str}


def read_tables(file: Path, table: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """All of them, whole; UserError for a line that no row could make.

    What is `listed` are results: they may be of some rows now, and of the others later.
    """
    possible = {
        line_key(name, choice)
        for name, row in table.get("rows", {}).items()
        for choice in (row.get("choose", ["best"]) if row.get("method") else ["untrained"])
    }
    found = {}
    for name, entry in table.get("tables", {}).items():
        lines, first = entry.get("lines", []), entry.get("first", "")
        for line in () if "listed" in table else lines:
            if line not in possible:
                hint = near_names(line, possible)
                raise UserError(f"{file}: tables.{name}: no row makes the line {line!r}; {hint}")
        if first and first not in lines:
            hint = near_names(first, lines)
            raise UserError(f"{file}: tables.{name}: first {first!r} is none of its lines; {hint}")
        found[name] = {"title": entry.get("title", name), "lines": lines}
        found[name] |= {"first": first} if first else {}
    return found
