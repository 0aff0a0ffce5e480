"""Folders that travel: photos and models from the runner's machine to the nodes that lack them.

A parcel says what a folder holds, by a digest. A node asks for the pieces that it lacks, so what is
on storage that all nodes share, or has come before, travels no more.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from rpo.models.class_pictures import cache_folder
from rpo.replacing import remove
from rpo.runs.environment import file_hash

PIECE = 1 << 26  # bytes that travel at once
# Weights that are never read, and pictures for people
_LEFT_OUT = {".bin", ".ckpt", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".onnx_data"}

Fetch = Callable[[str, int], bytes]
"""(file of the runner's machine, offset) -> the next `PIECE` bytes or fewer."""


@dataclass(frozen=True)
class Parcel:
    """A folder by its content: files are (path within it, size in bytes)."""

    digest: str
    folder: str
    files: tuple[tuple[str, int], ...]


@lru_cache(64)
def pack(folder: Path, weights: bool = False) -> Parcel:
    """What a folder holds. weights: of a model, without what is never read."""
    files, digest = [], hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not (weights and path.suffix in _LEFT_OUT):
            files.append((name, path.stat().st_size))
            digest.update(f"{name} {file_hash(path)}\n".encode())
    return Parcel(digest.hexdigest(), str(folder), tuple(files))


def unpack(parcel: Parcel, fetch: Fetch, place: Path) -> Path:
    """The folder `place` with what the parcel holds; it appears complete or not at all."""
    if place.is_dir():
        return place
    new = place.with_name(f".{place.name}.{secrets.token_hex(4)}")
    try:
        new.mkdir(parents=True)
        for name, size in parcel.files:
            file = new / name
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("wb") as opened:
                while (offset := opened.tell()) < size:
                    piece = fetch(os.path.join(parcel.folder, name), offset)
                    if not piece:
                        raise OSError(f"{name} of {parcel.folder} is shorter than it was")
                    opened.write(piece)
        os.rename(new, place)
    except OSError:
        if not place.is_dir():  # else another worker was faster
            raise
    finally:
        remove(new)
    return place


def read_piece(file: str, offset: int) -> bytes:
    """The runner's side of `Fetch`."""
    with open(file, "rb") as opened:
        opened.seek(offset)
        return opened.read(PIECE)


def node_place(parcel: Parcel) -> Path:
    """Where a node keeps it from one job to the next."""
    return cache_folder() / "parcels" / parcel.digest
