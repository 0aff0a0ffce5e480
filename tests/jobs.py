"""A whole little job on disk: photos, prompt lists, a tiny pipeline and a tiny reward model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from tiny import TOKENS, save_tiny, tiny_tokenizer
from transformers import CLIPConfig, CLIPModel

import rpo
from rpo.cli import commands as cli
from rpo.data.subject import Subject

PROMPTS = """
[training]
live = ["a {} in snow", "a green {}"]
object = ["a {} in snow", "a green {}"]
[validation]
live = ["a {} at sea", "a blue {}"]
object = ["a {} at sea", "a blue {}"]
[test]
live = ["a red {}"]
object = ["a red {}"]
"""


@dataclass(frozen=True)
class World:
    """Where the parts of the little world are."""

    root: Path
    photos: Path
    model: Path
    reward: Path
    prompts: Path

    def settings(self, steps: int = 4, every: int = 2, **more: object) -> list[str]:
        """The job's settings as key=value: a few steps, seconds of work."""
        values = {
            "prompts": self.prompts,
            "reward.model": self.reward,
            "training.steps": steps,
            "training.learning_rate": 1e-2,
            "sampling.steps": 2,
            "sampling.images_per_prompt": 2,
            "validation.every": every,
            "validation.steps": 2,
            **more,
        }
        return [f"{key}={value}" for key, value in values.items()]

    def flags(self, **more: object) -> list[str]:
        """The same as arguments of `rpo train`, with the model."""
        flags = ["--noun", "dog", "--model", str(self.model)]
        for setting in self.settings(**more):  # type: ignore[arg-type]
            flags += ["--set", setting]
        return flags


def make_world(root: Path, kind: str = "epsilon") -> World:
    """Builds it in a folder whose name has a space and an umlaut, as real ones do."""
    world = World(
        root, root / "meine Höhle", root / "model", root / "reward", root / "prompts.toml"
    )
    save_photos(world.photos)
    save_tiny(world.model, kind)
    save_reward(world.reward)
    world.prompts.write_text(PROMPTS, encoding="utf-8")
    return world


def save_photos(folder: Path, count: int = 3) -> None:
    """Different drawings of 80 x 60 pixels."""
    folder.mkdir(parents=True)
    for index in range(count):
        photo = Image.new("RGB", (80, 60), (60 * index, 180, 255 - 60 * index))
        ImageDraw.Draw(photo).ellipse((20 + 5 * index, 10, 60, 50), fill=(250, 120, 30))
        photo.save(folder / f"{index}.png")


def save_reward(folder: Path) -> None:
    """A random CLIP that reads the tiny tokenizer's letters."""
    tower = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "initializer_range": 0.5,
    }
    tokenizer = tiny_tokenizer()
    text = {
        **tower,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": TOKENS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {**tower, "image_size": 16, "patch_size": 8}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"height": 16, "width": 16},
        "do_center_crop": False,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.25, 0.25, 0.25],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")


def finished_run(world: World) -> Path:
    """Trains 4 steps, validated at 0, 2 and 4."""
    out = world.root / "done"
    assert cli.run(["train", str(world.photos), *world.flags(), "--out", str(out), "--quiet"]) == 0
    return out


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by its relative name."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def results(run: Path) -> dict[str, bytes]:
    """What must be the same byte for byte: weights, training state and pictures."""
    parts = ("best", "images", "last")
    return {f"{part}/{name}": data for part in parts for name, data in contents(run / part).items()}


def measured(run: Path) -> list[dict[str, Any]]:
    """The metrics without times and places."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    stamp = ("run", "number", "time")
    return [
        {key: value for key, value in record.items() if key not in stamp}
        for record in records
        if record["event"] not in ("started", "phase", "interrupted")
    ]


def break_off(world: World, out: Path, at: type, step: int, **more: Any) -> None:
    """Runs a job and leaves its loop at the event of that kind and step."""
    events = rpo.iterate(
        Subject.from_folder(world.photos, "dog"),
        model=str(world.model),
        out=out,
        settings=world.settings(**more),
    )
    for event in events:
        if isinstance(event, at) and getattr(event, "step", step) == step:
            break
    events.close()
