"""`python -m emojiland`: draw the world, train its models, write what ships, print the figures.

python -m emojiland --work ~/emojiland-work build            # everything, resumes anywhere
python -m emojiland --work ~/emojiland-work --only diffusion --steps 20000 build
python -m emojiland --work ~/emojiland-work export           # checkpoints -> assets
python -m emojiland --work ~/emojiland-work evaluate         # assets -> results.json, sheet
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

import torch
from transformers import CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.efficientnet.image_processing_pil_efficientnet import (
    EfficientNetImageProcessorPil,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from benchmarks.provenance import provenance
from emojiland import autoencoder, decoder, diffusion, encoders, evaluate
from emojiland.art import PACKAGES, artwork_hash, download
from emojiland.fit import device
from emojiland.pool import Pool, load_pool
from emojiland.subjects import write_subjects
from emojiland.words import make_tokenizer

ASSETS = Path(__file__).parent.parent / "src" / "rpo" / "assets" / "emojiland"
SCENES, TEST_SCENES = 120_000, 4_000
STEPS = {
    "autoencoder": 7_000,
    "reward": 3_800,
    "judge-clip": 3_800,
    "judge-dino": 2_200,
    "diffusion": 33_000,
}


def _models(
    work: Path, steps: dict[str, int], only: str | None, start: Path | None, finished: Path | None
):
    """Trains (or resumes, or just loads) every model, in the order they need each other."""
    artwork = work / "artwork"
    download(artwork)
    pool = load_pool(artwork, work, SCENES, seed=1)
    tokenizer = make_tokenizer(work / "tokenizer")
    kind = diffusion.StableDiffusionPipeline
    before = kind.from_pretrained(start, safety_checker=None) if start else None
    if finished:
        vae = autoencoder.load(finished)
    else:
        vae = autoencoder.train(pool, work, steps["autoencoder"], before and before.vae)
    latents, scale = autoencoder.latents(vae, pool, work / "latents.npy")
    wanted = [only] if only else list(steps)
    if only == "decoder" or ("diffusion" in wanted and not finished):
        decoder.sharpen(vae, latents)
        decoder.save(vae, work / "vae")
    models: dict[str, torch.nn.Module] = {"autoencoder": vae}
    for name in encoders.RECIPES:
        if name in wanted:
            models[name] = encoders.train(name, pool, tokenizer, work, artwork, steps[name])
    if "diffusion" in wanted:
        models["diffusion"] = diffusion.train(
            pool,
            latents,
            scale,
            tokenizer,
            work,
            steps["diffusion"],
            before and torch.nn.ModuleDict({"unet": before.unet, "text": before.text_encoder}),
        )
    return models, tokenizer, scale


def _processor(kind: str):
    """64 px pictures, [-1, 1]: nothing to resize for our own, the centre square for others."""
    size = {"height": 64, "width": 64}
    common = {
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    if kind == "judge-clip":
        return CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size=size, **common)
    if kind == "judge-dino":
        return ViTImageProcessorPil(size=size, **common)
    return EfficientNetImageProcessorPil(
        size=size, do_center_crop=False, include_top=False, **common
    )


def export(
    models: dict[str, torch.nn.Module], tokenizer: CLIPTokenizer, scale: float, work: Path
) -> None:
    """Writes whichever of the models are given in fp16 safetensors, in the ordinary layouts."""
    ASSETS.mkdir(parents=True, exist_ok=True)
    if "diffusion" in models:
        pipe = diffusion.pipeline(models["diffusion"], models["autoencoder"], scale, tokenizer)
        pipe.to("cpu").to(torch.float16).save_pretrained(ASSETS / "pipeline")
        unet = ASSETS / "pipeline" / "unet"
        shutil.rmtree(unet)
        pipe.unet.save_pretrained(unet, max_shard_size="14MB")  # no file above 15 MB
        pipe.to(torch.float32)
    for kind in encoders.RECIPES:
        if kind in models:
            models[kind].to("cpu").to(torch.float16).save_pretrained(ASSETS / kind)
            models[kind].to(torch.float32)
            _processor(kind).save_pretrained(ASSETS / kind)
            if kind != "judge-dino":
                tokenizer.save_pretrained(ASSETS / kind)
    write_subjects(work / "artwork", ASSETS / "subjects")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m emojiland",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", choices=("build", "train", "export", "evaluate"))
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for artwork, scenes and checkpoints"
    )
    parser.add_argument(
        "--only", choices=[*STEPS, "decoder"], help="train this model alone (and what it needs)"
    )
    parser.add_argument("--steps", type=int, help="gradient steps of the --only model")
    parser.add_argument(
        "--start", type=Path, help="a pipeline whose weights autoencoder and diffusion begin from"
    )
    parser.add_argument(
        "--autoencoder", type=Path, help="a trained one's folder, in place of training one"
    )
    parser.add_argument(
        "--before", type=Path, help="an earlier pipeline, measured beside what lies in the assets"
    )
    args = parser.parse_args()
    work = args.work.expanduser()
    steps = dict(STEPS)
    if args.steps:
        steps[args.only] = args.steps
    began = time.monotonic()
    if args.action in ("build", "train", "export"):
        models, tokenizer, scale = _models(work, steps, args.only, args.start, args.autoencoder)
        if args.action != "train":
            export(models, tokenizer, scale, work)
    if args.action in ("build", "evaluate"):
        test: Pool = load_pool(work / "artwork", work, TEST_SCENES, seed=2)
        figures = evaluate.evaluate(ASSETS, work / "artwork", test, args.before)
        rows = {}
        for name in STEPS:
            log = work / f"{name}.jsonl"
            rows[name] = (
                json.loads(log.read_text().splitlines()[-1])["step"] if log.exists() else None
            )
        weights = sum(f.stat().st_size for f in ASSETS.rglob("*.safetensors")) / 1e6
        figures |= {
            "weights_mb": round(weights, 1),
            "training_steps": rows,
            "training_scenes": SCENES,
            "artwork_sha256": artwork_hash(work / "artwork"),
            "artwork": {k: f"{p.name}@{p.version}" for k, p in PACKAGES.items()},
            **provenance(str(device())),
            "seconds": round(time.monotonic() - began),
        }
        (ASSETS / "results.json").write_text(json.dumps(figures, indent=2) + "\n")
        print(json.dumps(figures, indent=2))
        evaluate.contact_sheet(ASSETS, ASSETS / "contact_sheet.png")


if __name__ == "__main__":
    main()
