"""All randomness from the run's one seed, by what it is used for."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, *stream: str | int) -> int:
    """A 63-bit seed for one use of randomness; unrelated for every (seed, stream)."""
    digest = hashlib.blake2b(repr((seed, *stream)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def make_generator(seed: int, *stream: str | int) -> torch.Generator:
    """A CPU generator of that stream: the same numbers whatever the device."""
    return torch.Generator().manual_seed(derive_seed(seed, *stream))
