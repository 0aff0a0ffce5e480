"""How fast is it on a GPU? Whole jobs on real architectures, and how well the card is used.

    python -m benchmarks.gpu --out benchmarks/results/speed-gpu.json
    python -m benchmarks.gpu --models tiny --device cpu      # the same program, small, anywhere

Weights are random: speed and memory do not depend on them. For each model:

1. The job as `rpo train` does it, from the model's files to the report, with the paper's counts:
   8 prompts x 4 pictures in 50 steps, 400 gradient steps, and 10 validations of 32 pictures in 20
   steps beside that of step 0. Seconds and peak memory of each phase.
2. The gradient step alone: floating-point operations a second as a share of what the card's own
   matrix product reaches in this run, at a batch of --batch pairs.
3. With --naive: the same job in the order of work of a plain script: one picture a call of
   diffusers' pipeline, 50 steps, everything in float32, the reward on the CPU a picture at a time,
   and as many gradient steps and pictures. A few of each are timed, and the job's time is
   their sum (an extrapolation, so named in the result).

What is compiled is compiled before the clock starts, by a job of a few steps.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.command import finish, make_parser
from benchmarks.provenance import machine_line, provenance, write_json
from benchmarks.random_models import write_models
from benchmarks.speed import (
    PlainDreamBooth,
    bare_trainer,
    measure_job,
    placeholder_data,
)
from rpo.config import Config, changed, load_config
from rpo.data.prompts import Prompt, load_prompt_set
from rpo.data.subject import Subject
from rpo.errors import UserError
from rpo.models.backbone import FLOATS, Backbone, resolve_device
from rpo.models.encoders import load_encoder
from rpo.quiet import quiet
from rpo.rewards.alignment import AlignmentReward

FRUGAL = ("training.weights=lora", "training.checkpointing=true", "offload=true")


@dataclass(frozen=True)
class Case:
    """One line of the table: a model, the side of its pictures, and settings beside the paper's."""

    architecture: str
    resolution: int
    settings: tuple[str, ...] = ()
    warm_up: bool = False  # where something is compiled


CASES = {
    "sd15": Case("sd15", 512, ("compile=true",), warm_up=True),
    "sdxl-lora": Case("sdxl", 1024, FRUGAL),
    "sd35-medium-lora": Case("sd35-medium", 1024, FRUGAL),
    "flux-lora": Case("flux-dev", 512, FRUGAL),
    "tiny": Case(
        "tiny",
        16,
        ("training.steps=4", "validation.every=2", "sampling.steps=2", "validation.steps=2"),
    ),
}


def photos(folder: Path, count: int = 5) -> Subject:
    """A subject of gradients: what the photos show does not matter here."""
    folder.mkdir(parents=True)
    for index in range(count):
        ramp = Image.linear_gradient("L").resize((640, 640)).rotate(40 * index)
        Image.merge("RGB", (ramp, ramp.rotate(90), ramp.rotate(180))).save(folder / f"{index}.png")
    return Subject.from_folder(folder, "dog")


