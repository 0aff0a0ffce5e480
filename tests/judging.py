"""Random judges, a little suite and pictures to be judged."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from jobs import save_photos
from PIL import Image
from transformers import ViTConfig, ViTModel

from rpo.evaluation.dreambench import Suite, load_suite

ROOT = Path(__file__).parent.parent
DREAMBENCH = Path(os.environ.get("RPO_DREAMBENCH", ROOT.parent / "shared" / "dreambench"))
PROMPTS = '[test]\nlive = ["a {} in snow", "a red {}"]\nobject = ["a red {}"]\n'


def save_dino(folder: Path, seed: int = 2) -> Path:
    """A random ViT of two patches a side."""
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        initializer_range=0.5,
        image_size=16,
        patch_size=8,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    settings = {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def pictures(count: int, seed: int = 0, size: tuple[int, int] = (16, 16)) -> list[Image.Image]:
    """Random pictures, all different."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, size[1], size[0], 3)
    pixels = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    return [Image.fromarray(picture.numpy()) for picture in pixels]


def own_suite(root: Path) -> Suite:
    """Two dogs and a cup of three photos each, with little lists of prompts."""
    table = {"rex": "dog", "bello": "dog", "cup": "cup"}
    text = "".join(f'[{name}]\nnoun = "{noun}"\n' for name, noun in table.items())
    root.mkdir()
    (root / "subjects.toml").write_text(text, encoding="utf-8")
    (root / "prompts.toml").write_text(PROMPTS, encoding="utf-8")
    for seed, name in enumerate(table):
        save_photos(root / name)
        for file, picture in enumerate(pictures(3, 100 + seed, (40, 32))):
            picture.save(root / name / f"{file}.png")
    return load_suite(root)


def save_drawings(folder: Path, each: int = 2, prompts: int = 2) -> None:
    """Pictures of both dogs and the cup, which has one prompt."""
    for seed, (name, count) in enumerate((("rex", prompts), ("bello", prompts), ("cup", 1))):
        (folder / name).mkdir(parents=True)
        for place, picture in enumerate(pictures(count * each, seed)):
            picture.save(folder / name / f"{place // each + 1:02d}-{place % each + 1}.png")
