"""The one exception that is the user's to fix, and how a foreign name is shown."""

from __future__ import annotations

import os
import unicodedata


class UserError(Exception):
    """Something the user can put right: a photo, a flag, a model path.

    The message is one line that names the file or the flag and the remedy. The command
    line prints it alone, without a traceback, and exits with code 2.
    """


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
