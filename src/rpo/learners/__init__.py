"""What learns: one file a learner, and its line in `LEARNERS`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rpo.learners.learner import Learner

# The names of `training.weights`.
LEARNERS: dict[str, str] = {
    "full": "rpo.learners.full:Full",
    "lora": "rpo.learners.lora:Lora",
    "dora": "rpo.learners.lora:Dora",
    "token": "rpo.learners.token:Token",
    "cross-attention": "rpo.learners.cross_attention:CrossAttention",
}


def learner_class(name: str) -> type[Learner]:
    """The class of a learner by its name in `LEARNERS`."""
    module, _, attribute = LEARNERS[name].partition(":")
    return getattr(import_module(module), attribute)
