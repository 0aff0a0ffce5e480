"""The `rpo` command."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import NoReturn

from rpo.cli.signals import interrupt

__all__ = ["main", "run"]


def main() -> NoReturn:
    """The entry point; what it imports first is light, so that Ctrl-C is heard early."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    from rpo.cli import commands

    commands.main()


def run(arguments: Sequence[str] | None = None) -> int:
    """`rpo.cli.commands.run`."""
    from rpo.cli import commands

    return commands.run(arguments)
