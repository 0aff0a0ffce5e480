"""quiet.py: silent inside, and everything as before afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import diffusers
import pytest
import transformers

from rpo.models import encoders
from rpo.quiet import quiet

TESTS = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
STEP = """
import rpo, torch
from tiny import tiny_backbone

backbone = tiny_backbone("flux-dev", precision="bf16")
learns, told = backbone.trainable_copy(), backbone.encode_prompts(["a dog"])
latents = torch.zeros(1, *backbone.latent_shape)
error = backbone.denoising_error(learns, latents, latents, torch.full((1,), 0.5), told)
error.sum().backward()
"""
LOGS = [library.utils.logging for library in (diffusers, transformers)]


def chatter() -> None:
    with quiet():
        for log in LOGS:
            log.get_logger(log.__name__).warning("advice")
            assert not log.is_progress_bar_enabled()
        warnings.warn("more advice", stacklevel=1)
        raise KeyError


def test_both_libraries_are_mute_inside_and_as_before_afterwards(
    capfd: pytest.CaptureFixture[str],
) -> None:
    for log, verbosity in zip(LOGS, (log.INFO for log in LOGS), strict=True):
        log.set_verbosity(verbosity)
    LOGS[1].disable_progress_bar()
    try:
        with pytest.raises(KeyError):
            chatter()
        assert "".join(capfd.readouterr()) == ""
        assert [log.get_verbosity() for log in LOGS] == [log.INFO for log in LOGS]
        assert [log.is_progress_bar_enabled() for log in LOGS] == [True, False]
    finally:
        LOGS[1].enable_progress_bar()
        for log in LOGS:
            log.set_verbosity_warning()


def test_the_last_thread_out_puts_everything_back() -> None:
    muted, left = threading.Event(), threading.Event()

    def stay() -> None:
        with quiet():
            muted.set()
            left.wait(10)

    other = threading.Thread(target=stay)
    with quiet():
        other.start()
        assert muted.wait(10)
    still = LOGS[0].get_verbosity()  # the other thread is inside
    left.set()
    other.join()
    assert still == LOGS[0].ERROR
    assert LOGS[0].get_verbosity() == LOGS[0].WARNING
    assert LOGS[0].is_progress_bar_enabled()


def test_diffusers_is_not_imported_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "diffusers")
    with quiet():
        assert transformers.utils.logging.get_verbosity() == transformers.utils.logging.ERROR
    assert "diffusers" not in sys.modules


def test_the_encoders_use_it() -> None:
    assert encoders.quiet is quiet


def errors_of(code: str) -> str:
    """What a fresh process that runs the code writes to stderr."""
    paths = os.pathsep.join([*TESTS, os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": paths},
    )
    assert run.stdout == ""
    return run.stderr


@pytest.mark.parametrize(
    "modules", ["rpo.models.backbone, rpo.models.encoders", "emojiland.diffusion"]
)
def test_importing_says_nothing(modules: str) -> None:
    assert errors_of(f"import {modules}") == ""


def test_a_step_in_mixed_precision_says_nothing() -> None:
    assert errors_of(STEP) == ""
