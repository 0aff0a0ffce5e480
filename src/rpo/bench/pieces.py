"""Pieces of a suite: what each command asked for, where none asked for all of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rpo.reading import Shape, whole

PIECE: Shape = {"rows": [str], "names": [str], "seeds": [whole]}


@dataclass(frozen=True)
class Piece:
    """Each of these rows by each of these subjects and seeds."""

    rows: frozenset[str]
    names: frozenset[str]
    seeds: frozenset[int]

    def has(self, row: str, name: str, seed: int) -> bool:
        """Whether a job is of it."""
        return row in self.rows and name in self.names and seed in self.seeds

    def within(self, other: Piece) -> bool:
        """Whether the other has all of it."""
        return self.rows <= other.rows and self.names <= other.names and self.seeds <= other.seeds

    def to_table(self) -> dict[str, Any]:
        """As TOML has it."""
        return {key: sorted(getattr(self, key)) for key in PIECE}


def read_pieces(tables: Iterable[Mapping[str, Any]]) -> tuple[Piece, ...]:
    """The inverse of `Piece.to_table`, of tables that have the shape `PIECE`."""
    return tuple(Piece(*(frozenset(table.get(key, ())) for key in PIECE)) for table in tables)


def join_pieces(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """Each that lies in no other; of a single one none, as it is the whole."""
    found = list(dict.fromkeys(pieces))
    kept = [p for p in found if not any(p.within(other) for other in found if other != p)]
    return tuple(kept) if len(kept) > 1 else ()
