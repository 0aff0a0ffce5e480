"""The figures of Emojiland, printed and written to results.json, and the contact sheet.

The judge is the CLIP-like encoder: it neither trains nor selects anything. It is loaded, as
everything here, from the finished folders through the ordinary loaders.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from emojiland.art import CLASS_ICONS, LIVE_CLASSES
from emojiland.autoencoder import psnr
from emojiland.backgrounds import CONTEXTS
from emojiland.fidelity import frechet_distance, gaussian, sharpness
from emojiland.figures import TINTS
from emojiland.outfits import OUTFITS
from emojiland.pool import Pool
from emojiland.scenes import Look, instance, random_look
from emojiland.subjects import SUBJECTS
from rpo.config.presets import PRESETS
from rpo.models.backbone import Backbone
from rpo.models.encoders import Encoder, load_encoder
from rpo.models.sampling import sample

_DRAWING = PRESETS["emojiland"]["sampling"]  # as its users draw
STEPS, GUIDANCE = _DRAWING["steps"], _DRAWING["guidance_scale"]


def retrieval(images: Tensor, captions: list[str], judge: Encoder, among: int = 16) -> float:
    """Share of pictures whose own caption beats among - 1 other random, different captions."""
    rng = np.random.default_rng(0)
    own = judge.encode_texts(captions)
    pool = sorted(set(captions))
    others = judge.encode_texts(pool)
    right = 0
    for k, caption in enumerate(captions):
        rivals = [j for j in rng.permutation(len(pool)) if pool[j] != caption][: among - 1]
        right += bool((images[k] @ own[k]) > (others[rivals] @ images[k]).max())
    return right / len(captions)


def choice(images: Tensor, truth: list[int], options: list[list[str]], judge: Encoder) -> float:
    """Share of pictures whose right option beats the others; options[k] are picture k's texts."""
    right = 0
    for k, texts in enumerate(options):
        right += int((judge.encode_texts(texts) @ images[k]).argmax()) == truth[k]
    return right / len(options)


def _draw(backbone: Backbone, prompts: list[str], seed: int) -> Tensor:
    latents = sample(
        backbone,
        backbone.denoiser,
        backbone.encode_prompts(prompts),
        [seed + k for k in range(len(prompts))],
        steps=STEPS,
        guidance_scale=GUIDANCE,
        batch_size=50,
    )
    return backbone.decode(latents)


