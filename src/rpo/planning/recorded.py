"""Counts of the built-in architectures, made once and shipped, so that planning takes no time.

    python -m rpo.planning.recorded

makes them anew: after a change of what is counted, or for another version of diffusers. It takes
minutes. Each is filed under a name that says all it depends on: one that is not there, or whose
network has changed, is counted when it is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Any

from rpo.about import ASSETS
from rpo.config import METHODS, load_config
from rpo.planning.architectures import BUILT_IN, load_architecture
from rpo.planning.counting import Counter, TrainedWeights

FILE = ASSETS / "architectures" / "counts.jsonl"


@cache
def load() -> dict[str, Any]:
    """The counts by their names, as `rpo.planning.counting.Counter` takes them."""
    return dict(map(json.loads, FILE.read_text(encoding="utf-8").splitlines()))


def learners() -> Iterator[TrainedWeights]:
    """What `rpo.planning.plan` chooses among from the defaults, and DoRA."""
    yield TrainedWeights()
    for rank in (16, 8, 4):
        yield TrainedWeights("lora", rank)
    yield TrainedWeights("dora")


def count(counter: Counter) -> dict[str, Any]:
    """All that plans of one architecture's own settings ask for, whatever the card."""
    shape = counter.shape
    for part in (shape.denoiser, *shape.text_encoders.values(), shape.vae, shape.reward):
        counter.parameters(part)
        counter.bytes(part, 1)
    for quantize, element in product(("int8", "nf4"), (4, 2)):
        counter.saved(quantize, element)
    for precision in ("fp32", "bf16"):
        for name in shape.text_encoders:
            counter.encode_text(name, precision)
        for forward in (counter.decode, counter.encode, counter.reward, counter.reward_learning):
            forward(precision)
        for recomputed, tiny in product((False, True), repeat=2):
            counter.decode_learning(precision, recomputed, tiny)
        rows = 2 if shape.family.classifier_free else 1
        counter.draw(precision, rows)
        for learner in learners():
            counter.learning(learner)
            counter.draw(precision, rows, learner)
            for method, checkpointing in product(("rpo", "online"), (False, True)):
                passes = METHODS[method].passes(load_config("paper", method=method))
                counter.step(precision, passes, learner, checkpointing)
    return counter.counted


def main() -> None:
    """Writes `FILE`."""
    counted: dict[str, Any] = {}
    for model in BUILT_IN:
        architecture = load_architecture(model)
        counted |= count(Counter(architecture, architecture.latent_shape(0)))
        print(f"{model}: {len(counted)} counts by now", flush=True)
    lines = [json.dumps(item, separators=(",", ":")) for item in sorted(counted.items())]
    FILE.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
