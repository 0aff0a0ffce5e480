"""Other commands of rpo, run for the page in processes of their own.

They load PyTorch, which is not for the page's server.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from rpo.errors import UserError, printable


def run_module(
    words: Sequence[str], patience: float | None = None, answers: Sequence[int] = (0,)
) -> bytes:
    """What `python -m WORDS` prints. Raises UserError with its last line if it fails.

    patience: seconds after which it is ended; as long as it takes, without. answers: the exit
    codes with which what it printed is an answer.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=patience,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"no answer ({type(error).__name__})") from None
    if done.returncode not in answers or (done.returncode and not done.stdout):
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it failed"]
        raise UserError(printable(said[-1].removeprefix("error: ")))
    return done.stdout


def ask_module(words: Sequence[str], patience: float | None = None) -> dict[str, Any]:
    """The JSON object that `python -m WORDS` prints. Raises UserError as `run_module` does.

    `rpo plan` prints one, and ends with 1, also where nothing fits.
    """
    try:
        record = json.loads(run_module(words, patience, (0, 1)))
    except ValueError:
        raise UserError("no answer that can be read") from None
    if not isinstance(record, dict):
        raise UserError("no answer that can be read")
    return record
