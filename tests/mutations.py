"""Ways to damage a run folder, or to make it a trap: each a name and what it does to a copy."""

from __future__ import annotations

import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from forgeries import DATA, SCRIPT, STATES, first_of, forge_data, forge_state
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

ADAPTER = "best/pytorch_lora_weights.safetensors"

# The kinds of runs that are spoiled, and what besides its card each one's best/ consists of.
KINDS = {
    "full": (
        "best/model_index.json",
        "best/unet/config.json",
        "best/unet/diffusion_pytorch_model.safetensors",
    ),
    "flow": (
        "best/model_index.json",
        "best/transformer/config.json",
        "best/transformer/diffusion_pytorch_model.safetensors",
    ),
    "lora": (ADAPTER,),
}


@dataclass(frozen=True)
class Mutation:
    """kind: of `KINDS`; state: "done" or "begun" (broken off at a checkpoint).

    apply(folder, outside) spoils a copy of that run.
    """

    kind: str
    state: str
    name: str
    apply: Callable[[Path, Path], None]

    def __str__(self) -> str:
        return f"{self.kind}, {self.state}: {self.name}"


def neighbour(root: Path) -> Path:
    """A folder that no mutation may reach, with what links and paths lead to."""
    folder = root / "outside"
    (folder / "folder" / "deep").mkdir(parents=True)
    (folder / "file").write_text("years of work")
    (folder / "folder" / "mine.txt").write_text("years of work")
    (folder / "folder" / "deep" / "model_index.json").write_text("{}")
    Image.new("RGB", (8, 8), "red").save(folder / "x.png")
    return folder


# --- any file ----------------------------------------------------------------------------


def _remove(folder: Path, name: str) -> Path:
    path = folder / name
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _gone(name: str, folder: Path, outside: Path) -> None:
    _remove(folder, name)


def _bytes(content: bytes, name: str, folder: Path, outside: Path) -> None:
    _remove(folder, name).write_bytes(content)


def _cut(name: str, folder: Path, outside: Path) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) * 2 // 3])


