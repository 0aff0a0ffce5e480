"""A corpus of photos and folders, drawn by code, with what must become of each.

`python -m tests.corpus` writes docs/photos.md, the table of them; tests/test_corpus.py makes every
one and holds `check_folder` and `rpo check` to it.
"""

from __future__ import annotations

from pathlib import Path

from .beside import archives, captions, masks
from .case import Case
from .colour import colours, depths
from .faults import contents, damage
from .folders import folders, names, others
from .pictures import formats, orientations, transparency

CASES: tuple[Case, ...] = tuple(
    case
    for make in (
        *(formats, orientations, colours, depths, transparency, damage),
        *(contents, names, others, captions, masks, folders, archives),
    )
    for case in make()
)


PAGE = Path(__file__).parents[2] / "docs" / "photos.md"


_VERDICTS = {
    "ok": "used",
    "warning": "used, with the remark",
    "rejected": "refused",
    "ignored": "not used, and named",
    "passed over": "passed over",
    "folder refused": "refused",
}


def page() -> str:
    """docs/photos.md: by group, what becomes of which kind."""
    lines = [
        "# Which photos are used, and what becomes of the others",
        "",
        f"{len(CASES)} kinds of photo and folder, made by code (`tests/corpus/`), each read by",
        "`rpo check` in the tests. “Used” means upright, and each colour within 8 of 255 of what a",
        "formula gives. Remarks and refusals name the file, the reason and the remedy. This page",
        "is written by `python -m tests.corpus`.",
        "",
        "Every cut is noticed, but not every damage. Where other data stand in for what a JPEG",
        "lost, in a progressive one or between two restart markers, only its thumbnail can tell.",
        "WebP, HEIC, AVIF, GIF, BMP, and TIFF unless it is deflated, have no sums over their",
        "pixels: what is decoded without an error is used.",
        "",
        "What may lie beside a photo, which square of it is learned from, and how a zip is read:",
        "[crops.md](crops.md).",
    ]
    for group in dict.fromkeys(case.group for case in CASES):
        lines += [
            "",
            f"## {group.capitalize()}",
            "",
            "| kind | kinds | what becomes of it |",
            "|---|---:|---|",
        ]
        rows: dict[tuple[str, str, str], int] = {}
        for case in CASES:
            if case.group == group:
                key = (case.name, case.status, case.says)
                rows[key] = rows.get(key, 0) + 1
        for (name, status, says), count in rows.items():
            words = f"{_VERDICTS[status]}: {says}" if says else _VERDICTS[status]
            lines.append(f"| {name} | {count} | {words} |".replace("\x1b", ""))
    return "\n".join(lines) + "\n"
