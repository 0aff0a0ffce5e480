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

    RPO whose preference loss has no weight, and DreamBooth whose prior has none, are the similarity
    loss alone: nothing is drawn for it.
    """
    name = config.method
    unweighted = {
        "rpo": config.training.preference_weight == 0,
        "dreambooth": config.dreambooth.prior_weight == 0,
    }
    if unweighted.get(name):
        name = "similarity"
    module, _, attribute = METHODS[name].place.partition(":")
    return getattr(import_module(module), attribute)
