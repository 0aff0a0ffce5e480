"""A pool of scenes on disk: drawn once, used by every training."""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emojiland.scenes import Look, scene


@dataclass(frozen=True)
class Pool:
    images: np.ndarray  # (N, 64, 64, 3) uint8
    captions: list[str]
    nouns: list[str]
    looks: list[Look]
    instances: np.ndarray  # (N,) int


def _draw(args: tuple[Path, int, int, int]) -> tuple[np.ndarray, list]:
    folder, seed, start, stop = args
    scenes = [scene(folder, k, seed) for k in range(start, stop)]
    rows = [[s.caption, s.noun, vars(s.look), s.instance] for s in scenes]
    return np.stack([s.image for s in scenes]), rows


def load_pool(artwork: Path, work: Path, count: int, seed: int, workers: int = 2) -> Pool:
    """The first `count` scenes of stream `seed`, drawn now if they are not there yet."""
    images_file, rows_file = (
        work / f"scenes-{seed}-{count}.npy",
        work / f"scenes-{seed}-{count}.json",
    )
    if not rows_file.exists():
        work.mkdir(parents=True, exist_ok=True)
        images = np.lib.format.open_memmap(images_file, "w+", np.uint8, (count, 64, 64, 3))
        rows: list = []
        chunk = 1000
        jobs = [(artwork, seed, k, min(k + chunk, count)) for k in range(0, count, chunk)]
        with ProcessPoolExecutor(workers) as pool:
            for (_, _, start, stop), (block, more) in zip(jobs, pool.map(_draw, jobs), strict=True):
                images[start:stop] = block
                rows += more
                print(f"scenes {stop}/{count}", flush=True)
        images.flush()
        rows_file.write_text(json.dumps(rows))  # last: its presence says the pool is whole
    rows = json.loads(rows_file.read_text())
    return Pool(
        images=np.load(images_file),  # 12 KB a scene: memory is faster than random reads
        captions=[r[0] for r in rows],
        nouns=[r[1] for r in rows],
        looks=[Look(**r[2]) for r in rows],
        instances=np.array([r[3] for r in rows]),
    )