def _flip(name: str, folder: Path, outside: Path) -> None:
    content = bytearray((folder / name).read_bytes())
    for place in range(len(content) // 2, len(content), max(1, len(content) // 16)):
        content[place] ^= 0xFF
    (folder / name).write_bytes(content)


def _link(target: str, name: str, folder: Path, outside: Path) -> None:
    _remove(folder, name).symlink_to(outside / target)


def _folder(name: str, folder: Path, outside: Path) -> None:
    _remove(folder, name).mkdir()


def _pipe(name: str, folder: Path, outside: Path) -> None:
    os.mkfifo(_remove(folder, name))


WHATEVER: dict[str, Callable[..., None]] = {
    "gone": _gone,
    "empty": partial(_bytes, b""),
    "cut": _cut,
    "flipped bytes": _flip,
    "binary": partial(_bytes, bytes(range(256)) * 4),
    "zeros": partial(_bytes, bytes(1000)),
    "half a letter": partial(_bytes, '{"event": "ü'.encode()[:-1]),
    "5": partial(_bytes, b"5"),
    "nested": partial(_bytes, b"[" * 100_000),
    "a link": partial(_link, "file"),
    "a dangling link": partial(_link, "nothing"),
    "a folder": _folder,
    "a pipe": _pipe,
}
FILES = {
    "done": (
        "config.toml",
        "environment.json",
        "metrics.jsonl",
        "best/rpo.json",
    ),
    "begun": (
        "metrics.jsonl",
        "last/state.json",
        "last/data.safetensors",
        "last/trainer.safetensors",
        "best/rpo.json",
        "images/photos/01-0.png",
    ),
}


# --- tables of JSON ----------------------------------------------------------------------

WRONG: dict[str, str] = {
    "text": json.dumps(SCRIPT),
    "negative": "-1",
    "huge": "9" * 400,
    "endless": "9" * 5000,
    "nan": "NaN",
    "null": "null",
    "list": "[[]]",
}


def _set(name: str, key: str, text: str, folder: Path, outside: Path) -> None:
    """Puts `text` in the place of one value, named with dots."""
    file, value = folder / name, "@@"
    content: Any = json.loads(file.read_text(encoding="utf-8"))
    *parents, last = key.split(".")
    place = content
    for parent in parents:
        place = place[int(parent) if isinstance(place, list) else parent]
    place[int(last) if isinstance(place, list) else last] = value
    file.write_text(json.dumps(content).replace('"@@"', text), encoding="utf-8")


ENTRIES = (
    ("begun", "last/state.json", ("step", "best_step", "best_reward", "finished", "goal")),
    ("done", "best/rpo.json", ("step", "reward", "scheduler", "files")),
    (
        "done",
        "environment.json",
        ("subject", "subject.photos.0", "models.pipeline.files", "hardware.device", "resolution"),
    ),
)


# --- metrics, settings -------------------------------------------------------------------


def _append(line: bytes, folder: Path, outside: Path) -> None:
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(line)


def _in_records(event: str, key: str, value: Any, folder: Path, outside: Path) -> None:
    """Another value in every record of that kind."""
    file = folder / "metrics.jsonl"
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for record in records:
        if record["event"] == event:
            record[key] = value
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


LINES = {
    "5": b"5\n",
    "half a letter": '{"event": "failed", "message": "ü'.encode()[:-1],
    "no event": b"{}\n",
    "unhashable event": b'{"event": []}\n',
    "unknown event": b'{"event": "x", "step": "y"}\n',
    "half a line": b'{"event": "st',
}
RECORDS = (
    ("validated", "images", ["../outside/x.png"] * 2),
    ("validated", "images", ["images/../../outside/x.png"] * 2),
    ("validated", "images", ["/etc/hostname"] * 2),
    ("validated", "images", ["images\0"] * 2),
    ("validated", "images", []),
    ("validated", "prompts", SCRIPT),
    ("validated", "prompts", [SCRIPT] * 9),
    ("validated", "reward", SCRIPT),
    ("validated", "reward", 1e299),
    ("validated", "step", 2**62),
    ("validated", "step", True),
    ("labelled", "pairs", SCRIPT),
    ("labelled", "mean_probability", 1e308),
    ("phase", "phase", SCRIPT),
    ("phase", "seconds", -1e200),
    ("started", "training_prompts", [5]),
    ("started", "reference_prompt", SCRIPT),
    ("started", "validation_prompts", {}),
)


def _setting(key: str, text: str, folder: Path, outside: Path) -> None:
    """Another value in config.toml; the first setting of that name."""
    lines = (folder / "config.toml").read_text(encoding="utf-8").splitlines()
    index = next(i for i, line in enumerate(lines) if line.startswith(f"{key} ="))
    lines[index] = f"{key} = {text}"
    (folder / "config.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


SETTINGS = (
    ("seed", "9" * 400),
    ("seed", "9" * 5000),
    ("learning_rate", "9" * 400),
    ("learning_rate", "nan"),
    ("steps", '"x"'),
    ("noun", '"<script>alert(1)</script>"'),
    ("model", '"../../outside/folder"'),
    ("model", '"\\u0000"'),
    ("weights", '"lora"'),
    ("method", '"../x"'),
    ("noun", "[" * 100_000),
)


# --- folders -----------------------------------------------------------------------------


def _linked_folder(name: str, folder: Path, outside: Path) -> None:
    path = folder / name
    if path.is_dir():
        path.rename(path.with_name(f"{path.name}-before"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(outside / "folder")


def _lost_folder(name: str, folder: Path, outside: Path) -> None:
    shutil.move(folder / name, outside.parent / f"lost-{folder.name}")


def _file_for_folder(name: str, folder: Path, outside: Path) -> None:
    _lost_folder(name, folder, outside)
    (folder / name).write_text("mine")


LINKED = (
    *("best", "last", "images", "images/photos", "images/validation", "images/generated"),
    *("export", "export/lora", "tensorboard", ".best.new", ".best.old"),
)


# --- pictures, tensors -------------------------------------------------------------------


def _bomb(folder: Path, outside: Path) -> None:
    """The head of a PNG of 10^9 pixels a side."""
    file = folder / "images" / "photos" / "01-0.png"
    content = bytearray(file.read_bytes())
    content[16:24] = struct.pack(">II", 10**5, 10**5)
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    file.write_bytes(content)


def _tensors(name: str, change: Callable[[dict], dict], folder: Path, outside: Path) -> None:
    with safe_open(str(folder / name), "pt") as opened:
        metadata = opened.metadata()
    save_file(change(load_file(folder / name)), folder / name, metadata=metadata)


def _metadata(text: str, folder: Path, outside: Path) -> None:
    save_file(load_file(folder / ADAPTER), folder / ADAPTER, {"lora_adapter_metadata": text})


TENSORS: dict[str, Callable[[dict], dict]] = {
    "other shapes": lambda t: {name: v.new_zeros(3, 2) for name, v in t.items()},
    "no tensors": lambda t: {},
    "foreign names": lambda t: {f"x{name}": v for name, v in t.items()},
    "one more": lambda t: {**t, "x": torch.zeros(2)},
    "one missing": lambda t: dict(sorted(t.items())[1:]),
    "half missing": lambda t: dict(sorted(t.items())[::2]),
    "one longer": lambda t: first_of(t, lambda v: torch.cat([v.reshape(-1), v.reshape(-1)])),
    "one a scalar": lambda t: first_of(t, lambda v: v.new_zeros(())),
    "whole numbers": lambda t: {name: v.long() for name, v in t.items()},
}
METADATA = {
    "no JSON": "{",
    "a list": "[]",
    "nested": "[" * 100_000,
    "another rank": '{"unet.r": 64}',
    "a pattern for ever": '{"unet.alpha_pattern": {"(a+)+$": 1}}',
    "text for alpha": '{"unet.lora_alpha": "x"}',
    "text for targets": '{"unet.target_modules": "(.+)+x"}',
    "another class": '{"unet.megatron_config": {"x": 1}}',
}


def mutations(kind: str = "full") -> Iterator[Mutation]:
    """All of a kind of run."""

    def make(state: str, name: str, apply: Callable[..., None], *how: Any) -> Mutation:
        return Mutation(kind, state, name, partial(apply, *how))

    weights = KINDS[kind][-1]
    for state, files in FILES.items():
        for file in (*files, *(KINDS[kind] if state == "done" else ())):
            for name, apply in WHATEVER.items():
                yield make(state, f"{file} {name}", apply, file)
    entries = list(ENTRIES)
    if kind != "lora":
        part = weights.split("/")[1]
        entries.append(("done", "best/model_index.json", ("_class_name", part, "scheduler", "vae")))
    for state, file, keys in entries:
        for key in keys:
            for name, text in WRONG.items():
                yield make(state, f"{file} {key} {name}", _set, file, key, text)
    for state in ("begun", "done"):
        for name, line in LINES.items():
            yield make(state, f"metrics end in {name}", _append, line)
    for event, key, value in RECORDS:
        name = f"metrics {event}.{key} {str(value)[:24]!r}"
        yield make("begun", name, _in_records, event, key, value)
    for key, text in SETTINGS:
        name = f"config {key} {text[:24]} of {len(text)}"
        yield make("begun", name, _setting, key, text)
    for folder in (*LINKED, *(() if kind == "lora" else (weights.rpartition("/")[0],))):
        yield make("begun", f"{folder} is a link", _linked_folder, folder)
    for folder in ("best", "last", "images"):
        yield make("begun", f"{folder} is gone", _lost_folder, folder)
        yield make("done", f"{folder} is gone", _lost_folder, folder)
        yield make("done", f"{folder} is a file", _file_for_folder, folder)
    yield make("begun", "a picture of 10^10 pixels", _bomb)
    for name, change in TENSORS.items():
        for state, file in (
            ("begun", "last/data.safetensors"),
            ("begun", "last/trainer.safetensors"),
            ("done", weights),
        ):
            yield make(state, f"{file} {name}", _tensors, file, change)
    for name, change in STATES.items():
        yield make("begun", f"last/trainer.safetensors with {name}", forge_state, change)
    for name, change in DATA.items():
        yield make("begun", f"last/data.safetensors with {name}", forge_data, change)
    if kind == "lora":
        for name, text in METADATA.items():
            yield make("done", f"adapter's settings: {name}", _metadata, text)
