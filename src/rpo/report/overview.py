"""One picture of a run: the photos, and the same prompts and seeds before and after."""

from __future__ import annotations

import textwrap

from PIL import Image, ImageDraw, ImageFont

from rpo.report.page import UNREADABLE, opened
from rpo.runs.result import Run

TILE = 128  # pixels a picture
GAP = 8
LEFT = 92  # for the rows' names
INK, SOFT = "#1c1c1e", "#6e6e73"


def overview(run: Run, columns: int = 8) -> Image.Image:
    """Photos above; below, a column for each validation prompt: base model, then chosen step.

    Raises ValueError for a run without a validation yet.
    """
    shown = {r["step"]: r for r in run.folder.records() if r["event"] == "validated"}
    if not shown:
        raise ValueError("nothing was validated yet")
    best = run.best_step or 0
    photos = sorted((run.path / "images" / "photos").glob("*.png"))[:columns]
    first = min(shown)
    prompts = shown[first]["prompts"][:columns]
    font, small = ImageFont.load_default(15), ImageFont.load_default(12)

    steps = [first, best] if best > first and best in shown else [first]
    names = {step: f"after\n{step} steps" for step in steps}
    if first == 0:
        names[0] = "base\nmodel" if best else "base\nmodel\n(best)"
    caption = 3 * 16
    width = LEFT + columns * (TILE + GAP)
    height = (1 + len(steps)) * (TILE + GAP) + 3 * GAP + caption
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)

    def row(y: int, name: str, files: list) -> None:
        pen.multiline_text((GAP, y + TILE // 2 - 20), name, fill=INK, font=font)
        for column, file in enumerate(files):
            try:
                with opened(file) as picture:
                    # small pictures are enlarged by whole pixels, as the report shows them
                    small = picture.width < TILE
                    how = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
                    tile = picture.convert("RGB").resize((TILE, TILE), how)
            except UNREADABLE:  # damaged or gone: its place stays white
                continue
            sheet.paste(tile, (LEFT + column * (TILE + GAP), y))

    row(GAP, "your\nphotos", photos)
    top = TILE + 4 * GAP
    for column, prompt in enumerate(prompts):
        text = "\n".join(textwrap.wrap(prompt, 20)[:3])
        place = (LEFT + column * (TILE + GAP), top)
        pen.multiline_text(place, text, fill=SOFT, font=small, spacing=2)
    for index, step in enumerate(steps):
        files = [run.path / file for file in shown[step]["images"][:columns]]
        row(top + caption + index * (TILE + GAP), names[step], files)
    return sheet
