"""What the package knows of itself; here, so that no module needs the whole package for it."""

from __future__ import annotations

from pathlib import Path

__version__ = "0.1.0"
ASSETS = Path(__file__).parent / "assets"  # the files that ship with it
