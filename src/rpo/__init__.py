"""Reward Preference Optimization: make a text-to-image model draw your subject, from five photos.

    import rpo

    subject = rpo.Subject.from_folder("photos", noun="dog")
    run = rpo.train(subject, model="emojiland")
    run.generate("a [V] dog on the Moon")

Importing the package is cheap: PyTorch and its companions are loaded by the first name
that needs them.
"""

from __future__ import annotations

import logging
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rpo.errors import UserError

if TYPE_CHECKING:
    from rpo.api import evaluate, iterate, train
    from rpo.bench.report.write import write_report
    from rpo.config import Config
    from rpo.data.prompts import Prompt
    from rpo.data.subject import Subject
    from rpo.runs.result import Run, load_run

from rpo.about import __version__

# Where bitsandbytes is installed, it gives its advice for CPUs as soon as peft imports it.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
# In mixed precision FLUX normalises half-precision numbers by weights that learn in float32, as it
# should; PyTorch warns that its fused kernel cannot.
warnings.filterwarnings("ignore", "Mismatch dtype between input and weight", UserWarning)

__all__ = [
    "Config",
    "Prompt",
    "Run",
    "Subject",
    "UserError",
    "__version__",
    "evaluate",
    "export",
    "iterate",
    "load_run",
    "train",
    "write_report",
]

_HOMES = {
    "Config": "rpo.config",
    "Prompt": "rpo.data.prompts",
    "Run": "rpo.runs.result",
    "Subject": "rpo.data.subject",
    "evaluate": "rpo.evaluation.evaluate",
    "export": "rpo.exports.export",
    "iterate": "rpo.api",
    "load_run": "rpo.runs.result",
    "train": "rpo.api",
    "write_report": "rpo.bench.report.write",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rpo' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value  # the next access is an ordinary one
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
