"""The options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rpo.config import METHODS, SETTINGS
from rpo.models.resolve import known_presets


def _folder(text: str) -> Path:
    if not text:  # Path would make it the current folder
        raise typer.BadParameter("it is empty; name the folder that holds the photos")
    return Path(text)


Out = Annotated[
    Path | None,
    typer.Option(help="Run folder to make.", show_default="runs/NAME-N in this directory"),
]
_PRESETS = "; ".join(f"{name} ({text})" for name, text in known_presets().help.items())
_PRESET_HELP = f"Named settings: {_PRESETS}."
Presets = Annotated[
    list[str] | None,
    typer.Option(
        "--preset",
        help=f"{_PRESET_HELP} Given again, the later one wins.",
        show_default="by model",
    ),
]
Method = Annotated[
    str | None,
    typer.Option(
        help=f"How it is taught: {', '.join(METHODS)}; `rpo methods` tells of them.",
        show_default=SETTINGS["method"].default,
    ),
]
Seed = Annotated[int | None, typer.Option(help=SETTINGS["seed"].help)]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one setting, such as training.steps=200; `rpo settings` lists them.",
    ),
]
QuietFlag = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print the run folder's path at the end, no more.")
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON event a line.")]
DeviceFlag = Annotated[str | None, typer.Option(help=SETTINGS["device"].help)]
CropFlag = Annotated[
    str | None,
    typer.Option(
        "--crop",
        metavar="centre|subject|none",
        help=SETTINGS["photos.crop"].help,
        show_default=SETTINGS["photos.crop"].default,
    ),
]
PhotosArgument = Annotated[
    Path,
    typer.Argument(
        metavar="PHOTOS", parser=_folder, help="Folder, or zip, of 4 to 6 photos of one subject."
    ),
]
