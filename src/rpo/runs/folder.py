"""A run folder: the only code that writes or deletes files of a run.

    config.toml        complete and replayable           best/     the chosen pipeline (diffusers)
    environment.json   versions, hardware, model files   last/     what --resume continues from
    metrics.jsonl      one event a line                  images/   photos, training, validation
    report.html        self-contained                              and generated pictures

Every file is written under a temporary name and then renamed; a new best/ is complete before
the old one goes. Nothing is deleted that was not written here.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rpo.config import Config, from_toml, to_toml
from rpo.errors import UserError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

CONFIG = "config.toml"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
REPORT = "report.html"
TO_GO_ON = "free some space, then --resume"
BEST_CARD = "rpo.json"  # in best/: which step it is, how to draw with it, which files are ours


def slug(text: str, limit: int = 60) -> str:
    """A file name made of the text's letters and digits, joined by hyphens."""
    words = "".join(c.lower() if c.isalnum() else " " for c in text).split()
    return "-".join(words)[:limit].strip("-") or "image"


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
    if path.is_dir() and any(path.iterdir()):
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


@contextmanager
def naming_full_disk(path: Path, remedy: str = TO_GO_ON) -> Iterator[None]:
    """Makes a full disk or quota a UserError that names the file."""
    try:
        yield
    except Exception as error:
        # safetensors raises an error of its own, with the number in the text alone
        numbers = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
        if getattr(error, "errno", None) in numbers or any(
            f"(os error {number})" in str(error) for number in numbers
        ):
            raise UserError(f"{path}: the disk is full; {remedy}") from error
        raise


@contextmanager
def _replacing(path: Path, remedy: str = TO_GO_ON) -> Iterator[Path]:
    """Gives a temporary name beside `path`; renames it to `path` if nothing goes wrong."""
    temporary = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        with naming_full_disk(path, remedy):
            yield temporary
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def as_pictures(images: Any) -> list[Image.Image]:
    """(N, 3, H, W) in uint8 or [0, 1] floats, or a sequence of PIL images, to PIL images."""
    import torch
    from PIL import Image

    if not isinstance(images, torch.Tensor):
        return list(images)
    if images.dtype != torch.uint8:
        images = images.float().clamp(0, 1).mul(255).round().to(torch.uint8)
    return [Image.fromarray(image.permute(1, 2, 0).cpu().numpy()) for image in images]


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
        """An existing run, a swap of best/ that was cut short put right. Raises UserError."""
        if not is_run(path):
            raise UserError(f"{path}: not a run folder; it needs {CONFIG} and {ENVIRONMENT}")
        check_unicode(path, str(path))
        run = cls(path)
        old = path / ".best.old"
        if old.is_dir() and not (path / "best").exists():
            os.replace(old, path / "best")
        return run

    def config(self) -> Config:
        """The settings of the run."""
        file = self.path / CONFIG
        return from_toml(file.read_text(encoding="utf-8"), source=str(file))

    def update_config(self, config: Config) -> None:
        """Replaces the settings (a resumed run may get more steps)."""
        self._write_text(CONFIG, to_toml(config))

    def environment(self) -> dict[str, Any]:
        """What the run ran on."""
        return json.loads((self.path / ENVIRONMENT).read_text(encoding="utf-8"))

    def _write_text(self, name: str, text: str) -> Path:
        with _replacing(self.path / name) as temporary:
            # of what is half a letter; as JSON the escape is read back as that half
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
        return self.path / name

    def write_report(self, html: str) -> Path:
        """Replaces report.html."""
        return self._write_text(REPORT, html)

    # --- metrics -------------------------------------------------------------------------

    def record(self, record: Mapping[str, Any]) -> None:
        """Appends one event to metrics.jsonl."""
        path = self.path / METRICS
        text = {"encoding": "utf-8", "errors": "backslashreplace", "newline": "\n"}
        with naming_full_disk(path), path.open("a", **text) as file:  # type: ignore[call-overload]
            file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def records(self) -> list[dict[str, Any]]:
        """All events so far; a last line that was cut off in the middle is left out."""
        file = self.path / METRICS
        if not file.exists():
            return []
        found = []
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return found

    def rewind(self, step: int = 0, validated: int = -1, labelled: bool = True) -> None:
        """Forgets what came after a checkpoint, which will be done again.

        validated: the last step validated by then, -1 for none; labelled: whether the training
        data were complete.
        """
        gone = {"stopped", "interrupted", "failed"} | (set() if labelled else {"labelled"})
        kept = [
            record
            for record in self.records()
            if record.get("step", -1) <= (validated if record["event"] == "validated" else step)
            and record["event"] not in gone
        ]
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in kept)
        self._write_text(METRICS, "".join(lines))

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
            with _replacing(file) as temporary:
                save_png(picture, temporary, {"prompt": text})
            written.append(file.relative_to(self.path).as_posix())
        return written

    def save_overview(self, picture: Image.Image) -> Path:
        """Replaces images/overview.png."""
        file = self.path / "images" / "overview.png"
        with _replacing(file) as temporary:
            save_png(picture, temporary, {})
        return file

    # --- weights -------------------------------------------------------------------------

    def save_best(self, write: Callable[[Path], None], card: Mapping[str, Any]) -> None:
        """Replaces best/ by what `write` puts into a folder, once the new one is complete.

        card: plain values about it (step, noun, sampler), kept in best/rpo.json.
        """
        best, new, old = (self.path / name for name in ("best", ".best.new", ".best.old"))
        for leftover in (new, old):  # both names are only ever ours
            shutil.rmtree(leftover, ignore_errors=True)
        try:
            with naming_full_disk(best):
                new.mkdir()
                write(new)
                ours = sorted(f.relative_to(new).as_posix() for f in new.rglob("*") if f.is_file())
                text = json.dumps({**card, "files": ours}, indent=2, ensure_ascii=False) + "\n"
                (new / BEST_CARD).write_text(text, encoding="utf-8", newline="\n")
        except Exception:
            shutil.rmtree(new, ignore_errors=True)
            raise
        if best.exists():
            _rescue_foreign_files(best, new)
            os.replace(best, old)
        os.replace(new, best)
        shutil.rmtree(old, ignore_errors=True)

    def best_card(self) -> dict[str, Any] | None:
        """What best/ is, None while there is none."""
        file = self.path / "best" / BEST_CARD
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    def save_last(self, state: Any, summary: Mapping[str, Any]) -> None:
        """Replaces last/: the trainer's state, and a summary for people and for `finished`."""
        from rpo.runs.checkpoint import save_state

        (self.path / "last").mkdir(exist_ok=True)
        with _replacing(self.path / "last" / "trainer.safetensors") as temporary:
            save_state(state, temporary)
        self._write_text("last/state.json", json.dumps(dict(summary), indent=2) + "\n")

    def load_last(self) -> Any | None:
        """The trainer's state, None before the first checkpoint."""
        from rpo.runs.checkpoint import load_state

        file = self.path / "last" / "trainer.safetensors"
        return load_state(file) if file.is_file() else None

    def summary(self) -> dict[str, Any]:
        """last/state.json; empty before the first checkpoint."""
        file = self.path / "last" / "state.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    def save_data(self, data: Any) -> None:
        """Keeps the training data's `tensors()`, so no resume draws again."""
        from safetensors.torch import save_file

        (self.path / "last").mkdir(exist_ok=True)
        tensors: dict[str, Tensor] = {
            name: tensor.detach().cpu().clone().contiguous()
            for name, tensor in data.tensors().items()
        }
        with _replacing(self.path / "last" / "data.safetensors") as temporary:
            save_file(tensors, str(temporary))

    def load_data(self) -> dict[str, Tensor] | None:
        """What `save_data` kept, None before it is complete."""
        from safetensors.torch import load_file

        file = self.path / "last" / "data.safetensors"
        return load_file(str(file)) if file.is_file() else None


