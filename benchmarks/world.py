"""What `benchmarks.speed` runs on: the embedded world, or a folder like it."""

from __future__ import annotations

from pathlib import Path

import rpo
from rpo.config import read_toml
from rpo.data.subject import Subject
from rpo.errors import UserError
from rpo.runs.environment import model_files

WORLD = Path(rpo.__file__).parent / "assets" / "emojiland"
MODELS = ("pipeline", "reward")


def subject_table(world: Path) -> dict[str, dict[str, str]]:
    """Name -> noun and kind of each subject. Raises UserError where the file is absent."""
    table = world / "subjects.toml"
    if not table.is_file():
        raise UserError(f"{table}: no such file; --world names a folder of models and subjects")
    return read_toml(table)


def load_subject(world: Path, name: str) -> Subject:
    """One subject and its photos."""
    entry = subject_table(world)[name]
    return Subject.from_folder(world / "subjects" / name, entry["noun"], entry["kind"])  # type: ignore[arg-type]


def model_hashes(world: Path) -> dict[str, dict[str, str]]:
    """SHA-256 of the weights of every model."""
    hashes = {kind: model_files(world / kind) for kind in MODELS}
    return {
        kind: {name: value for name, value in files.items() if name.endswith(".safetensors")}
        for kind, files in hashes.items()
    }
