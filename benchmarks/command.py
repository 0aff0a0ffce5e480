"""What the commands of this folder share: their common options, and how they end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from rpo.errors import UserError


def make_parser(module: str, description: str | None, out: str) -> argparse.ArgumentParser:
    """A parser with --out and --set; `description` is the module's docstring."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results") / out)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of rpo"
    )
    return parser


def finish(run: Callable[[argparse.Namespace], str], arguments: argparse.Namespace) -> int:
    """Prints what `run` returns; the exit status: 2 with one line for wrong arguments, else 0."""
    try:
        print(run(arguments))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
