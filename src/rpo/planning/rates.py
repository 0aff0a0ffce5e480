"""How fast a card computes: makers' dense peaks, times the share that training reaches of them."""

from __future__ import annotations

import difflib
import re
import time
from dataclasses import dataclass

from rpo.errors import UserError

# The share of the peak that diffusion models reach in PyTorch without compilation: an assumption,
# in keeping with published figures (Stable Diffusion 1.5 at batch 16 on an A100: 58 picture-steps a
# second with guidance, 30 % of the bfloat16 peak).
EFFICIENCY = {"fp32": 0.6, "half": 0.3}


@dataclass(frozen=True)
class Card:
    """Memory in GB; dense peaks in TFLOP/s: float32 without TF32; bf16 summed in float32."""

    name: str
    memory: float
    fp32: float
    half: float


CARDS = (
    Card("RTX 4060", 8, 15.1, 30.2),
    Card("RTX 3060", 12, 12.7, 25.5),
    Card("RTX 4070", 12, 29.1, 58.3),
    Card("T4", 16, 8.1, 65),
    Card("V100", 16, 15.7, 125),
    Card("RTX 4080", 16, 48.7, 97.5),
    Card("RTX 3090", 24, 35.6, 71.2),
    Card("RTX 4090", 24, 82.6, 165.2),
    Card("A10", 24, 31.2, 125),
    Card("L4", 24, 30.3, 121),
    Card("RTX 5090", 32, 104.8, 209.5),
    Card("A100 40GB", 40, 19.5, 312),
    Card("L40S", 48, 91.6, 362),
    Card("A100", 80, 19.5, 312),
    Card("H100", 80, 66.9, 989),
    Card("H200", 141, 66.9, 989),
)


@dataclass(frozen=True)
class Rate:
    """What is sustained, in FLOP/s, in float32 and in half precision, and where that is from."""

    fp32: float
    half: float
    source: str

    def seconds(self, flops: float, half: bool) -> float:
        return flops / (self.half if half else self.fp32)


def find_card(name: str) -> Card:
    """The card that `name` means: "4090", "rtx4090" and "NVIDIA GeForce RTX 4090" are one.

    Raises UserError, with near matches, for one that is not in the table.
    """
    plain, said = "".join(_words(name)), set(_words(name))
    found = [
        card
        for card in CARDS
        if said.issuperset(_words(card.name))
        or plain in (*_words(card.name), "".join(_words(card.name)))
    ]
    if not found:
        names = [card.name for card in CARDS]
        near = difflib.get_close_matches(name, names, n=3) or names
        raise UserError(
            f"--gpu {name}: not in the table; give --gpu-memory and --tflops, or use "
            f"one of {', '.join(near)}"
        )
    exact = [card for card in found if plain == "".join(_words(card.name))]
    return exact[0] if exact else max(found, key=lambda card: len(card.name))


def rate_of(card: Card) -> Rate:
    """The card's peaks times `EFFICIENCY`."""
    return Rate(
        card.fp32 * EFFICIENCY["fp32"] * 1e12,
        card.half * EFFICIENCY["half"] * 1e12,
        f"as on {'an' if card.name[0] in 'RALH' else 'a'} {card.name}",
    )


def card_of_memory(gigabytes: float) -> Card:
    """The table's first card with at least so much memory, or its largest."""
    return next((card for card in CARDS if card.memory >= gigabytes), CARDS[-1])


def measured_rate(seconds: float = 0.5) -> Rate:
    """This processor's, by multiplying matrices of 512 x 512 in float32 for so long."""
    import torch

    square, done = torch.rand(512, 512), 0
    start = time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        square = (square @ square).clamp(0, 1)
        done += 1
    rate = done * 2 * 512**3 / max(passed, 1e-9)
    return Rate(rate, rate, "as measured on this processor")


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", name.lower())
