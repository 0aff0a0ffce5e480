"""Does it learn? RPO against the base model and against the similarity loss alone.

    python -m benchmarks.learning --out benchmarks/results/learning.json

Subjects: of the N = 30 bundled ones, none of which any model has seen, sorted by name, every
(N / --subjects)-th from the first; the rule looks at no result. Seeds: 0, 1, ...

Methods, each drawing the 25 test prompts from the same first noises:

    base              step 0
    similarity        L_sim alone, the last step
    similarity-best   L_sim alone, the step that validates best
    rpo-last          L_sim + L_pref, the last step
    rpo               L_sim + L_pref, the step that validates best: the paper's method

Judges: DINO and CLIP-I (mean cosine with the subject's photos), CLIP-T (mean cosine with the
prompt without identifier) by encoders that label and select nothing; the λ-harmonic reward
(λ = 0.5) in the CLIP judge's features, and by the reward model, which does select.

Every (subject, seed, method) is written as soon as it is done; with --resume a rerun computes what
is missing. A subject's seeds are averaged first: the intervals are Student's t over subjects.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.command import finish, make_parser
from benchmarks.learning_report import (
    METHODS,
    Row,
    draw_picture,
    render_table,
    sheet_path,
    summarise,
)
from benchmarks.provenance import provenance, write_json, write_text
from benchmarks.world import (
    MODELS,
    WORLD,
    chosen_subjects,
    load_subject,
    model_hashes,
    subject_table,
)
from rpo.config import Config, load_config
from rpo.data.prompts import Prompt, PromptSet, load_prompt_set
from rpo.errors import UserError
from rpo.evaluation.metrics import (
    harmonic_reward,
    photo_similarity,
    subject_similarity,
    text_similarity,
)
from rpo.events import Labelled, StepDone, Validated
from rpo.learners import learner_class
from rpo.methods import method_class
from rpo.methods.method import Task
from rpo.models.backbone import Backbone
from rpo.models.conditions import Conditions
from rpo.models.encoders import Encoder, load_encoder
from rpo.models.resolve import resolve_model
from rpo.models.sampling import sample, to_uint8
from rpo.rewards.alignment import AlignmentReward
from rpo.runs.environment import model_files
from rpo.seeds import derive_seed
from rpo.training.loop import Trainer
from rpo.training.validation import Validator

LAMBDA = 0.5
PROMPTS = {"prompts": "emojiland"}
# What each method's training gives: the names of its last and of its best step in the table.
TRAININGS = {
    "similarity": ("similarity", "similarity-best"),
    "rpo": ("rpo-last", "rpo"),
}


@dataclass(frozen=True)
class World:
    """The loaded models of a folder laid out as the embedded world."""

    folder: Path
    backbone: Backbone
    reward: Encoder
    clip: Encoder
    dino: Encoder
    prompts: PromptSet

    @classmethod
    def load(cls, folder: Path, config: Config) -> World:
        """Raises UserError where a part is missing."""
        paths = [resolve_model(folder / kind, kind) for kind in MODELS]  # type: ignore[arg-type]
        backbone = Backbone.load(paths[0], config.device, config.resolution)
        reward, clip, dino = (load_encoder(path, backbone.device) for path in paths[1:])
        return cls(folder, backbone, reward, clip, dino, load_prompt_set("emojiland"))


class Case:
    """One subject under one seed: its base pictures, its trainings, and their judgement."""

    def __init__(self, world: World, name: str, seed: int, config: Config, images: int) -> None:
        """config: how pictures are judged, and the identifier; a training has its own."""
        self.world, self.name, self.seed, self.config = world, name, seed, config
        self.subject = load_subject(world.folder, name)
        self.place = resolve_model(world.folder / "pipeline", "pipeline")
        self.photos = self.subject.tensor(world.backbone.resolution).add(1).div(2)
        self.reward = AlignmentReward(world.reward, self.photos)
        self.drawn = [p for p in self.prompts("test") for _ in range(images)]

    def prompts(self, split: str) -> list[Prompt]:
        """The subject's prompts of one list."""
        kind, noun = self.subject.kind, self.subject.noun
        return self.world.prompts.prompts(split, kind, noun, self.config.identifier)

    def records(
        self, missing: set[str], configs: Mapping[str, Config]
    ) -> Iterator[tuple[dict[str, Any], Tensor]]:
        """A record and its (N, 3, H, W) uint8 pictures for each of the `missing` methods.

        configs: the settings of each method of `TRAININGS`.
        """
        if "base" in missing:
            yield self.base()
        for method, (last, best) in TRAININGS.items():
            wanted = [name if name in missing else None for name in (last, best)]
            if any(wanted):
                yield from self.trained(configs[method], *wanted)

    def base(self) -> tuple[dict[str, Any], Tensor]:
        """The judgement of the base model."""
        start = time.perf_counter()
        backbone = self.world.backbone
        conditions = backbone.encode_prompts([prompt.conditioning for prompt in self.drawn])
        return self._judge("base", backbone.denoiser, conditions, 0, start)

    def trained(
        self, config: Config, last: str | None, best: str | None
    ) -> Iterator[tuple[dict[str, Any], Tensor]]:
        """One training by `config.method`, and the judgement of its last and of its best step.

        They are called by those names; None is not judged.
        """
        start, cpu = time.perf_counter(), time.process_time()
        trainer, best_weights, about = self._train(config)
        about["seconds_of_training"] = time.perf_counter() - start
        about["cpu_seconds_of_training"] = time.process_time() - cpu
        about["trained_parameters"] = sum(p.numel() for p in trainer.parameters.values())
        for method, step in ((last, trainer.step), (best, trainer.stopping.best_step)):
            if method is None:
                continue
            start = time.perf_counter()
            if method == best:
                with torch.no_grad():
                    for name, weight in best_weights.items():
                        trainer.parameters[name].copy_(weight)
            learner = trainer.learner
            with torch.no_grad(), trainer.averaged():
                told = learner.encode([prompt.conditioning for prompt in self.drawn])
                yield self._judge(method, learner.denoiser, told, step or 0, start, about)

    def _train(self, config: Config) -> tuple[Trainer, dict[str, Tensor], dict[str, Any]]:
        """The trainer at its last step, the best step's weights, and what its events said."""
        # Without patience: the methods that take the last step must get there.
        config = dataclasses.replace(
            config,
            noun=self.subject.noun,
            subject_kind=self.subject.kind,
            seed=self.seed,
            validation=dataclasses.replace(config.validation, patience=0),
        )
        backbone, about = self.world.backbone, {}
        prompts = self.prompts("training")
        task = Task(
            backbone, config, self.subject, prompts, self.reward, lambda: model_files(self.place)
        )
        method = method_class(config)(task)
        work, labelled = method.prepare(), None
        while True:
            try:
                event = next(work)
            except StopIteration as end:
                data = end.value
                break
            labelled = event if isinstance(event, Labelled) else labelled
        validator = Validator(backbone, self.reward, self.prompts("validation"), config)
        learner = learner_class(config.training.weights)(backbone, config)
        trainer = Trainer(learner, method, data, config, validator)
        rewards, figures, best = {}, [], {}
        for event in trainer.run():
            if isinstance(event, Validated):
                rewards[str(event.step)] = round(event.reward, 5)
                if event.improved:
                    with trainer.averaged():
                        best = {k: p.detach().clone() for k, p in trainer.parameters.items()}
            elif isinstance(event, StepDone):
                figures.append(event.figures)
        about = {"validation_rewards": rewards}
        if labelled:
            about["label_mean_probability"] = labelled.mean_probability
            about["label_mean_gap"] = labelled.mean_gap
        recent = figures[-config.validation.every :]
        for key in sorted({key for step in recent for key in step}):
            about[f"last_{key}"] = statistics.fmean(s[key] for s in recent if key in s)
        return trainer, best, about

    def _judge(
        self,
        method: str,
        denoiser: nn.Module,
        conditions: Conditions,
        step: int,
        start: float,
        about: dict[str, Any] | None = None,
    ) -> tuple[dict[str, Any], Tensor]:
        world, settings = self.world, self.config.validation
        latents = sample(
            world.backbone,
            denoiser,
            conditions,
            [derive_seed(self.seed, "test", index) for index in range(len(self.drawn))],
            steps=settings.steps,
            guidance_scale=settings.guidance_scale,
            batch_size=settings.batch_size,
            scheduler=settings.scheduler,
        )
        pictures = world.backbone.decode(latents, settings.batch_size).cpu()
        plain = [prompt.plain for prompt in self.drawn]
        dino, photos_dino = (world.dino.encode_images(x) for x in (pictures, self.photos))
        clip, photos_clip = (world.clip.encode_images(x) for x in (pictures, self.photos))
        texts = world.clip.encode_texts(plain)
        scores = self.reward.score(pictures, plain)
        record = {
            "subject": self.name,
            "noun": self.subject.noun,
            "kind": self.subject.kind,
            "seed": self.seed,
            "method": method,
            "step": step,
            "pictures": len(pictures),
            "dino": subject_similarity(dino, photos_dino),
            "clip_i": subject_similarity(clip, photos_clip),
            "clip_t": text_similarity(clip, texts),
            "harmonic_judge": harmonic_reward(clip, photos_clip, texts, LAMBDA),
            "harmonic_reward_model": scores.combine(LAMBDA).mean().item(),
            "photos_dino": photo_similarity(photos_dino),
            "photos_clip_i": photo_similarity(photos_clip),
            "seconds_of_judging": time.perf_counter() - start,
            **(about or {}),
        }
        return record, to_uint8(pictures)


