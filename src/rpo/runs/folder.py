"""A run folder: the only code that writes or deletes files of a run.

    config.toml        complete and replayable           best/     the chosen pipeline (diffusers)
    environment.json   versions, hardware, model files   last/     what --resume continues from
    metrics.jsonl      one event a line                  images/   photos, training, validation
    report.html        self-contained                              and generated pictures

Every file is written under a temporary name and then renamed (`rpo.replacing`); a new best/ is
complete before the old one goes. Nothing is deleted that was not written here. Who writes holds the
lock (`rpo.runs.locking`). What is read may be anybody's (`rpo.reading`): no link is followed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rpo.config import Config, from_toml, to_toml
from rpo.errors import UserError
from rpo.reading import (
    as_entries,
    misfit,
    read_bytes,
    read_json,
    read_text,
    refuse_links,
)
from rpo.replacing import (
    flush,
    flush_tree,
    naming_full_disk,
    remove,
    remove_leftovers,
    replacing,
)
from rpo.runs import schemas
from rpo.runs.locking import LOCK, holder
from rpo.runs.pictures import as_pictures, save_png, slug

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

CONFIG = "config.toml"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
REPORT = "report.html"
OVERVIEW = "images/overview.png"
BEST_CARD = "rpo.json"  # in best/: which step it is, how to draw with it, which files are ours
OLD_BEST, NEW_BEST = ".best.old", ".best.new"
_FILES = (
    *(CONFIG, ENVIRONMENT, METRICS, REPORT),
    *("last/state.json", "last/trainer.safetensors", "last/data.safetensors", f"best/{BEST_CARD}"),
)
_FOLDERS = ("best", OLD_BEST, NEW_BEST, "last", "images", "tensorboard", "export")
TO_PUT_BACK = "put the file back, or start a new run"


def is_run(path: Path) -> bool:
    """Whether the folder is a run."""
    return (path / CONFIG).is_file() and (path / ENVIRONMENT).is_file()


def next_free(parent: Path, name: str) -> Path:
    """The first of parent/name-1, parent/name-2 … that does not exist."""
    number = 1
    while (path := parent / f"{name}-{number}").exists():
        number += 1
    return path


def check_free(path: Path) -> None:
    """Raises UserError unless a new run may be written to the path: absent or an empty folder."""
    if path.exists() and not path.is_dir():
        raise UserError(f"--out {path}: this is a file; name a folder")
    if path.is_dir() and any(entry.name != LOCK for entry in path.iterdir()):
        if is_run(path):
            raise UserError(
                f"--out {path}: holds a run already; add --resume to continue it, or name another"
            )
        raise UserError(f"--out {path}: holds other files; name an empty or a new folder")
    check_writable(path)


def check_writable(folder: Path) -> None:
    """Raises UserError unless the folder may be written to, or be made."""
    ancestor = next(part for part in (folder, *folder.absolute().parents) if part.exists())
    if not ancestor.is_dir() or not os.access(ancestor, os.W_OK | os.X_OK):
        raise UserError(f"--out {folder}: {ancestor} cannot be written to; name another folder")


def expanded(path: str | os.PathLike[str]) -> Path:
    """An --out with ~ resolved. Raises UserError for what can name no folder of ours."""
    found = os.path.expanduser(path)  # Path's own would raise RuntimeError
    if found.startswith("~"):
        raise UserError(f"--out {path}: there is no such user; name a folder")
    if os.path.islink(found) and not os.path.exists(found):
        raise UserError(f"--out {path}: a link to what is not there; name another folder")
    check_unicode(found, f"--out {path}")
    return Path(found)


def check_unicode(path: str | os.PathLike[str], name: str) -> None:
    """Raises UserError for a path that safetensors and tokenizers cannot open."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        raise UserError(f"{name}: holds bytes that are not UTF-8; write it otherwise") from None


