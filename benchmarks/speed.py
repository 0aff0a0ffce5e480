"""How fast is it on the CPU? The whole job, and its two halves beside plain code, in one run.

    python -m benchmarks.speed --out benchmarks/results/speed-cpu.json

1. The job as `rpo train` does it on one bundled subject: seconds and peak memory of each phase,
   images a second, gradient steps a second.
2. Sampling: the library's batched sampler beside diffusers' own StableDiffusionPipeline called
   once a picture, with the same solver, steps, guidance, prompts and first noises. The greatest
   difference of the pictures is recorded: both do the same work.
3. A gradient step of RPO (two halves of a pair, and the frozen base on both) beside a plain
   DreamBooth step with prior preservation (a photo and a class picture, hand-written with
   diffusers' DDPMScheduler and torch's AdamW) and beside that step plus the base's forward pass
   that RPO needs.

Contestants take turns, after a warm-up, and medians over the rounds are compared, so that a
disturbance of the machine hits all alike. Ratios above 1 favour the library.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from torch import Tensor, nn

from benchmarks.command import finish, make_parser
from benchmarks.provenance import machine_line, provenance, write_json
from benchmarks.world import WORLD, load_subject, model_hashes, subject_table
from rpo.api import iterate
from rpo.config import Config, load_config
from rpo.data.prompts import Prompt, load_prompt_set
from rpo.data.subject import Subject
from rpo.errors import UserError
from rpo.events import Drawn, PhaseDone, StepDone, Validated
from rpo.learners import learner_class
from rpo.learners.learner import Learner
from rpo.methods.method import Task
from rpo.methods.rpo import RPO, LabelledPairs
from rpo.models.backbone import Backbone, quiet
from rpo.models.conditions import Conditions
from rpo.models.sampling import initial_noise, make_solver, sample
from rpo.rewards.harmonic import Scores
from rpo.seeds import derive_seed
from rpo.training.loop import Trainer


def measure_job(
    subject: Subject, world: Path, preset: str, settings: Sequence[str]
) -> dict[str, Any]:
    """One whole job with the models of a folder, in a temporary run folder: phases and rates."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        phases: dict[str, dict[str, Any]] = {}
        steps = drawn = validated = 0
        events = iterate(
            subject,
            str(world / "pipeline"),
            preset,
            Path(folder) / "run",
            settings=settings,
            reward={"model": str(world / "reward")},
        )
        for event in events:
            if isinstance(event, PhaseDone):
                phases[event.phase] = {
                    "seconds": round(event.seconds, 3),
                    "peak_memory_mb": event.memory_mb and round(event.memory_mb, 1),
                    "gpu_peak_memory_mb": event.gpu_memory_mb and round(event.gpu_memory_mb, 1),
                }
            elif isinstance(event, StepDone):
                steps = event.step
            elif isinstance(event, Drawn):
                drawn = len(event.prompts)
            elif isinstance(event, Validated):
                validated += len(event.prompts)
        seconds = time.perf_counter() - start

    def peak(key: str) -> float | None:
        return max((phase[key] for phase in phases.values() if phase[key]), default=None)

    return {
        "seconds": round(seconds, 2),
        "peak_memory_mb": peak("peak_memory_mb"),
        "gpu_peak_memory_mb": peak("gpu_peak_memory_mb"),
        "phases": phases,
        "training_pictures": drawn,
        "training_pictures_per_second": _rate(drawn, phases["sampling"]["seconds"]),
        "validation_pictures": validated,
        "validation_pictures_per_second": _rate(validated, phases["validation"]["seconds"]),
        "gradient_steps": steps,
        "gradient_steps_per_second": _rate(steps, phases["training"]["seconds"]),
    }


def _rate(count: int, seconds: float) -> float:
    return round(count / max(seconds, 1e-9), 3)


def _config(arguments: argparse.Namespace) -> Config:
    return load_config("emojiland", None, arguments.set, prompts="emojiland", device="cpu")