def measure(name: str, arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """All figures of one case."""
    case = CASES[name]
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        subject = photos(root / "photos")
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        start = time.perf_counter()
        write_models(case.architecture, root, device, dtype)
        print(f"{name}: models written in {time.perf_counter() - start:.0f} s", flush=True)
        settings = [
            f"precision={'bf16' if device.type == 'cuda' else 'fp32'}",
            f"resolution={case.resolution}",
            f"device={device}",
            f"reward.model={root / 'reward'}",
            "prompts=paper",
            "validation.images_per_prompt=4",
            *case.settings,
            *arguments.set,
        ]
        if case.warm_up:  # the compiler's cache serves the measured job
            few = ["training.steps=2", "validation.every=2", "sampling.steps=2"]
            measure_job(subject, root, "paper", [*settings, *few, "validation.steps=2"])
        result: dict[str, Any] = {
            "settings": settings,
            "job": measure_job(subject, root, "paper", settings),
        }
        config = load_config("paper", None, settings, model=str(root / "pipeline"), noun="dog")
        backbone = Backbone.load(
            root / "pipeline", str(device), case.resolution, precision=config.precision
        )
        result["step"] = measure_steps(backbone, subject, config, arguments)
        if arguments.naive:
            del backbone
            result["naive"] = measure_naive(root, subject, config, arguments)
            ratio = result["naive"]["job_seconds"] / result["job"]["seconds"]
            result["naive"]["ratio"] = round(ratio, 2)
    return result


def measure_steps(
    backbone: Backbone, subject: Subject, config: Config, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Seconds of a gradient step, and its share of the card's matrix product."""
    config = changed(config, {"training.batch_size": arguments.batch, "training.steps": 10**6})
    data = placeholder_data(backbone, subject, training_prompts(config)[: arguments.batch], config)
    trainer = bare_trainer(backbone, data, config)
    list(trainer.run(until=3))
    with FlopCounterMode(display=False) as counter:
        list(trainer.run(until=4))
    seconds = clock(lambda: list(trainer.run(until=trainer.step + arguments.steps)))
    each, flops = seconds / arguments.steps, counter.get_total_flops()
    dtype = FLOATS[config.precision]
    matmul, copy = matmul_rate(backbone.device, dtype), copy_rate(backbone.device)
    return {
        "batch_size": arguments.batch,
        "seconds": round(each, 5),
        "flop": flops,
        "tflops_per_second": round(flops / each / 1e12, 4),
        "matmul_tflops_per_second": round(matmul / 1e12, 4),
        "share_of_matmul": round(flops / each / matmul, 3),
        "copy_gb_per_second": round(copy / 1e9, 1),
    }


def measure_naive(
    root: Path, subject: Subject, config: Config, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Seconds of a picture, a judgement and a gradient step of a plain script, and of its job."""
    backbone = Backbone.load(root / "pipeline", config.device, config.resolution)
    reward = AlignmentReward(
        load_encoder(root / "reward"), subject.tensor(config.resolution).add(1).div(2)
    )
    pipeline: Any = backbone.pipeline(backbone.denoiser)
    pipeline.set_progress_bar_config(disable=True)
    prompts = training_prompts(config)
    steps = min(config.sampling.steps, 50)

    def picture() -> Tensor:
        with quiet():
            return pipeline(
                prompts[0].conditioning,
                num_inference_steps=steps,
                guidance_scale=config.sampling.guidance_scale,
                height=config.resolution,
                width=config.resolution,
                output_type="pt",
            ).images

    drawn = picture().float().cpu()
    count = arguments.pictures
    one_picture = clock(lambda: [picture() for _ in range(count)]) / count
    judged = clock(lambda: [reward.score(drawn, [prompts[0].plain]) for _ in range(count)]) / count
    plain = PlainDreamBooth(backbone, placeholder_data(backbone, subject, prompts, config), config)
    plain.reference_forward(*plain.step())
    block = arguments.steps

    def gradient_steps() -> None:
        for _ in range(block):
            plain.reference_forward(*plain.step())

    one_step = clock(gradient_steps) / block
    training = config.sampling.images_per_prompt * len(prompts)
    validations = config.training.steps // config.validation.every
    validation = validations * config.validation.images_per_prompt * len(prompts)
    pictures = training + validation
    seconds = pictures * (one_picture + judged) + config.training.steps * one_step
    return {
        "picture_seconds": round(one_picture, 4),
        "solver_steps": steps,
        "judgement_seconds": round(judged, 4),
        "step_seconds": round(one_step, 5),
        "pictures": pictures,
        "gradient_steps": config.training.steps,
        "job_seconds": round(seconds, 2),
        "extrapolated": True,
    }


def training_prompts(config: Config) -> list[Prompt]:
    """The paper's for a dog."""
    return load_prompt_set("paper").prompts("training", "live", "dog", config.identifier)


def clock(work: Callable[[], Any]) -> float:
    """Seconds of `work`, the device's included."""
    synchronise()
    start = time.perf_counter()
    work()
    synchronise()
    return time.perf_counter() - start


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large matrix product."""
    side, repeats = (8192, 20) if device.type == "cuda" else (1024, 5)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    torch.mm(a, b)
    return 2 * side**3 * repeats / clock(lambda: [torch.mm(a, b) for _ in range(repeats)])


def copy_rate(device: torch.device) -> float:
    """Bytes read and written a second by a large copy."""
    source = torch.empty(2**28 if device.type == "cuda" else 2**24, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * source.nbytes * 10 / clock(lambda: [target.copy_(source) for _ in range(10)])


def run(arguments: argparse.Namespace) -> str:
    """All chosen cases; returns the figures as text."""
    if min(arguments.batch, arguments.steps, arguments.pictures) < 1:
        raise UserError("--batch, --steps and --pictures must be at least 1")
    device = resolve_device(arguments.device)
    results: dict[str, Any] = {"experiment": "speed on a GPU", **provenance(str(device))}
    results["cases"] = {}
    for name in arguments.models:
        results["cases"][name] = measure(name, arguments, device)
        write_json(arguments.out, results)  # a later case may exhaust the memory
    return render(results)


def render(results: dict[str, Any]) -> str:
    """The figures as text."""
    lines = []
    for name, case in results["cases"].items():
        job, step = case["job"], case["step"]
        gpu = job["gpu_peak_memory_mb"]
        memory = f"{gpu / 1e3:.1f} GB of the GPU" if gpu else f"{job['peak_memory_mb']:.0f} MB"
        lines.append(f"{name}: job {job['seconds']:.1f} s, {memory} at most")
        for phase, cost in job["phases"].items():
            lines.append(f"  {phase:<11} {cost['seconds']:8.2f} s")
        lines.append(
            f"  gradient step of {step['batch_size']} pairs {1e3 * step['seconds']:.1f} ms, "
            f"{step['tflops_per_second']:.3g} TFLOP/s, {step['share_of_matmul']:.0%} of the "
            f"{step['matmul_tflops_per_second']:.3g} of a matrix product; copies at "
            f"{step['copy_gb_per_second']} GB/s"
        )
        if naive := case.get("naive"):
            lines.append(
                f"  naive order of work: {naive['job_seconds']} s ({naive['ratio']} times), "
                f"extrapolated from {naive['picture_seconds']:.2f} s a picture, "
                f"{naive['judgement_seconds']:.2f} s a judgement, "
                f"{naive['step_seconds']:.3f} s a step"
            )
    return "\n".join([*lines, machine_line(results)])


def main(words: Sequence[str] | None = None) -> int:
    """The command; 2 for wrong arguments, else 0."""
    parser = make_parser("gpu", __doc__, "speed-gpu.json")
    parser.add_argument(
        "--models",
        nargs="+",
        choices=list(CASES),
        default=[name for name in CASES if name != "tiny"],
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=4, help="pairs in a measured step (4)")
    parser.add_argument("--steps", type=int, default=10, help="gradient steps timed (10)")
    parser.add_argument("--pictures", type=int, default=2, help="naive pictures timed (2)")
    parser.add_argument("--naive", action="store_true", help="time the naive order of work too")
    return finish(run, parser.parse_args(words))


if __name__ == "__main__":
    sys.exit(main())