@dataclass(frozen=True)
class RunFolder:
    """The files of one run."""

    path: Path

    # --- the folder itself ---------------------------------------------------------------

    @classmethod
    def create(cls, path: Path, config: Config, environment: Mapping[str, Any]) -> RunFolder:
        """Makes a new run. Raises UserError for a path that holds anything."""
        check_free(path)
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path)
        run._write_text(ENVIRONMENT, json.dumps(environment, indent=2, ensure_ascii=False) + "\n")
        run._write_text(CONFIG, to_toml(config))
        return run

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run, a swap of best/ that was cut short put right.

        Raises UserError for another folder, and for one with links or pipes among its files.
        """
        if not is_run(path):
            raise UserError(f"{path}: not a run folder; it needs {CONFIG} and {ENVIRONMENT}")
        check_unicode(path, str(path))
        run = cls(path)
        for name in (*_FOLDERS, *_FILES):
            refuse_links(path / name)
            if (path / name).exists() and (path / name).is_dir() != (name in _FOLDERS):
                what = "folder" if name in _FOLDERS else "file"
                raise UserError(f"{path / name}: must be a {what}; move it away")
        old = path / OLD_BEST
        if old.is_dir() and not (path / "best").exists() and holder(path) is None:
            os.replace(old, path / "best")
        return run

    def clear_up(self) -> None:
        """Removes what a killed process left under temporary names. For the lock's holder."""
        remove(self.path / NEW_BEST)
        old, best = self.path / OLD_BEST, self.path / "best"
        if best.exists():
            remove(old)
        elif old.is_dir():
            os.replace(old, best)
        remove_leftovers(self.path)

    def config(self) -> Config:
        """The settings of the run."""
        file = self.path / CONFIG
        return from_toml(read_text(file, TO_PUT_BACK), source=str(file))

    def update_config(self, config: Config) -> None:
        """Replaces the settings (a resumed run may get more steps)."""
        self._write_text(CONFIG, to_toml(config))

    def environment(self) -> dict[str, Any]:
        """What the run ran on. Raises UserError for a damaged file."""
        return read_json(self.path / ENVIRONMENT, schemas.ENVIRONMENT, TO_PUT_BACK)

    def _write_text(self, name: str, text: str) -> Path:
        with replacing(self.path / name) as temporary:
            # of what is half a letter; as JSON the escape is read back as that half
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
        return self.path / name

    def write_report(self, html: str) -> Path:
        """Replaces report.html."""
        return self._write_text(REPORT, html)

    @property
    def has_report(self) -> bool:
        """Whether a session that ended has left its report and its overview."""
        return (self.path / REPORT).exists() and (self.path / OVERVIEW).exists()

    # --- metrics -------------------------------------------------------------------------

    def record(self, record: Mapping[str, Any]) -> None:
        """Appends one event to metrics.jsonl."""
        path = self.path / METRICS
        text = {"encoding": "utf-8", "errors": "backslashreplace", "newline": "\n"}
        with naming_full_disk(path), path.open("a", **text) as file:  # type: ignore[call-overload]
            file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def records(self) -> list[dict[str, Any]]:
        """All events so far, but a damaged end. Raises UserError for a line damaged elsewhere."""
        return self._read_records()[0]

    def started(self) -> Mapping[str, Any]:
        """The first event; empty before it is written. UserError as `records`."""
        return next((r for r in self.records() if r["event"] == "started"), {})

    def damaged_end(self) -> str:
        """What is wrong with the last lines of metrics.jsonl; empty for nothing."""
        return self._read_records()[1]

    def cut_damaged_end(self) -> None:
        """Leaves the last lines out for good, if they are damaged."""
        records, damage = self._read_records()
        if damage:
            self._write_records(records)

    def _read_records(self) -> tuple[list[dict[str, Any]], str]:
        file = self.path / METRICS
        if not file.exists() and not file.is_symlink():
            return [], ""
        found: list[dict[str, Any]] = []
        damage = ""
        lines = read_bytes(file, TO_PUT_BACK).split(b"\n")
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                text = line.decode("utf-8")
                record = as_entries(text, schemas.RECORD, f"{file}: line {number}", TO_PUT_BACK)
                if wrong := misfit(record, schemas.RECORDS.get(record["event"], {})):
                    raise ValueError(wrong)
            except ValueError as error:
                reason = "not UTF-8 text" if isinstance(error, UnicodeError) else error
                damage = damage or f"{file}: line {number} is damaged ({reason})"
                continue
            if damage:
                raise UserError(f"{damage}; repair or delete that line")
            found.append(record)
        return found, damage

    def _write_records(self, records: Iterable[Mapping[str, Any]]) -> None:
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        self._write_text(METRICS, "".join(lines))

    def rewind(self, step: int = 0, validated: int = -1, labelled: bool = True) -> None:
        """Forgets what came after a checkpoint, which will be done again.

        validated: the last step validated by then, -1 for none; labelled: whether the training
        data were complete.
        """
        gone = {"stopped", "redrawn", "interrupted", "failed"} | (
            set() if labelled else {"labelled"}
        )
        kept = [
            record
            for record in self.records()
            if record.get("step", -1) <= (validated if record["event"] == "validated" else step)
            and record["event"] not in gone
        ]
        self._write_records(kept)

    def tensorboard(self) -> Any:
        """A TensorBoard writer into tensorboard/ of the run."""
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.path / "tensorboard"))

    # --- pictures ------------------------------------------------------------------------

    def save_images(self, folder: str, images: Any, texts: Sequence[str]) -> list[str]:
        """Writes pictures as images/<folder>/NN-<text>.png; returns paths relative to the run.

        images: (N, 3, H, W) uint8 or [0, 1], or PIL images. The text travels in the PNG.
        """
        target = self.path / "images" / folder
        target.mkdir(parents=True, exist_ok=True)
        written = []
        for index, (picture, text) in enumerate(zip(as_pictures(images), texts, strict=True)):
            file = target / f"{index + 1:02d}-{slug(text)}.png"
            with replacing(file) as temporary:
                save_png(picture, temporary, {"prompt": text})
            written.append(file.relative_to(self.path).as_posix())
        return written

    def save_overview(self, picture: Image.Image) -> Path:
        """Replaces images/overview.png."""
        file = self.path / OVERVIEW
        with replacing(file) as temporary:
            save_png(picture, temporary, {})
        return file

    # --- weights -------------------------------------------------------------------------

    def save_best(self, write: Callable[[Path], None], card: Mapping[str, Any]) -> None:
        """Replaces best/ by what `write` puts into a folder, once the new one is complete.

        card: plain values about it (step, noun, sampler), kept in best/rpo.json.
        """
        best, new, old = (self.path / name for name in ("best", NEW_BEST, OLD_BEST))
        for leftover in (new, old):  # both names are only ever ours
            remove(leftover)
        try:
            with naming_full_disk(best):
                new.mkdir()
                write(new)
                ours = sorted(f.relative_to(new).as_posix() for f in new.rglob("*") if f.is_file())
                text = json.dumps({**card, "files": ours}, indent=2, ensure_ascii=False) + "\n"
                (new / BEST_CARD).write_text(text, encoding="utf-8", newline="\n")
                flush_tree(new)
        except Exception:
            remove(new)
            raise
        if best.exists():
            self._rescue_foreign_files(new)
            os.replace(best, old)
        os.replace(new, best)
        flush(self.path)
        remove(old)

    def _rescue_foreign_files(self, new: Path) -> None:
        """Moves what somebody else laid into best/ over to its successor."""
        old = self.path / "best"
        try:
            ours = {BEST_CARD, *(self.best_card() or {}).get("files", ())}
        except UserError:  # nobody can say which are ours: the new ones replace what they must
            ours = {BEST_CARD}
        for file in sorted(old.rglob("*")):
            name = file.relative_to(old)
            if (file.is_symlink() or file.is_file()) and name.as_posix() not in ours:
                target = new / name
                if not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(file, target)

    def best_card(self) -> dict[str, Any] | None:
        """What best/ is, None while there is none. Raises UserError for a damaged one."""
        file = self.path / "best" / BEST_CARD
        if not file.exists() and not file.is_symlink():
            return None
        return read_json(file, schemas.CARD, "--resume tells whether it can be made again")

    def save_last(self, state: Any, summary: Mapping[str, Any]) -> None:
        """Replaces last/: the trainer's state, and a summary for people and for `finished`."""
        from rpo.runs.checkpoint import save_state

        (self.path / "last").mkdir(exist_ok=True)
        if (self.path / METRICS).exists():
            flush(self.path / METRICS)  # never behind the checkpoint
        with replacing(self.path / "last" / "trainer.safetensors") as temporary:
            save_state(state, temporary)
        self._write_text("last/state.json", json.dumps(dict(summary), indent=2) + "\n")

    def has_last(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return (self.path / "last" / "trainer.safetensors").is_file()

    def load_last(self) -> Any | None:
        """The trainer's state, None before the first checkpoint. Raises UserError if damaged."""
        from rpo.runs.checkpoint import load_state

        return load_state(self.path / "last" / "trainer.safetensors") if self.has_last() else None

    def summary(self) -> dict[str, Any]:
        """last/state.json; empty before the first checkpoint. Raises UserError if damaged."""
        file = self.path / "last" / "state.json"
        if not file.exists() and not file.is_symlink():
            return {}
        remedy = "delete it, and --resume makes it again from last/trainer.safetensors"
        return read_json(file, schemas.STATE, remedy)

    def save_data(self, data: Any) -> None:
        """Keeps the training data's `tensors()`, so no resume draws again."""
        from rpo.runs.checkpoint import save_tensors

        (self.path / "last").mkdir(exist_ok=True)
        with replacing(self.path / "last" / "data.safetensors") as temporary:
            save_tensors(data.tensors(), temporary)

    def load_data(self) -> dict[str, Tensor] | None:
        """What `save_data` kept, None before it is complete. Raises UserError for a damaged one."""
        from rpo.runs.checkpoint import load_tensors

        file = self.path / "last" / "data.safetensors"
        return load_tensors(file) if file.is_file() else None


def data_from(cls: Any, tensors: Mapping[str, Tensor]) -> Any:
    """`cls.from_tensors(tensors)`. Raises UserError when they do not fit."""
    try:
        return cls.from_tensors(tensors)
    except (TypeError, ValueError):
        raise UserError(
            "last/data.safetensors comes from another method or version of rpo; start a new run"
        ) from None
