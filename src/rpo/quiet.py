"""One way to keep the libraries' own messages off the screen: the caller prints."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import transformers


@contextmanager
def quiet() -> Iterator[None]:
    """Mutes the advice, warnings and progress bars of transformers and diffusers.

    Their settings are put back afterwards. diffusers is muted where it is imported already:
    encoders do without it, and importing it takes seconds.
    """
    libraries = [transformers, *([sys.modules["diffusers"]] if "diffusers" in sys.modules else [])]
    logs = [library.utils.logging for library in libraries]
    before = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    try:
        for log in logs:
            log.set_verbosity_error()
            log.disable_progress_bar()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, (verbosity, bar) in zip(logs, before, strict=True):
            log.set_verbosity(verbosity)
            if bar:
                log.enable_progress_bar()
