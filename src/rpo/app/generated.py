"""The pictures that a run has drawn, read back from its folder: what each says of itself."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from rpo.app.drawing import BASE_FOLDER, FOLDER, Wish
from rpo.app.home import Home
from rpo.report.page import UNREADABLE

_KEY = ("prompt", "seed", "steps", "guidance_scale")


@dataclass(frozen=True)
class Drawn:
    """A picture. file, base: their ways from the run's images/; base is "" where there is none."""

    file: str
    texts: Mapping[str, str]
    base: str = ""


def drawn_by(home: Home, run: str, most: int = 24) -> list[Drawn]:
    """What a run has drawn, the newest first. Raises UserError for a name that is no run."""
    path = home.run(run)
    plain = {_key(texts): file for file, texts in _read(path, BASE_FOLDER, most)}
    found = _read(path, FOLDER, most)
    return [Drawn(file, texts, plain.get(_key(texts), "")) for file, texts in found]


def _key(texts: Mapping[str, str]) -> tuple[str | None, ...]:
    return tuple(texts.get(name) for name in _KEY)


def _read(run: Path, folder: str, most: int) -> list[tuple[str, dict[str, str]]]:
    place = run / folder
    if place.is_symlink() or place.parent.is_symlink() or not place.is_dir():
        return []
    files = sorted(place.glob("[0-9][0-9][0-9][0-9]-*.png"), reverse=True)[:most]
    found = []
    for file in files:
        try:
            if file.is_symlink():
                continue
            with Image.open(file, formats=["PNG"]) as image:  # its pixels are not read
                texts = {str(k): str(v) for k, v in image.info.items() if isinstance(v, str)}
        except UNREADABLE:
            continue
        found.append((file.relative_to(run / "images").as_posix(), texts))
    return found


def command(run: Path, wish: Wish) -> str:
    """The command line that draws the same, from where the server was started."""
    here = Path.cwd()
    place = run.relative_to(here) if run.is_relative_to(here) else run
    words = [
        "rpo",
        "generate",
        str(place),
        wish.prompt,
        "-n",
        str(wish.n),
        "--seed",
        str(wish.seed),
    ]
    if wish.steps is not None:
        words += ["--steps", str(wish.steps)]
    if wish.guidance is not None:
        words += ["--guidance", f"{wish.guidance:g}"]
    return shlex.join(words)
