"""The aesthetic score from the files as published to `rpo evaluate`, `rpo bench` and Table 8."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
import torch
from evaluating import evaluated
from jobs import World
from judging import own_suite, save_drawings
from PIL import Image
from test_bench_runner import Inline
from tiny import TOKENS, tiny_tokenizer
from torch import nn
from transformers import AutoImageProcessor, CLIPConfig, CLIPImageProcessor, CLIPModel

from rpo.cli import commands as cli

ROOT = Path(__file__).parent.parent
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
PICKLE = "sac+logos+ava1-l14-linearMSE"  # the improved predictor's file, but for .pth


class Predictor(nn.Module):
    """As in christophschuhmann/improved-aesthetic-predictor: its names, widths and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Linear(768, 1024), nn.Dropout(0.2), nn.Linear(1024, 128), nn.Dropout(0.2)),
            *(nn.Linear(128, 64), nn.Dropout(0.1), nn.Linear(64, 16), nn.Linear(16, 1)),
        )
        with torch.no_grad():
            for parameter in self.parameters():
                parameter *= 3  # at its usual scale a random head finds all pictures alike


def save_large_clip(folder: Path) -> CLIPModel:
    """CLIP ViT-L/14 but for the width and depth of its towers: 224 pixels, patches of 14, 768."""
    tower = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tower |= {"intermediate_size": 16, "initializer_range": 0.5}  # type: ignore[dict-item]
    tokenizer = tiny_tokenizer()
    text = {**tower, "vocab_size": len(tokenizer), "max_position_embeddings": TOKENS}
    text |= {f"{n}_token_id": getattr(tokenizer, f"{n}_token_id") for n in ("bos", "eos", "pad")}
    vision = {**tower, "image_size": 224, "patch_size": 14}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=768)
    torch.manual_seed(4)
    model = CLIPModel(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(image_mean=MEAN, image_std=STD).save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CLIPModel, Predictor]:
    """A folder with clip/ and the head, converted from its pickle by the lines of the docs."""
    root = tmp_path_factory.mktemp("published")
    with torch.random.fork_rng():
        model, predictor = save_large_clip(root / "clip"), Predictor().eval()
    torch.save(predictor.state_dict(), root / f"{PICKLE}.pth")
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    (code,) = (c for c in re.findall(r"```python\n(.*?)```", text, re.S) if "save_file" in c)
    assert f'"{PICKLE}.pth"' in code
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        exec(code, {})
    assert (root / "aesthetic.safetensors").is_file()
    return root, model, predictor


def score(published: tuple[Path, CLIPModel, Predictor], folder: Path) -> dict[str, float]:
    """By transformers and PyTorch alone: of each picture, by its name in the folder."""
    root, model, predictor = published
    process, found = AutoImageProcessor.from_pretrained(root / "clip", backend="pil"), {}
    for file in sorted(folder.rglob("*.png")):
        with Image.open(file) as image, torch.no_grad():
            pixels = process(image.convert("RGB"), return_tensors="pt")
            seen = model.vision_model(**pixels).pooler_output
            features = nn.functional.normalize(model.visual_projection(seen), dim=-1)
            found[file.relative_to(folder).as_posix()] = predictor.layers(features).item()
    return found


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """Pictures of 16 pixels of a suite of three subjects."""
    own_suite(tmp_path / "subjects")
    save_drawings(tmp_path / "drawn", each=2)
    return tmp_path / "drawn"


def test_rpo_evaluate_gives_the_published_score(
    published: tuple[Path, CLIPModel, Predictor],
    models: tuple[Path, Path],
    drawn: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected, (dino, clip) = score(published, drawn), models
    words = ["--images", drawn, "--subjects", drawn.parent / "subjects", "--dino", dino]
    words += ["--clip", clip, "--aesthetic", published[0] / "aesthetic.safetensors"]
    words += ["--aesthetic-clip", published[0] / "clip", "--out", drawn.parent / "told"]
    _, _, data = evaluated(capsys, *words)
    (system,) = data["systems"]
    found = {
        f"{row['subject']}/{row['prompt']:02d}-{row['number']}.png": row["figures"]["aesthetic"]
        for row in system["pictures"]
    }
    assert found == pytest.approx(expected, abs=1e-4)
    assert max(expected.values()) - min(expected.values()) > 0.01  # pictures are told apart
    assert data["judges"]["aesthetic"]["head"] == "aesthetic.safetensors"


def test_rpo_bench_and_rpo_report_bring_it_into_table_8(
    published: tuple[Path, CLIPModel, Predictor],
    models: tuple[Path, Path],
    world: World,
    drawn: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # in this process, as one of its own takes long to start
    here = lambda jobs, load: Inline(load())  # noqa: E731
    monkeypatch.setattr("rpo.bench.executors.local.LocalExecutor", here)
    judges = {"dino": str(models[0]), "clip": str(models[1])}
    judges |= {"aesthetic": str(published[0] / "aesthetic.safetensors")}
    judges |= {"aesthetic_clip": str(published[0] / "clip")}
    file, results = drawn.parent / "suite.toml", drawn.parent / "results"
    told = "\n".join(f"{name} = {json.dumps(value)}" for name, value in judges.items())
    file.write_text(
        f"images_per_prompt = 2\nsubjects = {json.dumps(str(drawn.parent / 'subjects'))}\n"
        f'names = ["rex"]\n[judges]\n{told}\n[rows.base]\n[rows.given]\nimages = "drawn"\n',
        encoding="utf-8",
    )
    words = ["bench", str(file), "--model", str(world.model), "--out", str(results), "--quiet"]
    words += ["--set=sampling.steps=1", f"--set=prompts={drawn.parent / 'subjects/prompts.toml'}"]
    assert cli.run(words) == 0
    assert cli.run(["report", str(results)]) == 0
    text = (results / "report" / "table-8.csv").read_text(encoding="utf-8")
    head, *rows = csv.reader(text.splitlines())
    given = dict(zip(head, next(row for row in rows if "given" in row), strict=True))
    own = [value for name, value in score(published, drawn).items() if name.startswith("rex/")]
    assert float(given["aesthetic ↑"]) == pytest.approx(sum(own) / 4, abs=1e-4)
    base = next(row for row in rows if "base" in row)
    kept = score(published, results / "pictures" / "base" / "seed-0")
    assert float(dict(zip(head, base, strict=True))["aesthetic ↑"]) == pytest.approx(
        sum(kept.values()) / len(kept), abs=1e-4
    )
