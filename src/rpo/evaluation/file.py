"""evaluation.json, as `rpo evaluate` writes it: its one shape, and reading it back.

It may be anybody's. What is not named here may be anything, and is not read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rpo.reading import Shape, every, number, read_json, whole

FILE = "evaluation.json"

JUDGES: Shape = every(
    {
        "name": str,
        "sha256": every(str),
        "preprocessing": {
            "resample": lambda value: "" if value in range(6) else "one of PIL's filters, 0 to 5",
            "size": every(whole),
            "crop_size": every(whole),
        },
    }
)
_ESTIMATES: Shape = every(
    {"mean": number, "low": (number, None), "high": (number, None), "n": whole}
)
_SYSTEM: Shape = {
    **dict.fromkeys(("name", "class", "folder", "model", "judged", "drawn", "seeds"), str),
    **dict.fromkeys(("run", "method", "weights"), str),
    **dict.fromkeys(("class_pictures", "images_per_prompt"), whole),
    "step": (whole, None),
    "drawing": {
        "scheduler": str,
        **dict.fromkeys(("steps", "resolution"), whole),
        "guidance_scale": number,
    },
    "adapter": ({"name": str, "sha256": every(str), "scale": number, "photos": str}, None),
    "overall": _ESTIMATES,
    "photos": every(number),
    "subjects": every(every(number)),
    "pictures": [{"prompt": whole}],
    "runs": [str],
    "missing": [str],
}
SHAPE: Shape = {
    "systems": [_SYSTEM],
    "together": [_SYSTEM],
    "differences": [{"first": str, "second": str, "metrics": _ESTIMATES}],
    "judges": JUDGES,
    "gallery": [{}],
    "protocol": {"photos": str, "lambda": number, "interval": str},
}


def read_evaluation(folder: Path) -> dict[str, Any]:
    """The content of a folder's evaluation.json. Raises UserError for a damaged one, or a link."""
    return read_json(folder / FILE, SHAPE, "measure again with `rpo evaluate`")
