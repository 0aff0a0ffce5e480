"""What a result was made with and from: commit, versions, machine; and its files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rpo.runs.environment import commit, hardware, versions


def provenance(device: str) -> dict[str, Any]:
    """Commit, versions and hardware, and how busy the machine was at the start (1-minute load)."""
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    return {
        "commit": commit(),
        "versions": versions(),
        "hardware": hardware() | {"device": device},
        "load_at_start": load,
    }


def machine_line(record: Mapping[str, Any]) -> str:
    """Processor, threads, device and versions of a `provenance` record, in one line."""
    machine, packages = record["hardware"], record["versions"]
    named = ", ".join(f"{name} {packages[name]}" for name in ("torch", "diffusers", "transformers"))
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads, "
        f"device {machine['device']}; Python {packages['python']}, {named}"
    )


def write_text(path: Path, text: str) -> None:
    """Replaces a file in one piece, so that an interrupted command leaves the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    os.replace(temporary, path)


def write_json(path: Path, content: Any) -> None:
    """Replaces a JSON file in one piece."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
