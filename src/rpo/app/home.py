"""Where the page keeps its things, and the only door from a name on the page to a file."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rpo.bench.records import JOBS
from rpo.errors import UserError, brief
from rpo.evaluation.file import FILE
from rpo.replacing import replacing
from rpo.runs.folder import check_writable, expanded, is_run

AGAIN = "free some space, then try again"
OWN = ".rpo-app"  # in the runs' folder: photos, queue, uploads and the bin
_NAME = re.compile(r"[^\W_][^/\\\0\r\n]{0,199}")  # no hidden file, no way up, no second folder
_DRAFT = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Home:
    """The runs' folder, and in it the page's own."""

    root: Path

    @classmethod
    def at(cls, folder: str | os.PathLike[str]) -> Home:
        """Makes what is missing. Raises UserError where that cannot be, or where it is a link."""
        root = expanded(folder).absolute()
        if root.exists() and not root.is_dir():
            raise UserError(f"{folder}: a file; name the folder of the runs")
        check_writable(root)
        root.mkdir(parents=True, exist_ok=True)
        home = cls(root.resolve())
        for place in (home.own, home.photos, home.jobs, home.uploads, home.exports, home.bin):
            if place.is_symlink() or (place.exists() and not place.is_dir()):
                raise UserError(f"{place}: must be a folder and no link; move it away")
            place.mkdir(exist_ok=True)
        return home

    @property
    def own(self) -> Path:
        """The page's own folder."""
        return self.root / OWN

    @property
    def photos(self) -> Path:
        """A folder for each collection of photos."""
        return self.own / "photos"

    @property
    def jobs(self) -> Path:
        """The queue: a few files a job."""
        return self.own / "jobs"

    @property
    def uploads(self) -> Path:
        """What browsers send, until it is looked at."""
        return self.own / "uploads"

    @property
    def exports(self) -> Path:
        """What is offered as a download."""
        return self.own / "exports"

    @property
    def bin(self) -> Path:
        """What the page threw away."""
        return self.own / "bin"

    def place(self, name: Any) -> Path:
        """Where a run of that name is or would be. Raises UserError for what is no plain name."""
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name in (".", ".."):
            raise UserError(f"{brief(name, 80)}: no run of this folder; choose one of the list")
        path = self.root / name
        if path.is_symlink():
            raise UserError(f"{brief(name, 80)}: a link, which is not followed; choose another")
        return path

    def run(self, name: Any) -> Path:
        """A run's folder. Raises UserError for any other name."""
        path = self.place(name)
        if not is_run(path):
            raise UserError(f"{brief(name, 80)}: no run of this folder; choose one of the list")
        return path

    def runs(self) -> Iterator[Path]:
        """All runs, the newest first."""
        found = []
        for entry in os.scandir(self.root):
            plain = not entry.is_symlink() and _NAME.fullmatch(entry.name)
            if plain and entry.is_dir() and is_run(Path(entry.path)):
                found.append((os.stat(Path(entry.path) / "environment.json").st_mtime, entry.path))
        yield from (Path(path) for _, path in sorted(found, reverse=True))

    def results(self) -> dict[str, Path]:
        """Results of `rpo bench` and `rpo evaluate` by their way from here, the newest first.

        They lie in this folder, or in what these commands make in it: results/ and evaluations/.
        """
        found = []
        for base in (self.root, self.root / "evaluations", self.root / "results"):
            if base.is_symlink() or not base.is_dir():
                continue
            for entry in os.scandir(base):
                plain = _NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
                if plain and _was_measured(path := Path(entry.path)):
                    name = path.relative_to(self.root).as_posix()
                    found.append((entry.stat(follow_symlinks=False).st_mtime, name))
        return {name: self.root / name for _, name in sorted(found, reverse=True)}

    def result(self, name: Any) -> Path:
        """A folder of `results`, by its name there. Raises UserError for any other."""
        path = self.results().get(name) if isinstance(name, str) else None
        if path is None:
            raise UserError(f"{brief(name, 80)}: no results of this folder; choose one of the list")
        return path

    def file(self, run: Any, inside: str, ending: str) -> Path:
        """A file of a run's images/, by its way from there. Raises UserError for any other."""
        base = self.run(run) / "images"
        path = base
        for part in inside.split("/"):
            path = path / part
            if part in ("", ".", "..") or "\\" in part or "\0" in part or path.is_symlink():
                raise UserError(f"{brief(inside, 80)}: no picture of this run")
        if base.is_symlink() or path.suffix != ending or not path.is_file():
            raise UserError(f"{brief(inside, 80)}: no picture of this run")
        return path

    def draft(self, name: Any) -> Path:
        """The folder of a collection of photos. Raises UserError for any other name."""
        path = self.photos / name if isinstance(name, str) and _DRAFT.fullmatch(name) else None
        if path is None or path.is_symlink() or not path.is_dir():
            raise UserError("these photos are gone; drop them again")
        return path

    def throw_away(self, name: Any) -> Path:
        """Moves a run into the bin and tells where it is now. Raises UserError if it is no run."""
        path = self.run(name)
        target = self.bin / f"{time.strftime('%Y%m%d-%H%M%S')}-{path.name}"
        if target.exists():
            raise UserError(f"{path.name}: was thrown away just now; try again")
        os.replace(path, target)
        return target


def _was_measured(folder: Path) -> bool:
    jobs, file = folder / JOBS, folder / FILE
    if jobs.is_symlink() or file.is_symlink():
        return False
    return jobs.is_dir() or file.is_file()


def read_table(file: Path) -> dict[str, Any]:
    """A small JSON table of the page's own; empty where it is gone or damaged."""
    try:
        if file.is_symlink() or file.stat().st_size > 1_000_000:
            return {}
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def write_table(file: Path, table: Mapping[str, Any]) -> None:
    """Replaces a small JSON table."""
    with replacing(file, AGAIN) as temporary:
        temporary.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")
