"""A results folder as `rpo bench` leaves it, with made-up figures and small drawn pictures."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from rpo.bench.records import Job, JobResult, Judged, write_result
from rpo.evaluation.scoring import Row, means_of

PROMPTS = (
    ("a {} in the snow", "recontextualisation"),
    ("a {} on the beach", "recontextualisation"),
    ("a {} wearing a red hat", "accessory"),
    ("a red {}", "colour"),
    ("a shiny {}", "property"),
    ("a watercolor painting of a {}", "style"),
)
# row, title, method, settings, choice -> mean of DINO, CLIP-I, CLIP-T
ROWS = (
    ("base", "base model", "", {}, {"untrained": (0.02, 0.18, 0.37)}),
    (
        "similarity",
        "L_sim",
        "similarity",
        {},
        {"best": (0.58, 0.66, 0.314), "last": (0.62, 0.67, 0.297)},
    ),
    (
        "dreambooth",
        "DreamBooth",
        "dreambooth",
        {"dreambooth.class_images": 64},
        {"last": (0.55, 0.63, 0.305)},
    ),
    ("dpo", "Diffusion-DPO", "dpo", {}, {"last": (0.05, 0.2, 0.36)}),
    (
        "textual-inversion",
        "Textual Inversion",
        "textual_inversion",
        {},
        {"last": (0.33, 0.45, 0.29)},
    ),
    ("rpo", "RPO", "rpo", {}, {"best": (0.56, 0.65, 0.322), "last": (0.57, 0.65, 0.30)}),
    ("rpo-3", "RPO, λ .3", "rpo", {"reward.lambda_val": 0.3}, {"best": (0.5, 0.6, 0.334)}),
    ("rpo-7", "RPO, λ .7", "rpo", {"reward.lambda_val": 0.7}, {"best": (0.59, 0.665, 0.309)}),
    (
        "rpo-arithmetic",
        "RPO, arithmetic",
        "rpo",
        {"reward.mean": "arithmetic"},
        {"best": (0.575, 0.655, 0.312)},
    ),
)
JUDGES = {
    role: {
        "name": f"emojiland/{role}",
        "sha256": {"model.safetensors": f"{code}" * 32},
        "preprocessing": {"do_resize": True, "size": {"height": 64, "width": 64}, "resample": 3},
    }
    for role, code in (("dino", "d1"), ("clip", "c0"))
}
PROTOCOL = {
    "images_per_prompt": 1,
    "photos": "centre squares of 64 pixels by Lanczos",
    "prompt": "CLIP-T and λ-harmonic read the prompt without the identifier",
    "lambda": 0.5,
}
TITLES = {"last": ", last step", "best": "", "untrained": ""}


def write_results(
    folder: Path,
    subjects: Sequence[str] = ("cat", "dog", "mug", "teapot"),
    seeds: Sequence[int] = (0, 1),
    rows: Sequence[str] = (),
    failing: Sequence[str] = (),
    pictures: bool = True,
) -> Path:
    """Fills `folder`; rows: only these; failing: ids of jobs that fail."""
    for row, title, method, settings, choices in ROWS:
        if rows and row not in rows:
            continue
        for place, subject in enumerate(subjects):
            for seed in seeds:
                job = Job(
                    f"{row}.{subject}.{seed}",
                    row,
                    title,
                    subject,
                    subject.rstrip("0123456789"),
                    "object",
                    seed,
                    method,
                    "emojiland",
                    settings,
                    tuple(choices),
                )
                if job.id in failing:
                    result = JobResult(
                        job, "failed", "the loss is no longer finite; lower the rate"
                    )
                else:
                    result = _done(folder, job, choices, place, pictures)
                write_result(folder, result)
    return folder


def _done(folder: Path, job: Job, choices: dict, place: int, pictures: bool) -> JobResult:
    of_subject = random.Random(f"{job.subject}")
    shift = [of_subject.gauss(0, s) for s in (0.09, 0.07, 0.02)]
    judged = []
    chosen = 40 * random.Random(job.id).randint(2, 8)
    for choose, means in choices.items():
        own = random.Random(f"{job.id}.{choose}")
        rows = []
        where = f"pictures/{job.row}-{choose}/seed-{job.seed}/{job.subject}"
        for number, (template, skill) in enumerate(PROMPTS, 1):
            dino, clip_i, clip_t = (
                m + s + own.gauss(0, w)
                for m, s, w in zip(means, shift, (0.05, 0.04, 0.015), strict=True)
            )
            image, text = (clip_i + 1) / 2, (clip_t + 1) / 2
            figures = {
                "dino": dino,
                "clip_i": clip_i,
                "clip_t": clip_t,
                "harmonic": 1 / (0.5 / image + 0.5 / text),
                "identity_rank": min(1.0, max(0.05, dino + 0.2)),
            }
            rows.append(Row(job.subject, number, 1, template, skill, figures))
            if pictures:
                file = folder / where / f"{number:02d}-1.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                draw(job.subject, number, 0.2 + 0.8 * max(0, dino)).save(file)
        rows.append(Row(job.subject, 0, 1, "", "", {"class_drift": 0.1 + abs(own.gauss(0, 0.05))}))
        step = {"untrained": 0, "best": chosen, "last": 400}[choose]
        judged.append(
            Judged(
                choose,
                job.title + TITLES[choose],
                step,
                where if pictures else "",
                tuple(rows),
                means_of(rows),
            )
        )
    if pictures and job.method:
        place_of = folder / "runs" / job.id / "images" / "photos"
        place_of.mkdir(parents=True, exist_ok=True)
        draw(job.subject, 0, 1.0).save(place_of / "0.png")
    wiggle = random.Random(job.id)
    curve = tuple(
        (
            step,
            0.62
            + 0.1 * min(1, step / chosen)
            - 0.03 * max(0, step - chosen) / 400
            + wiggle.gauss(0, 0.004),
            0.7,
            0.6,
        )
        for step in range(0, 401, 40)
    )
    curve = tuple(
        (s, max(r for t, r, _, _ in curve) + 0.002 if s == chosen else r, i, t)
        for s, r, i, t in curve
    )
    seconds = {"training": 20.0 + place, "total": 26.0 + place}
    return JobResult(
        job,
        "done",
        steps=400 if job.method else 0,
        seconds=seconds if job.method else {"total": 4.0},
        trained_parameters=1_234_567 if job.method else 0,
        curve=curve if job.method else (),
        judged=tuple(judged),
        photos={"dino": 0.83, "clip_i": 0.84, "identity_rank": 0.9},
        judges=JUDGES,
        protocol=PROTOCOL,
        provenance={"versions": {"rpo": "0.1.0", "torch": "2.13"}, "commit": "abc"},
    )


def draw(subject: str, number: int, how: float) -> Image.Image:
    """A blob whose colour is the subject's, on the ground of a prompt, the more `how` is 1."""
    of = random.Random(subject)
    ground = random.Random(number)
    image = Image.new("RGB", (64, 64), tuple(ground.randint(120, 240) for _ in range(3)))
    ink = tuple(int(255 * (1 - how) * 0.5 + how * of.randint(20, 200)) for _ in range(3))
    pen = ImageDraw.Draw(image)
    pen.ellipse((14, 18, 50, 56), fill=ink)
    pen.ellipse((20, 6, 44, 30), fill=ink)
    pen.ellipse((25, 14, 30, 19), fill="white")
    pen.ellipse((35, 14, 40, 19), fill="white")
    return image