def _to_unit(images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255


def _axes(images: Tensor, nouns: list[str], looks: list[Look], judge: Encoder) -> dict[str, float]:
    """Top-1 over each axis's words; the other words of the caption stay."""
    out = {
        "class": choice(
            images,
            [list(CLASS_ICONS).index(n) for n in nouns],
            [[look.caption(n) for n in CLASS_ICONS] for look in looks],
            judge,
        )
    }
    axes = {"context": list(CONTEXTS), "tint": list(TINTS), "outfit": list(OUTFITS)}
    for axis, words in axes.items():
        rows = [k for k, look in enumerate(looks) if getattr(look, axis)]
        out[axis] = choice(
            images[rows],
            [words.index(getattr(looks[k], axis)) for k in rows],
            [[Look(**{**vars(looks[k]), axis: w}).caption(nouns[k]) for w in words] for k in rows],
            judge,
        )
    return out


def evaluate(
    assets: Path, artwork: Path, test: Pool, before: Path | None = None, count: int = 500
) -> dict[str, object]:
    """Every figure of what lies in `assets`; "before" has those of an earlier pipeline's folder.

    Both pipelines draw the same prompts from the same seeds.
    """
    judge = load_encoder(assets / "judge-clip")
    reward = load_encoder(assets / "reward")
    dino = load_encoder(assets / "judge-dino")
    figures: dict[str, object] = {
        "solver_steps": STEPS,
        "guidance_scale": GUIDANCE,
        "pictures": count,
    }

    real = _to_unit(test.images[:count])
    captions = test.captions[:count]
    seen = {"judge": judge, "reward": reward}
    for name, encoder in seen.items():
        figures[f"real_scenes_of_16_by_{name}"] = retrieval(
            encoder.encode_images(real), captions, encoder
        )
    figures["real_scenes_axes"] = _axes(
        judge.encode_images(real), test.nouns[:count], test.looks[:count], judge
    )
    others = _to_unit(test.images[count : 2 * count])
    figures["real_scenes_frechet"] = _frechet(others, real, dino)
    figures["real_scenes_sharpness"] = sharpness(others, real)
    figures |= pipeline_figures(assets / "pipeline", artwork, test, judge, dino, count)
    if before is not None:
        figures["before"] = pipeline_figures(before, artwork, test, judge, dino, count)

    photos, owner = [], []
    for k, name in enumerate(SUBJECTS):
        for file in sorted((assets / "subjects" / name).glob("*.png")):
            photos.append(np.asarray(Image.open(file).convert("RGB")))
            owner.append(k)
    pictures, whose = _to_unit(np.stack(photos)), np.array(owner)
    for name, encoder in {"dino": dino, "clip": judge, "reward": reward}.items():
        features = encoder.encode_images(pictures)
        similar = features @ features.T
        same = torch.from_numpy(whose[:, None] == whose[None, :])
        off = ~torch.eye(len(whose), dtype=torch.bool)
        nearest = similar.masked_fill(~off, -2).argmax(-1).numpy()
        figures[f"subjects_1nn_by_{name}"] = float((whose[nearest] == whose).mean())
        figures[f"subjects_within_between_by_{name}"] = [
            float(similar[same & off].mean()),
            float(similar[~same].mean()),
        ]
    return figures


def pipeline_figures(
    pipeline: Path, artwork: Path, test: Pool, judge: Encoder, dino: Encoder, count: int
) -> dict[str, object]:
    """What depends on the text-to-image model alone, in `count` pictures by its autoencoder, as
    many that it draws of the world's captions, and ten for each noun."""
    backbone = Backbone.load(pipeline)
    rng = np.random.default_rng(23)
    scenes = _to_unit(test.images[:count])
    again = backbone.decode(backbone.encode_images(scenes * 2 - 1, batch_size=50), batch_size=50)
    figures: dict[str, object] = {
        "autoencoder_psnr_db": psnr(backbone.vae, test.images[:count]),
        "autoencoder_sharpness": sharpness(again, scenes),
    }
    who = [instance(artwork, 10**6 + k) for k in range(count)]
    looks = [random_look(rng, w) for w in who]
    nouns = [w.sprite.noun for w in who]
    prompts = [look.caption(noun) for look, noun in zip(looks, nouns, strict=True)]
    pictures = _draw(backbone, prompts, 0)
    drawn = judge.encode_images(pictures)
    figures["base_model_of_16"] = retrieval(drawn, prompts, judge)
    figures["base_model_axes"] = _axes(drawn, nouns, looks, judge)
    figures["base_model_frechet"] = _frechet(pictures, scenes, dino)
    figures["base_model_sharpness"] = sharpness(pictures, scenes)
    named = [f"a photo of a [V] {n}" for n in CLASS_ICONS for _ in range(10)]
    plain = judge.encode_images(_draw(backbone, named, 10_000))
    figures["identifier_prompt_class"] = choice(
        plain,
        [k for k in range(len(CLASS_ICONS)) for _ in range(10)],
        [[f"a {n}" for n in CLASS_ICONS]] * len(named),
        judge,
    )
    return figures


def _frechet(pictures: Tensor, scenes: Tensor, judge: Encoder) -> float:
    """Fréchet distance of the judge's features of both."""
    return frechet_distance(
        *(gaussian(judge.encode_images(images)) for images in (pictures, scenes))
    )


def contact_sheet(assets: Path, file: Path) -> None:
    """What the base model draws: rows of nouns, columns of modifications."""
    backbone = Backbone.load(assets / "pipeline")
    columns = [
        Look(),
        Look(context="beach"),
        Look(context="moon"),
        Look(context="city"),
        Look(context="snow"),
        Look(tint="red"),
        Look(tint="green"),
        Look(style=True),
        Look(context="eiffel"),
    ]
    dressed = [Look(outfit="santa hat"), Look(outfit="pink glasses"), Look(outfit="police")]
    things = [Look(context="water"), Look(context="volcano"), Look(context="jungle")]
    zoom, margin = 96, 18
    font = ImageFont.load_default(11)
    sheet = Image.new("RGB", (zoom * 12, (zoom + margin) * len(CLASS_ICONS)), "white")
    pen = ImageDraw.Draw(sheet)
    for row, noun in enumerate(CLASS_ICONS):
        looks = columns + (dressed if noun in LIVE_CLASSES else things)
        prompts = [look.caption(noun) for look in looks]
        images = _draw(backbone, prompts, 1000 * row)
        for col, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
            pixels = (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
            x, y = col * zoom, row * (zoom + margin)
            sheet.paste(
                Image.fromarray(pixels).resize((zoom, zoom), Image.Resampling.NEAREST), (x, y)
            )
            text = prompt.removeprefix("a ")
            while font.getlength(text) > zoom - 4:  # within its column
                text = text[:-1]
            pen.text((x + 2, y + zoom + 2), text, fill="black", font=font)
    sheet.save(file, optimize=True)