def _rescue_foreign_files(old: Path, new: Path) -> None:
    """Moves what somebody else laid into best/ over to its successor."""
    card = old / BEST_CARD
    ours = set(json.loads(card.read_text(encoding="utf-8"))["files"]) if card.is_file() else set()
    ours.add(BEST_CARD)
    for file in sorted(old.rglob("*")):
        name = file.relative_to(old)
        if file.is_file() and name.as_posix() not in ours:
            target = new / name
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, target)


def save_png(picture: Image.Image, path: Path, texts: Mapping[str, Any]) -> None:
    """A PNG with text entries and no time: the same picture gives the same bytes."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in texts.items():
        info.add_itxt(key, str(value))
    picture.save(path, format="PNG", pnginfo=info)


def save_generated(
    pictures: Iterable[Image.Image], folder: Path, prompt: str, settings: Iterable[Mapping]
) -> list[Path]:
    """Adds pictures to a folder as NNNN-<prompt>.png after the highest number there.

    Never overwrites, even with two commands at once. settings: one mapping a picture, kept as
    the PNG's text. Raises UserError where the folder cannot be written to or the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be made a folder; name another") from error
    taken = [int(f.name[:4]) for f in folder.glob("[0-9][0-9][0-9][0-9]-*.png")]
    number = max(taken, default=0)
    written = []
    for picture, texts in zip(pictures, settings, strict=True):
        while True:
            number += 1
            path = folder / f"{number:04d}-{slug(prompt)}.png"
            try:
                path.open("xb").close()
            except FileExistsError:
                continue
            except OSError as error:
                raise UserError(f"{path}: cannot be written ({error.strerror})") from error
            break
        try:
            with _replacing(path, "free some space, or name another folder by --out") as temporary:
                save_png(picture, temporary, texts)
        except BaseException:
            path.unlink()  # the empty file that had taken the name
            raise
        written.append(path)
    return written


def data_from(cls: Any, tensors: Mapping[str, Tensor]) -> Any:
    """`cls.from_tensors(tensors)`. Raises UserError when they do not fit."""
    try:
        return cls.from_tensors(tensors)
    except TypeError:
        raise UserError(
            "last/data.safetensors comes from another method or version of rpo; start a new run"
        ) from None
