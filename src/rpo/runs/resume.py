"""Continuing a run: which one it is, and that its settings and photos are still the same."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rpo.config import SETTINGS, Config, changed, for_subject, value_of
from rpo.data.subject import Subject
from rpo.errors import UserError
from rpo.runs.environment import fingerprints, model_files
from rpo.runs.folder import RunFolder, check_free, expanded, is_run
from rpo.runs.result import Run

# A resumed run may change what no earlier step depends on; a falling schedule depends on the steps.
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
        path = expanded(out)
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
    newest_first = sorted(found, key=lambda path: -int(path.name[len(prefix) :]))
    return next((path for path in newest_first if not Run(path).finished), None)


def resume_config(folder: RunFolder, subject: Subject, given: Mapping[str, Any]) -> Config:
    """The settings of a run to be continued: its own, and what is explicitly given over them.

    given: values under dotted names. So the command that began the run, with --resume added,
    continues it. Raises UserError where a setting that is not `CHANGEABLE`, or a photo, differs.
    """
    stored = folder.config()
    # What is left open was decided when the run began.
    given = {
        key: value
        for key, value in given.items()
        if (key, value) not in (("noun", ""), ("subject_kind", "auto"))
    }
    config = anchored(changed(stored, {"noun": subject.noun, **given}))
    fixed = set(SETTINGS) - set(CHANGEABLE)
    if stored.training.schedule != "constant":
        fixed.add("training.steps")
    for key in SETTINGS:
        if value_of(config, key) != value_of(stored, key) and key in fixed:
            raise UserError(
                f"--resume: {folder.path} was made with {key} = {value_of(stored, key)!r}, "
                f"not {value_of(config, key)!r}; leave that out, or start a new run"
            )
    config = for_subject(config, subject.noun, subject.kind)
    done = folder.summary().get("step", 0)
    if config.training.steps < done:
        raise UserError(f"--resume: training.steps must be at least the {done} steps already done")
    then = folder.environment()["subject"]["photos"]
    now = fingerprints(subject.arranged(config.photos))
    if then != now:
        files = [[(p["name"], p["sha256"]) for p in photos] for photos in (then, now)]
        what = "captions, masks or boxes of the photos" if files[0] == files[1] else "photos"
        raise UserError(
            f"--resume: the {what} are not those that {folder.path} was made with; "
            "give the same ones, or start a new run"
        )
    return config


def check_unchanged(
    folder: RunFolder, models: Mapping[str, Path], prompts: Mapping[str, Sequence[str]]
) -> None:
    """Raises UserError unless models and prompts are those that the run began with.

    models: the folders or files by their role in environment.json; prompts: the lists by their
    name in the record of the start. Files that a model has got in addition are no difference.
    """
    for role, place in models.items():
        now = model_files(place)
        for name, digest in folder.environment()["models"][role]["files"].items():
            if now.get(name) != digest:
                file = f"{place} ({name})" if place.is_file() else place / name
                raise UserError(
                    f"--resume: {file} is not the file that {folder.path} was made with; "
                    "put that model back, or start a new run"
                )
    started = folder.started()
    for key, texts in prompts.items():
        if started.get(key, list(texts)) != list(texts):
            raise UserError(
                f"--resume: the {key.replace('_', ' ')} are not those that {folder.path} was made "
                "with; put the prompt file back, or start a new run"
            )


def anchored(config: Config) -> Config:
    """Folders and files by absolute path, so that the run resumes from another directory."""

    def anchor(name: str) -> str:
        special = name in ("auto", "emojiland", "paper", "own", "tiny")
        path = Path(os.path.expanduser(name))
        if special or not path.exists():
            return name
        # A file keeps its name: in the hub's cache it is a link to one without a suffix.
        return str(path.resolve() if path.is_dir() else path.parent.resolve() / path.name)

    reward = replace(config.reward, model=anchor(config.reward.model))
    online = replace(config.online, decoder=anchor(config.online.decoder))
    model, prompts = anchor(config.model), anchor(config.prompts)
    return replace(config, model=model, prompts=prompts, reward=reward, online=online)
