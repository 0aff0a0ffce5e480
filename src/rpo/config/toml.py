"""TOML files, read in one place."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rpo.errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_toml(file: Path) -> dict[str, Any]:
    """What a file says. Raises UserError, naming it, for one that is absent or no TOML."""
    try:
        text = file.read_text(encoding="utf-8-sig")  # Windows editors put a byte order mark first
    except FileNotFoundError:
        raise UserError(f"{file}: no such file; name an existing TOML file") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); name a TOML file") from None
    return parse_toml(text, str(file))


def parse_toml(text: str, source: str) -> dict[str, Any]:
    """What a text says; `source` heads the message of the UserError that invalid text raises."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{source}: not valid TOML: {error}") from None
    except (ValueError, RecursionError):  # a number of thousands of digits, or brackets in brackets
        raise UserError(f"{source}: a number or a nesting in it is far too long") from None