def _save_sheet(path: Path, pictures: Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    row = torch.cat(list(pictures), dim=2).permute(1, 2, 0)  # (H, N W, 3)
    Image.fromarray(row.contiguous().numpy()).save(path)


def opened(
    arguments: argparse.Namespace, experiment: str, config: Config, images: int
) -> dict[str, Any]:
    """The results to be continued, or new ones. Raises UserError where they do not fit."""
    out: Path = arguments.out
    fresh = {
        "experiment": experiment,
        "config": dataclasses.asdict(config),
        "models": model_hashes(arguments.world),
        "images_per_prompt": images,
        "sessions": [],
        "records": [],
    }
    if not out.exists():
        return fresh
    if not arguments.resume:
        raise UserError(f"--out {out}: exists; --resume completes it, or name another file")
    stored = json.loads(out.read_text(encoding="utf-8"))
    stored["config"] = completed(stored["config"], dataclasses.asdict(Config()))
    for key in ("config", "models", "images_per_prompt"):
        if stored[key] != fresh[key]:
            raise UserError(f"--out {out}: made with another {key}; name another file")
    return stored


def completed(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A stored config with the settings that came later, at their defaults: as it was then."""
    merged = {**defaults, **config}
    for key, value in defaults.items():
        if isinstance(value, Mapping):
            merged[key] = completed(config.get(key, {}), value)
    return merged


def run(arguments: argparse.Namespace) -> str:
    """The whole experiment; returns its table."""
    config = load_config("emojiland", None, arguments.set, prompts="emojiland")
    configs = {
        method: load_config("emojiland", None, [*arguments.set, f"method={method}"], **PROMPTS)
        for method in TRAININGS
    }
    if arguments.seeds < 1 or arguments.images < 1:
        raise UserError("--seeds and --images must be at least 1")
    world = World.load(arguments.world, config)
    names = chosen_subjects(list(subject_table(world.folder)), arguments.subjects)
    results = opened(arguments, "learning", config, arguments.images)
    session = provenance(str(world.backbone.device)) | {"seconds": 0.0, "records": 0}
    done = {(r["subject"], r["seed"], r["method"]) for r in results["records"]}
    start = time.perf_counter()
    for name in names:
        for seed in range(arguments.seeds):
            missing = {method for method in METHODS if (name, seed, method) not in done}
            if not missing:
                continue
            case = Case(world, name, seed, config, arguments.images)
            for record, pictures in case.records(missing, configs):
                _save_sheet(sheet_path(arguments.out, name, seed, record["method"]), pictures)
                if not session["records"]:
                    results["sessions"].append(session)
                session["records"] += 1
                session["seconds"] = round(time.perf_counter() - start, 1)
                results["records"].append(rounded(record))
                write_json(arguments.out, results)
                _tell(record, session["seconds"])
    asked = [r for r in results["records"] if r["subject"] in names and r["seed"] < arguments.seeds]
    results["summary"] = summarise(asked)
    write_json(arguments.out, results)
    text = render_table(results | {"records": asked})
    write_text(arguments.out.with_suffix(".md"), text)
    rows = [_row(world, name, place, config, arguments.images) for place, name in enumerate(names)]
    draw_picture(rows, arguments.out).save(arguments.out.with_suffix(".png"), optimize=True)
    return f"\n{text}"


def _row(world: World, name: str, place: int, config: Config, images: int) -> Row:
    """Row k of the picture shows test prompt 4 k: another one a subject, chosen before a look."""
    subject = load_subject(world.folder, name)
    prompts = world.prompts.prompts("test", subject.kind, subject.noun, config.identifier)
    index = 4 * place % len(prompts)
    return Row(name, prompts[index].conditioning, subject.images[0], index * images)


def rounded(record: dict[str, Any]) -> dict[str, Any]:
    return {k: round(v, 6) if isinstance(v, float) else v for k, v in record.items()}


def _tell(record: dict[str, Any], seconds: float) -> None:
    figures = "  ".join(
        f"{key} {record[key]:.3f}" for key in ("dino", "clip_i", "clip_t", "harmonic_judge")
    )
    print(
        f"{seconds:7.0f} s  {record['subject']} seed {record['seed']} {record['method']:<15} "
        f"step {record['step']:>4}  {figures}",
        flush=True,
    )


def main(words: Sequence[str] | None = None) -> int:
    """The command; 2 for wrong arguments, else 0."""
    parser = make_parser("learning", __doc__, "learning.json")
    parser.add_argument("--subjects", type=int, default=6, help="how many subjects (6)")
    parser.add_argument("--seeds", type=int, default=2, help="how many seeds of each (2)")
    parser.add_argument("--images", type=int, default=1, help="pictures of a test prompt (1)")
    parser.add_argument("--resume", action="store_true", help="complete an existing result file")
    parser.add_argument("--world", type=Path, default=WORLD, help="another folder of models")
    return finish(run, parser.parse_args(words))


if __name__ == "__main__":
    sys.exit(main())
