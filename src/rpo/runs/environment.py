"""What a run ran on: versions, hardware, model files."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Collection, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rpo.about import __version__
from rpo.models.resolve import configurations
from rpo.models.single_file import recognise

if TYPE_CHECKING:
    from rpo.config import Config
    from rpo.data.subject import Subject
    from rpo.models.backbone import Backbone

PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "safetensors",
    "peft",
    "huggingface_hub",
    "numpy",
    "pillow",
    "pillow_heif",
)


def versions() -> dict[str, str | None]:
    """Version of rpo, Python and each package it leans on; None for one not installed."""
    found: dict[str, str | None] = {"rpo": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def commit() -> str:
    """The commit of the source, marked where files differ from it; "unknown" outside its git."""
    here = Path(__file__)

    def git(*words: str) -> str:
        command = ["git", "-C", str(here.parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # not of a project that rpo is installed in
        changed = git("status", "--porcelain", "--", ":/src", ":/benchmarks/*.py")
        return git("rev-parse", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _total_memory() -> float | None:
    """Physical memory in GB, None where the system does not say."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, ValueError, OSError):
        return None


def hardware() -> dict[str, Any]:
    """Processor, cores, memory and accelerators as PyTorch sees them (imports torch)."""
    import torch

    accelerators = [
        {
            "name": torch.cuda.get_device_name(index),
            "memory_gb": round(torch.cuda.get_device_properties(index).total_memory / 1e9, 1),
        }
        for index in range(torch.cuda.device_count())
    ]
    if torch.backends.mps.is_available():
        accelerators.append({"name": "Apple GPU (mps)", "memory_gb": None})
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),  # sums differ in the last bit with another number
        "memory_gb": _total_memory(),
        "accelerators": accelerators,
    }


def file_hash(path: Path) -> str:
    """SHA-256 of a file. The hub's cache names its large files by it: then nothing is read."""
    target = path.resolve()
    if path.is_symlink() and len(target.name) == 64:
        return target.name
    digest = hashlib.sha256()
    with target.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def model_files(model: Path) -> dict[str, str]:
    """SHA-256 of each weight and configuration file of a model folder.

    Of a single file: its own, and under "configurations/" what is read from elsewhere.
    """
    if model.is_file():
        checkpoint = recognise(model)
        folder = configurations(checkpoint)
        others = _read_by(folder, checkpoint.lacking)
        return {model.name: file_hash(model)} | {
            f"configurations/{path.relative_to(folder).as_posix()}": file_hash(path)
            for path in others
        }
    return {path.relative_to(model).as_posix(): file_hash(path) for path in _files(model)}


def _files(folder: Path) -> list[Path]:
    """The weight and configuration files."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix in {".safetensors", ".json", ".txt"} and path.is_file()
    ]


def _read_by(folder: Path, lacking: Collection[str]) -> list[Path]:
    """The files of `folder` that a single file is completed with: weights of these parts only."""
    return [
        path
        for path in _files(folder)
        if path.suffix != ".safetensors" or path.parent.name in lacking
    ]


def fingerprints(subject: Subject) -> list[dict[str, Any]]:
    """The photos' names and hashes as they were read, for environment.json.

    Where a photo has them and the job uses them, its caption, the mask's hash and the box too.
    """
    return [
        {"name": name, "sha256": digest, **beside.record()}
        for name, digest, beside in zip(subject.names, subject.sha256, subject.beside, strict=True)
    ]


def describe(
    config: Config,
    subject: Subject,
    backbone: Backbone,
    models: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """environment.json of a run. models: name and hashes of the files, by role."""
    return {
        "versions": versions(),
        "hardware": hardware() | {"device": str(backbone.device)},
        "seed": config.seed,
        "resolution": backbone.resolution,
        "subject": {
            "name": subject.name,
            "noun": config.noun,
            "kind": config.subject_kind,
            "folder": subject.folder,
            "photos": fingerprints(subject),
        },
        "models": dict(models),
    }
