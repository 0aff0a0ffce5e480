"""`python -m rpo` is the `rpo` command."""

from __future__ import annotations

from rpo.cli import main

if __name__ == "__main__":
    main()
