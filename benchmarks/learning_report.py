"""The table and the picture of `benchmarks.learning`: arithmetic and layout, no models."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from benchmarks.provenance import machine_line
from rpo.evaluation.statistics import Interval, mean_interval, paired_difference

METHODS = ("base", "similarity", "similarity-best", "rpo-last", "rpo")
METRICS = {
    "dino": "DINO",
    "clip_i": "CLIP-I",
    "clip_t": "CLIP-T",
    "harmonic_judge": "λ-harmonic (CLIP judge)",
    "harmonic_reward_model": "λ-harmonic (reward model)",
}
PHOTO_METRICS = {"dino": "photos_dino", "clip_i": "photos_clip_i"}
DESCRIPTIONS = {
    "base": "step 0",
    "similarity": "L_sim alone, last step",
    "similarity-best": "L_sim alone, best by validation",
    "rpo-last": "L_sim + L_pref, last step",
    "rpo": "L_sim + L_pref, best by validation",
}


def by_subject(records: Sequence[Mapping[str, Any]], method: str, metric: str) -> list[float]:
    """One value a subject, in the order of their names: the mean over its seeds."""
    values: dict[str, list[float]] = {}
    for record in records:
        if record["method"] == method:
            values.setdefault(record["subject"], []).append(record[metric])
    return [sum(values[name]) / len(values[name]) for name in sorted(values)]


def summarise(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means with 95 % intervals over subjects, and rpo's paired differences from each other."""

    def plain(interval: Interval) -> dict[str, float]:
        return {key: round(value, 6) for key, value in dataclasses.asdict(interval).items()}

    values = {
        method: {metric: by_subject(records, method, metric) for metric in METRICS}
        for method in METHODS
    }
    return {
        "methods": {
            method: {metric: plain(mean_interval(row[metric])) for metric in METRICS}
            for method, row in values.items()
        },
        "photos": {
            metric: plain(mean_interval(by_subject(records, "base", own)))
            for metric, own in PHOTO_METRICS.items()
        },
        "differences": {
            f"rpo - {other}": {
                metric: plain(paired_difference(values["rpo"][metric], values[other][metric]))
                for metric in METRICS
            }
            for other in METHODS[:-1]
        },
    }


def verdict(difference: Mapping[str, float]) -> str:
    """What a paired difference allows to say at the 95 % level."""
    if difference["low"] > 0:
        return "higher than"
    return "lower than" if difference["high"] < 0 else "not told apart from"


