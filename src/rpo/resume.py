"""Continuing a run: which one it is, and that its settings and photos are still the same."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rpo.config import PRESETS, SETTINGS, Config, load_config, tomllib
from rpo.environment import file_hash
from rpo.errors import UserError
from rpo.result import Run
from rpo.run import RunFolder, check_free, is_run
from rpo.subject import Subject

# A resumed run may change what no earlier step depends on.
CHANGEABLE = (
    "training.steps",
    "validation.patience",
    "sampling.batch_size",
    "validation.batch_size",
    "device",
)


def resumable(subject: Subject, out: str | os.PathLike[str] | None) -> Path | None:
    """The run to continue; None for `out` that is absent or empty (then the run starts anew)."""
    if out is not None:
        path = Path(out).expanduser()
        if is_run(path):
            return path
        check_free(path)
        return None
    prefix = f"{subject.name}-"
    found = [
        path
        for path in (Path("runs").iterdir() if Path("runs").is_dir() else ())
        if path.name.startswith(prefix) and path.name[len(prefix) :].isdigit() and is_run(path)
    ]
    open_runs = [path for path in found if not Run(path).finished]
    return max(open_runs, key=lambda path: int(path.name[len(prefix) :]), default=None)


def _parsed(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    return tomllib.loads(file.read_text(encoding="utf-8-sig"))


def _merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings, the later over the earlier; None counts as not given."""
    result: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            if isinstance(value, Mapping) and isinstance(result.get(name), Mapping):
                result[name] = _merged(result[name], value)
            elif value is not None:
                result[name] = value
    return result


def value_of(config: Config, key: str) -> Any:
    section, _, name = key.rpartition(".")
    return getattr(getattr(config, section) if section else config, name)


def continued(
    folder: RunFolder,
    subject: Subject,
    preset: str | None,
    file: Path | None,
    fields: Mapping[str, Any],
    settings: Sequence[str],
) -> Config:
    """The settings of a run to be continued: its own, and what is explicitly given over them.

    So the command that began the run, with --resume added, continues it. Raises UserError where
    a setting that is not `CHANGEABLE`, or a photo, differs.
    """
    stored = folder.config()
    given = _merged(PRESETS.get(preset or "", {}), _parsed(file), fields)
    config = anchored(load_config("paper", folder.path / "config.toml", settings, **given))
    for key in SETTINGS:
        if value_of(config, key) != value_of(stored, key) and key not in CHANGEABLE:
            raise UserError(
                f"--resume: {folder.path} was made with {key} = {value_of(stored, key)!r}, "
                f"not {value_of(config, key)!r}; leave that out, or start a new run"
            )
    done = folder.summary().get("step", 0)
    if config.training.steps < done:
        raise UserError(f"--resume: training.steps must be at least the {done} steps already done")
    if folder.environment()["subject"]["photos"] != fingerprints(subject):
        raise UserError(
            f"--resume: the photos are not those that {folder.path} was made with; "
            "give the same ones, or start a new run"
        )
    return config


def anchored(config: Config) -> Config:
    """Folders and files by absolute path, so that the run resumes from another directory."""

    def anchor(name: str) -> str:
        special = name in ("auto", "emojiland", "paper")
        path = Path(name).expanduser()
        return name if special or not path.exists() else str(path.resolve())

    reward = replace(config.reward, model=anchor(config.reward.model))
    model, prompts = anchor(config.model), anchor(config.prompts)
    return replace(config, model=model, prompts=prompts, reward=reward)


def fingerprints(subject: Subject) -> list[dict[str, str]]:
    return [{"name": path.name, "sha256": file_hash(path)} for path in subject.paths]
