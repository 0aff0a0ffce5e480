"""The one exception that is the user's to fix, and words that help with it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can put right: a photo, a flag, a model path.

    The message is one line that names the file or the flag and the remedy. The command
    line prints it alone, without a traceback, and exits with code 2.
    """


def near_names(name: str, known: Iterable[str]) -> str:
    """What the user may have meant: a section's settings, a near spelling, another section's."""
    known = list(known)
    leaf = name.rpartition(".")[2]
    near = [key for key in known if key.startswith(f"{name}.")]
    near += difflib.get_close_matches(name, known, n=2)
    near += [key for key in known if key.rpartition(".")[2] == leaf]
    if near:
        return f"did you mean {' or '.join(list(dict.fromkeys(near))[:4])}?"
    return f"choose from {', '.join(known)}"
