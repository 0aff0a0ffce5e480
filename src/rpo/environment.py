"""What a run ran on: versions, hardware, model files."""

from __future__ import annotations

import hashlib
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from rpo import __version__

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


def model_files(folder: Path) -> dict[str, str]:
    """SHA-256 of each weight and configuration file of a model folder."""
    return {
        path.relative_to(folder).as_posix(): file_hash(path)
        for path in sorted(folder.rglob("*"))
        if path.suffix in {".safetensors", ".json", ".txt"} and path.is_file()
    }
