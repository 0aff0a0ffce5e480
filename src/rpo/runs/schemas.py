"""What the files of a run hold: the one shape that each is read with (`rpo.reading`)."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from rpo.config import FLOW_SOLVER, SETTINGS
from rpo.reading import Shape, every, number, whole


def _solver(value: Any) -> str:
    names = (*SETTINGS["sampling.scheduler"].choices, FLOW_SOLVER)
    return "" if value in names else f"one of {', '.join(names)}"


# last/state.json
STATE: Shape = {
    "step": whole,
    "best_step": (whole, None),
    "best_reward": (number, None),
    "goal": [whole],
    "finished": bool,
}

# best/rpo.json
CARD: Shape = {
    "step": whole,
    "subject": str,
    "reward": number,
    "steps": whole,
    "guidance_scale": number,
    "scheduler": _solver,
    "base_model": str,
    "files": [str],
}

# environment.json
ENVIRONMENT: Shape = {
    "versions": every((str, None)),
    "hardware": {
        "system": str,
        "processor": str,
        "cores": (whole, None),
        "threads": whole,
        "memory_gb": (number, None),
        "accelerators": [{"name": str, "memory_gb": (number, None)}],
        "device": str,
    },
    "seed": whole,
    "resolution": whole,
    "subject": {
        "name": str,
        "noun": str,
        "kind": str,
        "folder": (str, None),
        "photos": [
            {"name": str, "sha256": str, "caption": str, "mask": str, "box": [number]},
        ],
    },
    "models": every({"name": str, "files": every(str)}),
}


def _inside(value: Any) -> str:
    """A file below images/ of the run."""
    sound = isinstance(value, str) and "\0" not in value
    if sound:
        parts = PurePosixPath(value).parts
        windows = PureWindowsPath(value)
        sound = parts[:1] == ("images",) and not {".."} & {*parts, *windows.parts}
        sound = sound and not windows.drive
    return "" if sound else "the path of a file below images/"


# metrics.jsonl, by "event"
RECORDS: dict[str, Shape] = {
    "started": {
        "path": str,
        "subject": str,
        "model": str,
        "reward_model": str,
        "steps": whole,
        "reference_prompt": str,
        "photo_prompts": [str],
        "training_prompts": [str],
        "validation_prompts": [str],
    },
    "notice": {"message": str},
    "labelled": {
        "pairs": whole,
        "mean_probability": number,
        "flip_rate": number,
        "mean_gap": number,
        "labels": str,
    },
    "step": {"step": whole},
    "validated": {
        "step": whole,
        "reward": number,
        "image_alignment": number,
        "text_alignment": number,
        "improved": bool,
        "prompts": [str],
        "images": [_inside],
    },
    "redrawn": {"step": whole, "reward": number, "prompts": [str], "images": [_inside]},
    "stopped": {"step": whole, "best_step": whole, "reason": str},
    "phase": {
        "phase": str,
        "seconds": number,
        "memory_mb": (number, None),
        "gpu_memory_mb": (number, None),
    },
    "interrupted": {"step": whole},
    "failed": {"message": str, "kind": str},
}


# of every line, whatever its kind
RECORD: Shape = {"event": str, "run": str, "number": whole, "time": number, "step": whole}
