"""Files that Pillow does not write: PNG and TIFF, byte by byte."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from PIL import Image

from .case import GREYS, HEIGHT, WIDTH, encoded


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png16(values: np.ndarray, extra: bytes = b"") -> bytes:
    """A 16-bit PNG of (H, W) or (H, W, 3) levels; `extra`: chunks before the data."""
    height, width = values.shape[:2]
    rows = values.astype(">u2").reshape(height, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 16, 0 if values.ndim == 2 else 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), extra, chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def with_chunk(kind: bytes, data: bytes, png: bytes | None = None) -> bytes:
    """A PNG with one chunk more, behind its header (8 + 25 bytes)."""
    png = png or encoded("PNG")
    return png[:33] + chunk(kind, data) + png[33:]


def tiff(
    values: np.ndarray,
    photometric: int = 1,
    bits: int | None = None,
    more: dict[int, int] | None = None,
) -> bytes:
    """An uncompressed TIFF of (H, W) or (H, W, C) numbers; `more`: further SHORT tags."""
    height, width = values.shape[:2]
    samples = 1 if values.ndim == 2 else values.shape[2]
    data = values.tobytes()
    depth = bits or values.dtype.itemsize * 8
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags = {256: width, 257: height, 258: depth, 259: 1, 262: photometric, 273: 0, 277: samples}
    tags |= {278: height, 279: len(data), 339: kind} | (more or {})
    start = 8 + 2 + 12 * len(tags) + 4
    depths = struct.pack(f"<{samples}H", *[depth] * samples) if samples > 2 else b""
    tags[273] = start + len(depths)
    entries = b""
    for tag, value in sorted(tags.items()):
        if tag == 258 and depths:
            entries += struct.pack("<HHII", tag, 3, samples, start)
        else:
            entries += struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + depths + data


def grey_levels(top: int = 65535) -> np.ndarray:
    """(H, W) uint16: four grey quarters, from 0 to `top`."""
    values = np.zeros((HEIGHT, WIDTH), np.uint16)
    values[: HEIGHT // 2, WIDTH // 2 :] = round(top * GREYS[1] / 255)
    values[HEIGHT // 2 :, WIDTH // 2 :] = top
    values[HEIGHT // 2 :, : WIDTH // 2] = round(top * GREYS[3] / 255)
    return values


def interlaced(image: Image.Image) -> bytes:
    """An RGB picture as an interlaced PNG (Adam7, as PNG's specification has it in 8.2)."""
    pixels, raw = np.asarray(image), b""
    starts = ((0, 0), (0, 4), (4, 0), (0, 2), (2, 0), (0, 1), (1, 0))  # rows, columns
    steps = ((8, 8), (8, 8), (8, 4), (4, 4), (4, 2), (2, 2), (2, 1))
    for (top, left), (rows, columns) in zip(starts, steps, strict=True):
        for row in pixels[top::rows, left::columns]:
            raw += b"\0" + row.tobytes() if row.size else b""
    header = struct.pack(">IIBBBBB", image.width, image.height, 8, 2, 0, 0, 1)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
