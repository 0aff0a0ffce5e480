"""The `rpo` command."""

from rpo.cli.commands import main, run

__all__ = ["main", "run"]
