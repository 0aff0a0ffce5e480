"""What a run ran on: versions, hardware, model files; and what each phase of it cost."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
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


def model_files(location: str | os.PathLike[str]) -> dict[str, str]:
    """SHA-256 of each weight and configuration file of a model folder or cached hub model.

    Empty when the model lies nowhere on this machine.
    """
    folder = Path(location)
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache

        for name in ("model_index.json", "config.json"):
            found = try_to_load_from_cache(str(location), name)
            if isinstance(found, str):
                folder = Path(found).parent
                break
        else:
            return {}
    return {
        path.relative_to(folder).as_posix(): file_hash(path)
        for path in sorted(folder.rglob("*"))
        if path.suffix in {".safetensors", ".json", ".txt"} and path.is_file()
    }


def _high_water() -> float | None:
    """The process's peak resident memory so far, in MB."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e6 / 1024)


def _resident() -> float | None:
    """The process's resident memory now, in MB."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    except (OSError, ValueError, AttributeError):
        return None


@dataclass
class Cost:
    """What a phase took: seconds; peak memory in MB of the process and of the GPU."""

    seconds: float = 0.0
    memory_mb: float | None = None
    gpu_memory_mb: float | None = None

    def add(self, seconds: float, memory_mb: float | None, gpu_memory_mb: float | None) -> None:
        """Times add up; of peaks the highest stays."""
        self.seconds += seconds
        self.memory_mb = _highest(self.memory_mb, memory_mb)
        self.gpu_memory_mb = _highest(self.gpu_memory_mb, gpu_memory_mb)


def _highest(a: float | None, b: float | None) -> float | None:
    known = [value for value in (a, b) if value is not None]
    return max(known) if known else None


@dataclass
class Stretch:
    """A measured piece of work and the phase that it is booked to."""

    phase: str


@dataclass
class Meter:
    """Books wall-clock time and peak memory to phases that take turns.

    A process's high-water mark never falls, and resetting it would mislead whoever measures
    the process from outside. So a stretch is charged with the mark where it raised it, and
    with the memory in use at its end where it did not.
    """

    costs: dict[str, Cost] = field(default_factory=dict)
    _mark: float = field(default_factory=lambda: _high_water() or 0.0)

    @contextmanager
    def stretch(self, phase: str) -> Iterator[Stretch]:
        """Measures the enclosed work; its phase may be corrected while it runs."""
        stretch = Stretch(phase)
        start = time.perf_counter()
        try:
            yield stretch
        finally:
            seconds = time.perf_counter() - start
            mark = _high_water()
            memory = mark if mark is not None and mark > self._mark else _resident()
            self._mark = max(self._mark, mark or 0.0)
            self.costs.setdefault(stretch.phase, Cost()).add(seconds, memory, _gpu_peak())


def _gpu_peak() -> float | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    peak = torch.cuda.max_memory_allocated() / 1e6
    torch.cuda.reset_peak_memory_stats()
    return peak
