"""quiet.py: silent inside, and everything as before afterwards."""

from __future__ import annotations

import subprocess
import sys
import threading
import warnings

import diffusers
import pytest
import transformers

from rpo.models import encoders
from rpo.quiet import quiet

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


def test_importing_the_engine_says_nothing() -> None:
    command = [sys.executable, "-c", "import rpo.models.backbone, rpo.models.encoders"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("", "")
