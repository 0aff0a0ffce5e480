"""One training loop for every model of Emojiland: seeded batches, EMA, exact resume."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

LossFunction = Callable[[np.random.Generator, torch.Generator], tuple[Tensor, dict[str, float]]]


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def learning_rate(step: int, steps: int, peak: float, warmup: int = 200) -> float:
    """Warm-up, plateau, then a cosine over the last third: what is learnt settles there."""
    fall = max(0.0, (step - steps * 2 / 3) / (steps / 3))
    return (
        peak * min(1.0, (step + 1) / warmup) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * fall)))
    )


def fit(
    name: str,
    module: nn.Module,
    loss_function: LossFunction,
    work: Path,
    *,
    steps: int,
    peak: float,
    seed: int,
    weight_decay: float = 1e-2,
    ema_decay: float = 0.999,
    save_seconds: float = 240,
) -> nn.Module:
    """Trains `module` in place, ends with its averaged weights in it, and returns it.

    Step s draws its batch and noise from generators seeded by (seed, s), so a run resumed from
    `work/name.safetensors` continues exactly as if it had not been interrupted.
    """
    weights = {k: v for k, v in module.named_parameters() if v.requires_grad}
    optimizer = torch.optim.AdamW(weights.values(), lr=peak, weight_decay=weight_decay, fused=True)
    average = {k: v.detach().clone() for k, v in weights.items()}
    file, log = work / f"{name}.safetensors", work / f"{name}.jsonl"
    start = 0
    if file.exists():
        saved = load_file(file)
        start = int(saved["step"])
        for key, weight in weights.items():
            weight.data.copy_(saved[f"weight.{key}"])
            average[key].copy_(saved[f"average.{key}"])
            if f"first.{key}" in saved:  # a weight that no loss reaches has no moments
                optimizer.state[weight] = {
                    "step": torch.tensor(float(start)),
                    "exp_avg": saved[f"first.{key}"].to(weight.device),
                    "exp_avg_sq": saved[f"second.{key}"].to(weight.device),
                }
        for key, buffer in module.named_buffers():
            if f"buffer.{key}" in saved:
                buffer.copy_(saved[f"buffer.{key}"])

    def save(step: int) -> None:
        tensors = {"step": torch.tensor(step)}
        for key, weight in weights.items():
            tensors[f"weight.{key}"] = weight.detach().cpu().contiguous()
            tensors[f"average.{key}"] = average[key].cpu().contiguous()
            if moments := optimizer.state.get(weight):
                tensors[f"first.{key}"] = moments["exp_avg"].cpu().contiguous()
                tensors[f"second.{key}"] = moments["exp_avg_sq"].cpu().contiguous()
        for key, buffer in module.named_buffers():
            tensors[f"buffer.{key}"] = buffer.detach().cpu().contiguous().clone()
        fresh = file.with_suffix(".new")
        save_file(tensors, fresh)
        fresh.replace(file)

    module.train()
    began = saved_at = time.monotonic()
    sums: dict[str, float] = {}
    for step in range(start, steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak)
        rng = np.random.default_rng((seed, step))
        noise = torch.Generator().manual_seed(int(rng.integers(2**62)))
        loss, figures = loss_function(rng, noise)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimizer.step()
        decay = min(ema_decay, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.values()), list(weights.values()), 1 - decay)
        for key, value in figures.items():
            sums[key] = sums.get(key, 0.0) + value / 100
        if (step + 1) % 100 == 0:
            speed = (step + 1 - start) / (time.monotonic() - began)
            row = {"step": step + 1, **{k: round(v, 5) for k, v in sums.items()}}
            row |= {
                "steps_per_second": round(speed, 3),
                "minutes_left": round((steps - step) / speed / 60, 1),
            }
            with log.open("a") as out:
                out.write(json.dumps(row) + "\n")
            print(name, row, flush=True)
            sums = {}
        if time.monotonic() - saved_at > save_seconds:
            save(step + 1)
            saved_at = time.monotonic()
    if steps > start:
        save(steps)
    with torch.no_grad():
        for key, weight in weights.items():
            weight.copy_(average[key])
    return module.eval()
