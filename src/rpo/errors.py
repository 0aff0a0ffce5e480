"""The one exception that is the user's to fix."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can put right: a photo, a flag, a model path.

    The message is one line that names the file or the flag and the remedy. The command
    line prints it alone, without a traceback, and exits with code 2.
    """
