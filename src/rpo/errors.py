"""The one exception that is the user's to fix, and words that help with it."""

from __future__ import annotations

import difflib
import os
import unicodedata
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


def brief(value: object, limit: int = 200) -> str:
    """The value's repr, cut to what a line can hold."""
    try:
        text = repr(value)
    except ValueError:  # of an int with more digits than Python writes
        return "a number of thousands of digits"
    return text if len(text) <= limit else f"{text[:limit]}..."


def printable(name: str | os.PathLike[str]) -> str:
    r"""A name as one line that any terminal can show: ESC becomes \x1b, a newline \n.

    Escaped are control characters, line and paragraph separators, what turns the direction of
    writing, and the bytes of a name that is not UTF-8. Letters of every script stay.
    """
    return "".join(
        letter.encode("unicode_escape").decode()
        if unicodedata.category(letter) in _UNPRINTABLE and letter not in _JOINERS
        else letter
        for letter in os.fspath(name)
    )


_UNPRINTABLE = ("Cc", "Cf", "Cs", "Zl", "Zp")
_JOINERS = "\u200c\u200d"  # they shape emoji, and words in Persian and Hindi
