"""The base model's own pictures of the class ("a photo of dog"), kept from one run to the next.

DreamBooth's prior (arXiv 2208.12242, section 3.3) is a thousand of them, and drawing takes longer
than training. So their latents go into a cache, one file for all that decides them: the model's
files, the prompt, the sampling, the seed and their number. Whatever is wrong with the cache costs
time and a Notice, never the run.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rpo.errors import UserError
from rpo.events import Drawn, Event, Notice, Progress
from rpo.models.pictures import draw_pictures
from rpo.models.sampling import solver_name, to_uint8
from rpo.replacing import replacing
from rpo.seeds import derive_seed

if TYPE_CHECKING:
    from rpo.methods.method import Task

SHOWN = 32  # pictures that are decoded, for people: what is learned from are the latents
VERSION = 1  # of the file and of all that a picture follows from unsaid


def cache_folder() -> Path:
    """$RPO_CACHE, else "rpo" where the system keeps caches; nothing is made."""
    if chosen := os.environ.get("RPO_CACHE"):
        return Path(os.path.expanduser(chosen))
    variable = "LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME"
    return Path(os.environ.get(variable) or os.path.expanduser("~/.cache")) / "rpo"


def draw_class_pictures(task: Task, number: int) -> Generator[Event, None, Tensor]:
    """Yields its progress and `Drawn`, and returns (number, C, h, w) latents on the device.

    All of one prompt, `task.reference.plain`, by the settings of `sampling.`. A Task that does not
    know the model's files draws without the cache.
    """
    backbone, prompt = task.backbone, task.reference.plain
    facts = _provenance(task, number) if task.model_files else None
    latents = None
    if facts:
        file = _place(facts)
        try:
            latents = _read(file, facts, (number, *backbone.latent_shape))
        except _UNREADABLE as error:
            reason = " ".join(str(error).split())
            yield Notice(f"{file}: cannot be used ({reason}); the class pictures are drawn anew")
    if latents is None:
        seeds = [derive_seed(task.config.seed, "class picture", index) for index in range(number)]
        conditions = backbone.encode_prompts([prompt] * number)
        latents, _ = yield from draw_pictures(
            backbone,
            backbone.denoiser,
            conditions,
            seeds,
            task.config.sampling,
            "sampling",
            decode=False,
        )
        if facts:
            try:
                _write(file, latents, facts)
            except UserError as error:  # a full disk, or a folder in the file's place
                yield Notice(f"{error}; the next run draws its class pictures again")
            except (OSError, SafetensorError) as error:
                reason = " ".join(str(error).split())
                yield Notice(
                    f"{file}: cannot be written ({reason}), so the next run draws its class "
                    "pictures again; RPO_CACHE names another folder"
                )
    else:
        yield Progress("sampling", number, number)
    latents = latents.to(backbone.device)
    shown = to_uint8(backbone.decode(latents[:SHOWN], batch_size=1))
    yield Drawn(shown, (prompt,) * len(shown))
    return latents


def _provenance(task: Task, number: int) -> dict[str, Any]:
    """Everything that the latents follow from, as JSON-able values."""
    config, backbone = task.config, task.backbone
    assert task.model_files is not None
    return {
        "version": VERSION,
        "model": dict(task.model_files()),
        "prompt": task.reference.plain,
        "number": number,
        "seed": config.seed,
        "resolution": backbone.resolution,
        "steps": config.sampling.steps,
        "guidance_scale": config.sampling.guidance_scale,
        "solver": solver_name(backbone, config.sampling.scheduler),
        "precision": config.precision,
        "quantize": config.quantize,
        "device": backbone.device.type,
    }


def _place(facts: Mapping[str, Any]) -> Path:
    text = json.dumps(facts, sort_keys=True)
    name = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    return cache_folder() / "class-pictures" / f"{name}.safetensors"


_UNREADABLE = (OSError, SafetensorError, KeyError, TypeError, ValueError)


def _read(file: Path, facts: Mapping[str, Any], shape: tuple[int, ...]) -> Tensor | None:
    """What `_write` wrote, None where there is no file. Raises `_UNREADABLE` for any other."""
    if not file.is_file():
        return None
    with safe_open(str(file), framework="pt", device="cpu") as opened:
        header = opened.metadata() or {}
        if json.loads(header.get("provenance", "{}")) != facts:
            raise ValueError("it holds other pictures")
        latents = opened.get_tensor("latents")
    if latents.shape != shape or header.get("sha256") != _digest(latents):
        raise ValueError("it is damaged")
    return latents


def _write(file: Path, latents: Tensor, facts: Mapping[str, Any]) -> None:
    """Complete or not at all, also where two runs write the same at once."""
    latents = latents.detach().cpu().contiguous()
    header = {"provenance": json.dumps(facts, sort_keys=True), "sha256": _digest(latents)}
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file, "free some space, or name another folder by RPO_CACHE") as temporary:
        save_file({"latents": latents}, str(temporary), metadata=header)


def _digest(latents: Tensor) -> str:
    return hashlib.sha256(latents.view(torch.uint8).numpy().data).hexdigest()