def compare_sampling(
    backbone: Backbone, prompts: Sequence[Prompt], config: Config, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Pictures a second: batched, and one a call of diffusers' pipeline."""
    settings = config.sampling
    texts = [prompts[index % len(prompts)].conditioning for index in range(arguments.pictures)]
    seeds = [derive_seed(config.seed, "speed", index) for index in range(len(texts))]
    pipeline: Any = backbone.pipeline(backbone.denoiser)
    pipeline.scheduler = make_solver(backbone, settings.scheduler)
    pipeline.set_progress_bar_config(disable=True)

    def batched() -> Tensor:
        latents = sample(
            backbone,
            backbone.denoiser,
            backbone.encode_prompts(texts),
            seeds,
            steps=settings.steps,
            guidance_scale=settings.guidance_scale,
            batch_size=settings.batch_size,
            scheduler=settings.scheduler,
        )
        return backbone.decode(latents, settings.batch_size)

    def one_a_call() -> Tensor:
        with quiet():
            pictures = [
                pipeline(
                    text,
                    num_inference_steps=settings.steps,
                    guidance_scale=settings.guidance_scale,
                    height=backbone.resolution,
                    width=backbone.resolution,
                    latents=initial_noise(backbone.latent_shape, [seed]),
                    output_type="pt",
                ).images
                for text, seed in zip(texts, seeds, strict=True)
            ]
        return torch.cat(pictures)

    difference = (batched() - one_a_call()).abs().max().item()  # warms both up as well
    seconds = take_turns({"batched": batched, "pipeline": one_a_call}, arguments.rounds)
    return {
        "pictures": len(texts),
        "solver": settings.scheduler,
        "solver_steps": settings.steps,
        "guidance_scale": settings.guidance_scale,
        "batch_size": settings.batch_size,
        "greatest_difference": difference,
        "library_pictures_per_second": _rate(len(texts), seconds["batched"]),
        "pipeline_pictures_per_second": _rate(len(texts), seconds["pipeline"]),
        "ratio": round(seconds["pipeline"] / seconds["batched"], 3),
    }


class NoValidation:
    """Stands in for the Validator: the steps alone are timed."""

    prompts: tuple[str, ...] = ()

    def run(self, learner: Learner) -> Generator[Any, None, tuple[Scores, Tensor]]:
        yield from ()
        return Scores(torch.ones(1), torch.ones(1)), torch.zeros(1, 3, 1, 1, dtype=torch.uint8)

    def figures(self, pictures: Tensor) -> dict[str, float]:
        """None."""
        return {}


def compare_steps(
    backbone: Backbone,
    subject: Subject,
    prompts: Sequence[Prompt],
    config: Config,
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Seconds of a gradient step: RPO's, plain DreamBooth's, and that with the base's forward."""
    data = placeholder_data(backbone, subject, prompts, config)
    block = arguments.steps
    total = block * (arguments.rounds + 2)
    training = dataclasses.replace(config.training, steps=total, batch_size=1)
    config = dataclasses.replace(
        config,
        training=training,
        validation=dataclasses.replace(config.validation, every=total, patience=0),
    )
    trainer = bare_trainer(backbone, data, config)
    plain = PlainDreamBooth(backbone, data, config)

    def rpo_steps() -> None:
        for _ in trainer.run(until=trainer.step + block):
            pass

    def plain_steps() -> None:
        for _ in range(block):
            plain.step()

    def plain_steps_and_reference() -> None:
        for _ in range(block):
            plain.reference_forward(*plain.step())

    contestants = {
        "rpo": rpo_steps,
        "dreambooth": plain_steps,
        "dreambooth_and_reference": plain_steps_and_reference,
    }
    for contestant in contestants.values():
        contestant()
    seconds = take_turns(contestants, arguments.rounds)
    each = {name: value / block for name, value in seconds.items()}
    return {
        "steps_a_round": block,
        "rpo_seconds": round(each["rpo"], 5),
        "dreambooth_seconds": round(each["dreambooth"], 5),
        "dreambooth_and_reference_seconds": round(each["dreambooth_and_reference"], 5),
        "ratio_to_dreambooth": round(each["dreambooth"] / each["rpo"], 3),
        "ratio": round(each["dreambooth_and_reference"] / each["rpo"], 3),
    }


def bare_trainer(backbone: Backbone, data: LabelledPairs, config: Config) -> Trainer:
    """RPO's trainer for steps alone: it validates nothing."""
    nothing: Any = None  # a step reads neither subject nor reward
    method = RPO(Task(backbone, config, nothing, (), nothing))
    learner = learner_class(config.training.weights)(backbone, config)
    return Trainer(learner, method, data, config, NoValidation())  # type: ignore[arg-type]


def placeholder_data(
    backbone: Backbone, subject: Subject, prompts: Sequence[Prompt], config: Config
) -> LabelledPairs:
    """Data of the right shapes: speed does not depend on what the latents show."""
    photos = backbone.encode_images(subject.tensor(backbone.resolution))
    texts = [prompt.conditioning for prompt in prompts]
    seeds = [derive_seed(config.seed, "speed data", index) for index in range(len(texts))]
    reference = Prompt.reference(subject.noun, config.identifier).conditioning
    return LabelledPairs(
        reference_latents=photos,
        generated_latents=initial_noise(backbone.latent_shape, seeds),
        reference_conditions=backbone.encode_prompts([reference]),
        generated_conditions=backbone.encode_prompts(texts),
        probabilities=torch.full((len(photos), len(texts)), 0.5),
    )


class PlainDreamBooth:
    """The ordinary training step (arXiv 2208.12242, Eq. 2), with cached latents and embeddings.

    It has the same fused AdamW and clipping as the library, so that only the code differs.
    """

    def __init__(self, backbone: Backbone, data: LabelledPairs, config: Config) -> None:
        self.base, self.unet = backbone.denoiser, backbone.trainable_copy()
        self.settings = config.training
        self.prediction_type = backbone.prediction_type
        with quiet():
            self.scheduler = DDPMScheduler.from_config(backbone.scheduler.config)
        self.latents = torch.cat([data.reference_latents[:1], data.generated_latents[:1]])
        conditions = Conditions.cat([data.reference_conditions, data.generated_conditions[:1]])
        self.embeddings = conditions.tokens
        self.optimizer = torch.optim.AdamW(
            self.unet.parameters(),
            lr=self.settings.learning_rate,
            weight_decay=self.settings.weight_decay,
            fused=True,
        )
        self.generator = torch.Generator().manual_seed(config.seed)

    def step(self) -> tuple[Tensor, Tensor]:
        """One gradient step on a photo and a class picture; returns their x_t and timesteps."""
        noise = torch.randn(self.latents.shape, generator=self.generator)
        count = self.scheduler.config.num_train_timesteps
        timesteps = torch.randint(count, (2,), generator=self.generator)
        noised = self.scheduler.add_noise(self.latents, noise, timesteps)
        predicted = self.unet(noised, timesteps, self.embeddings, return_dict=False)[0]
        target = noise
        if self.prediction_type == "v_prediction":
            target = self.scheduler.get_velocity(self.latents, noise, timesteps)
        loss = F.mse_loss(predicted[:1], target[:1]) + F.mse_loss(predicted[1:], target[1:])
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.unet.parameters(), self.settings.max_grad_norm)
        self.optimizer.step()
        return noised, timesteps

    @torch.no_grad()
    def reference_forward(self, noised: Tensor, timesteps: Tensor) -> None:
        """The frozen base on both pictures."""
        self.base(noised, timesteps, self.embeddings, return_dict=False)


def take_turns(contestants: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each, called in turn `rounds` times."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            start = time.perf_counter()
            contestant()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def run(arguments: argparse.Namespace) -> str:
    """All measurements; returns the figures as text."""
    if min(arguments.pictures, arguments.steps, arguments.rounds) < 1:
        raise UserError("--pictures, --steps and --rounds must be at least 1")
    world, config = arguments.world, _config(arguments)
    names = subject_table(world)
    name = "dog" if "dog" in names else min(names)
    subject = load_subject(world, name)
    prompts = load_prompt_set("emojiland").prompts(
        "training", subject.kind, subject.noun, config.identifier
    )
    results = {"experiment": "speed on the CPU", "subject": name, **provenance("cpu")}
    results["config"] = dataclasses.asdict(config)
    results["models"] = model_hashes(world)
    # The job comes first: a process's peak memory never falls again.
    own = ["prompts=emojiland", "device=cpu", *arguments.set]
    results["job"] = measure_job(subject, world, "emojiland", own)
    backbone = Backbone.load(world / "pipeline", "cpu", config.resolution)
    results["sampling"] = compare_sampling(backbone, prompts, config, arguments)
    results["step"] = compare_steps(backbone, subject, prompts, config, arguments)
    write_json(arguments.out, results)
    return render(results)


def render(results: dict[str, Any]) -> str:
    """The figures as text."""
    job, sampling, step = results["job"], results["sampling"], results["step"]
    lines = [f"job on {results['subject']}: {job['seconds']} s, {job['peak_memory_mb']} MB at most"]
    for phase, cost in job["phases"].items():
        lines.append(f"  {phase:<11} {cost['seconds']:8.2f} s   {cost['peak_memory_mb']} MB")
    lines += [
        f"  training pictures   {job['training_pictures_per_second']:8.2f} /s",
        f"  validation pictures {job['validation_pictures_per_second']:8.2f} /s",
        f"  gradient steps      {job['gradient_steps_per_second']:8.2f} /s",
        f"sampling {sampling['pictures']} pictures, {sampling['solver']} in "
        f"{sampling['solver_steps']} steps: {sampling['library_pictures_per_second']} /s, "
        f"diffusers' pipeline one a call {sampling['pipeline_pictures_per_second']} /s: "
        f"{sampling['ratio']} times (greatest difference {sampling['greatest_difference']:.1e})",
        f"gradient step: {1e3 * step['rpo_seconds']:.1f} ms; plain DreamBooth "
        f"{1e3 * step['dreambooth_seconds']:.1f} ms ({step['ratio_to_dreambooth']} times), with "
        f"the reference forward {1e3 * step['dreambooth_and_reference_seconds']:.1f} ms "
        f"({step['ratio']} times)",
        machine_line(results),
    ]
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> int:
    """The command; 2 for wrong arguments, else 0."""
    parser = make_parser("speed", __doc__, "speed-cpu.json")
    parser.add_argument("--pictures", type=int, default=16, help="pictures a sampling round (16)")
    parser.add_argument("--steps", type=int, default=20, help="gradient steps a round (20)")
    parser.add_argument("--rounds", type=int, default=11, help="rounds of each contestant (11)")
    parser.add_argument("--world", type=Path, default=WORLD, help="another folder of models")
    return finish(run, parser.parse_args(words))


if __name__ == "__main__":
    sys.exit(main())
