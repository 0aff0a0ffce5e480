"""What is asked of a learner: one file a method, its line in `rpo.config.methods.METHODS`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from rpo.config import Config
from rpo.config.methods import METHODS

if TYPE_CHECKING:
    from rpo.methods.method import Method


def method_class(config: Config) -> type[Method]:
    """The class of `config.method`.

    RPO whose preference loss has no weight is the similarity loss alone: nothing is drawn for it.
    """
    name = config.method
    if name == "rpo" and config.training.preference_weight == 0:
        name = "similarity"
    module, _, attribute = METHODS[name].place.partition(":")
    return getattr(import_module(module), attribute)