def render_table(results: Mapping[str, Any]) -> str:
    """The whole result as Markdown."""
    summary, records = results["summary"], results["records"]
    subjects = sorted({record["subject"] for record in records})
    seeds = sorted({record["seed"] for record in records})
    pictures = records[0]["pictures"]
    config = results["config"]
    lines = [
        "# Does it learn?",
        "",
        f"{len(subjects)} held-out subjects ({', '.join(subjects)}), seeds "
        f"{', '.join(map(str, seeds))}; {pictures} pictures of the test prompts for each subject, "
        "seed and method, from the same first noises. DINO, CLIP-I and CLIP-T come from "
        "encoders that label and select nothing. Mean ± "
        "half the 95 % interval (Student's t over subjects, seeds averaged first).",
        "",
        *_row(["method", "", *METRICS.values()]),
        *_row(["---"] * (2 + len(METRICS))),
    ]
    for method in METHODS:
        row = summary["methods"][method]
        cells = [f"{row[metric]['mean']:.3f} ± {_half(row[metric]):.3f}" for metric in METRICS]
        lines += _row(
            [f"**{method}**" if method == "rpo" else method, DESCRIPTIONS[method], *cells]
        )
    photos = summary["photos"]
    cells = [f"{photos[m]['mean']:.3f}" if m in photos else "–" for m in METRICS]
    lines += _row(["real photos", "with one another", *cells])
    lines += [
        "",
        "Paired differences, mean [95 % interval]:",
        "",
        *_row(["difference", *METRICS.values()]),
        *_row(["---"] * (1 + len(METRICS))),
    ]
    for name, row in summary["differences"].items():
        cells = [
            f"{row[m]['mean']:+.3f} [{row[m]['low']:+.3f}, {row[m]['high']:+.3f}]" for m in METRICS
        ]
        lines += _row([name.replace("-", "−", 1), *cells])
    lines += ["", "At the 95 % level, by the independent judges:", ""]
    for metric in ("dino", "clip_t", "harmonic_judge"):
        words = [
            f"{verdict(summary['differences'][f'rpo - {other}'][metric])} {other}"
            for other in ("base", "similarity")
        ]
        lines.append(f"- {METRICS[metric]} of rpo: {'; '.join(words)}.")
    lines += [
        "",
        "Subject by subject (DINO / CLIP-T / λ-harmonic of the CLIP judge; best steps of rpo):",
        "",
        *_row(["subject", "base", "similarity", "rpo", "best steps"]),
        *_row(["---"] * 5),
    ]
    for name in subjects:
        own = [record for record in records if record["subject"] == name]
        cells = [
            " / ".join(
                f"{by_subject(own, method, metric)[0]:.3f}"
                for metric in ("dino", "clip_t", "harmonic_judge")
            )
            for method in ("base", "similarity", "rpo")
        ]
        steps = [str(record["step"]) for record in own if record["method"] == "rpo"]
        lines += _row([name, *cells, ", ".join(steps)])
    training, validation = config["training"], config["validation"]
    lines += [
        "",
        f"Settings: {training['steps']} steps, learning rate {training['learning_rate']:g}, "
        f"β {training['beta']:g}, batch {training['batch_size']}, λ_train "
        f"{config['reward']['lambda_train']:g}, λ_val {config['reward']['lambda_val']:g}, "
        f"temperature {config['reward']['temperature']:g}, validation every "
        f"{validation['every']} steps; pictures by dpm++ in {validation['steps']} steps, guidance "
        f"{validation['guidance_scale']:g}. All settings are in the JSON file beside this one.",
        "",
    ]
    for session in results["sessions"]:
        lines.append(
            f"Made at commit {session['commit']} in {session['seconds']:.0f} s "
            f"({session['records']} records): {machine_line(session)}."
        )
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> list[str]:
    return ["| " + " | ".join(cells) + " |"]


def _half(interval: Mapping[str, float]) -> float:
    return (interval["high"] - interval["low"]) / 2


def sheet_path(out: Path, subject: str, seed: int, method: str) -> Path:
    """Where the pictures of one record are kept, side by side in one image."""
    return out.with_name(f"{out.stem}-pictures") / f"{subject}-{seed}-{method}.png"


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the picture: a photo, and which picture of which sheets stands beside it."""

    subject: str
    prompt: str
    photo: Image.Image
    index: int


def draw_picture(rows: Sequence[Row], out: Path, seed: int = 0, tile: int = 192) -> Image.Image:
    """Subjects in rows: photo, then the same test prompt by base, similarity and rpo.

    Upscaled without smoothing. A picture whose sheet is gone stays empty.
    """
    columns = {"base": "base model", "similarity": "similarity alone, last", "rpo": "RPO, best"}
    font = ImageFont.load_default(15)
    head, caption, gap = 28, 24, 6
    width = (1 + len(columns)) * (tile + gap) + gap
    canvas = Image.new("RGB", (width, head + len(rows) * (tile + caption)), "white")
    draw = ImageDraw.Draw(canvas)
    for place, text in enumerate(["photo", *columns.values()]):
        draw.text((gap + place * (tile + gap) + 2, 6), text, fill="black", font=font)
    for line, row in enumerate(rows):
        top = head + line * (tile + caption)
        cells = [
            row.photo,
            *(_cell(sheet_path(out, row.subject, seed, m), row.index) for m in columns),
        ]
        for place, cell in enumerate(cells):
            if cell:
                big = cell.resize((tile, tile), Image.Resampling.NEAREST)
                canvas.paste(big, (gap + place * (tile + gap), top))
        text = f"{row.subject}: {row.prompt}"
        draw.text((gap + 2, top + tile + 2), text, fill="black", font=font)
    return canvas


def _cell(sheet: Path, index: int) -> Image.Image | None:
    if not sheet.is_file():
        return None
    with Image.open(sheet) as image:
        side = image.height
        return image.crop((index * side, 0, (index + 1) * side, side)).convert("RGB")
