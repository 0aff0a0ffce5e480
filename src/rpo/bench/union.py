"""A results folder's suite and a new one, as one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rpo.bench.pieces import join_pieces
from rpo.bench.suite import BenchSuite, SuiteRow
from rpo.config import values_of
from rpo.errors import UserError


def union(old: BenchSuite, new: BenchSuite, where: Path) -> BenchSuite:
    """Both as one: what was done stays listed. UserError where they differ in what both have."""
    for key in ("model", "judges", "images_per_prompt", "pictures", "subjects"):
        if getattr(old, key) != getattr(new, key):
            raise UserError(f"{where}: made with another {key}; name another folder by --out")
    rows = {row.name: row for row in old.rows}
    for row in new.rows:
        before = rows.setdefault(row.name, row)
        for key in ("config", "choose", "images", "ip_adapter"):
            if getattr(before, key) != getattr(row, key):
                what = _difference(before, row) if key == "config" else key
                raise UserError(
                    f"{where}: its row {row.name} was made with another {what}; name another "
                    "folder by --out, or call the row otherwise"
                )
    rows |= {row.name: row for row in new.rows}
    entries = {entry.name: entry for entry in (*old.entries, *new.entries)}
    seeds = tuple(sorted({*old.seeds, *new.seeds}))
    tables = {**old.tables, **new.tables}
    return replace(
        new,
        rows=tuple(rows.values()),
        entries=tuple(entries.values()),
        seeds=seeds,
        tables=tables,
        pieces=join_pieces([*(old.pieces or [old.whole]), *(new.pieces or [new.whole])]),
    )


def _difference(first: SuiteRow, second: SuiteRow) -> str:
    a, b = values_of(first.config), values_of(second.config)
    return next(key for key in a if a[key] != b[key])
