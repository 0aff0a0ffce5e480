"""Networks that are on the device only while they compute."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def awake(modules: Iterable[nn.Module], device: torch.device, home: torch.device) -> Iterator[None]:
    """They are on `device` meanwhile, and go `home` afterwards; nothing moves if these are one."""
    try:
        for module in modules:
            module.to(device)
        yield
    finally:
        for module in modules:
            module.to(home)
