"""The pieces that the report is put together from: HTML for a section, a picture, a table."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path

from PIL import Image
from PIL.Image import DecompressionBombError

TINY = 128  # pixels; smaller pictures are inlined as they are and enlarged without smoothing
EMBEDDED = 448  # pixels; larger ones are inlined at this size: the originals are in images/


# what PIL raises for a damaged picture, and for one of more pixels than there is memory for
UNREADABLE = (
    OSError,
    ValueError,
    SyntaxError,
    ArithmeticError,
    LookupError,
    DecompressionBombError,
)


@contextmanager
def opened(file: Path) -> Iterator[Image.Image]:
    """A picture of a run, read to its end. Raises one of `UNREADABLE` for a damaged one."""
    with Image.open(file, formats=["PNG"]) as image:
        image.load()
        yield image


def duration(seconds: float) -> str:
    """Seconds in words: 0.4 s, 12 s, 3 min 05 s, 2 h 07 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    hours, left = divmod(minutes, 60)
    return f"{hours} h {left:02d} min" if hours else f"{minutes} min {rest:02d} s"


def memory(megabytes: float | None) -> str:
    if megabytes is None:
        return "–"
    return f"{megabytes / 1000:.2f} GB" if megabytes >= 1000 else f"{megabytes:.0f} MB"


def section(title: str, intro: str, content: str) -> str:
    return f'<section>\n<h2>{title}</h2>\n<p class="soft">{intro}</p>\n{content}\n</section>'


def picture(file: Path, alt: str, caption: str = "", style: str = "", side: int = EMBEDDED) -> str:
    """A figure with the picture inlined, of at most `side` pixels; empty where the file is gone."""
    if not file.is_file():
        return ""
    try:
        with opened(file) as image:
            size = image.size
            if max(size) <= TINY:
                kind, data, look = "png", file.read_bytes(), ' class="pixel"'
            else:
                buffer = io.BytesIO()
                small = image.convert("RGB")
                small.thumbnail((side, side))
                small.save(buffer, "JPEG", quality=88)
                kind, data, look = "jpeg", buffer.getvalue(), ""
    except UNREADABLE:
        return f"<figure><figcaption>{escape(file.name)} cannot be read</figcaption></figure>"
    return _figure(kind, data, size, look, alt, caption, style)


def figure(image: Image.Image, alt: str, caption: str = "", side: int = EMBEDDED) -> str:
    """As `picture`, of a picture in memory."""
    buffer, small = io.BytesIO(), image.convert("RGB")
    small.thumbnail((side, side))
    small.save(buffer, "JPEG", quality=88)
    return _figure("jpeg", buffer.getvalue(), small.size, "", alt, caption, "")


def _figure(
    kind: str, data: bytes, size: tuple[int, int], look: str, alt: str, caption: str, style: str
) -> str:
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
    note = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure class="{style}"><img{look} width="{size[0]}" height="{size[1]}" '
        f'alt="{escape(alt)}" src="{source}">{note}</figure>'
    )


def table(head: Iterable[tuple[str, str]], rows: Iterable[str]) -> str:
    titles = "".join(f'<th class="{style}">{escape(name)}</th>' for name, style in head)
    return (
        f'<div class="scroll"><table><thead><tr>{titles}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
