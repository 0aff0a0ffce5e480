"""The contact sheet: what `check_folder` found, as one picture."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from rpo.config import PhotosConfig
from rpo.data.beside import described
from rpo.data.subject import PhotoCheck
from rpo.errors import printable


def contact_sheet(
    checks: Sequence[PhotoCheck], tile: int = 160, settings: PhotosConfig | None = None
) -> Image.Image:
    """Every checked photo on one RGB sheet, `tile` pixels each, labelled with name and message.

    Rejected photos are crossed out in red, warnings are amber, and what is ignored is an empty grey
    tile. What lies outside the square that is learned from is faded; within it, what a mask leaves
    out is tinted red where the settings make use of masks. Raises ValueError without checks.
    """
    settings = settings or PhotosConfig()
    if not checks:
        raise ValueError("no checks to show")
    font = _font(max(tile / 13, 9))
    line = round(font.getbbox("Ag")[3] * 1.25)
    margin, columns = max(tile // 16, 2), min(len(checks), 5)
    width, height = tile + margin, tile + margin + _LABEL_LINES * line
    rows = -(-len(checks) // columns)
    sheet = Image.new("RGB", (columns * width + margin, rows * height + margin), "white")
    draw = ImageDraw.Draw(sheet)
    for index, check in enumerate(checks):
        x, y = margin + index % columns * width, margin + index // columns * height
        sheet.paste(_thumbnail(check, tile, settings.unmasked_weight), (x, y))
        colour = _LABEL_COLOURS[check.status]
        if check.status == "rejected":
            for start, end in (((x, y), (x + tile, y + tile)), ((x, y + tile), (x + tile, y))):
                draw.line((start, end), fill=colour, width=max(tile // 40, 1))
        for row, text in enumerate(_label(check, font, tile, settings)):
            draw.text((x, y + tile + margin // 3 + row * line), text, fill=colour, font=font)
    return sheet


_GREY, _TINT = "#dddddd", "#ff0000"
_LABEL_LINES = 5
_LABEL_COLOURS = {
    "ok": "#333333",
    "warning": "#a35c00",
    "rejected": "#c4161c",
    "ignored": "#767676",
}


def _thumbnail(check: PhotoCheck, tile: int, unmasked: float) -> Image.Image:
    """The photo, whole, in the middle of a grey square; the square alone if it is not readable.

    What lies outside the part of it that is trained on is faded.
    """
    size, photo = (tile, tile), check.preview
    if photo is None:
        return Image.new("RGB", size, _GREY)
    side = min(photo.size)
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    right, bottom = left + side, top + side
    if check.square:
        left, top, right, bottom = map(int, check.square.within(*photo.size))
    faded = Image.blend(photo, Image.new("RGB", photo.size, _GREY), 0.7)
    if check.beside.mask and unmasked < 1:
        photo = _tinted(photo, check.beside.mask, unmasked)
    faded.paste(photo.crop((left, top, right, bottom)), (left, top))
    return ImageOps.pad(faded, size, Image.Resampling.LANCZOS, color=_GREY)


def _tinted(photo: Image.Image, mask: Image.Image, unmasked: float) -> Image.Image:
    """Redder the less a pixel counts, 0.6 of pure red where it does not at all."""
    left_out = 1 - np.asarray(mask.resize(photo.size), dtype=np.float64) / 255
    share = Image.fromarray(np.rint(153 * (1 - unmasked) * left_out).astype(np.uint8))
    return Image.composite(Image.new("RGB", photo.size, _TINT), photo, share)


def _label(
    check: PhotoCheck, font: Any, width: int, settings: PhotosConfig | None = None
) -> list[str]:
    """The file's name, then crop, caption and message in lines of at most `width` pixels."""
    lines = [printable(check.path.name)]
    told = described(check.beside, settings or PhotosConfig()) if check.square else {}
    texts = [f"{name}: {text};" for name, text in told.items()] + [check.message]
    for word in " ".join(texts).rstrip("; ").split():
        joined = f"{lines[-1]} {word}"
        if len(lines) > 1 and font.getlength(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(word)
    if len(lines) > _LABEL_LINES:
        lines[_LABEL_LINES - 1 :] = [lines[_LABEL_LINES - 1] + " ..."]
    return [_shortened(line, font, width) for line in lines]


def _font(size: float) -> Any:
    """A font of the system for names in most languages, else Pillow's own, which has only ASCII."""
    for name in ("DejaVuSans.ttf", "Arial.ttf", "segoeui.ttf"):
        try:
            return ImageFont.truetype(name, size)
        except (OSError, ImportError):
            continue
    return ImageFont.load_default(size)


def _shortened(text: str, font: Any, width: int) -> str:
    """`text` cut to `width` pixels, of characters that the font can draw."""
    if not isinstance(
        getattr(font, "path", None), str
    ):  # Pillow's own: ü becomes u, what cannot be reduced ?
        letters = unicodedata.normalize("NFKD", text)
        text = "".join(letter for letter in letters if not unicodedata.combining(letter))
        text = text.encode("ascii", "replace").decode()
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
