"""`rpo evaluate` as a person calls it, and what it leaves."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rpo.cli import commands as cli


def evaluated(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[str, Path, Any]:
    """What a command prints, the folder that it made, and its evaluation.json."""
    code = cli.run(["evaluate", *map(str, words)])
    out, err = capsys.readouterr()
    assert code == 0, err
    found = re.search(r"All figures: (.*)", out)
    assert found
    file = Path(found[1])
    return out, file.parent, json.loads(file.read_text(encoding="utf-8"))


def pixels(path: Path) -> bytes:
    with Image.open(path) as image:
        return image.convert("RGB").tobytes()
