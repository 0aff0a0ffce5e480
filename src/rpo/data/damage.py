"""Damage that decoders pass over: of a JPEG, a PNG and a deflated TIFF.

libjpeg goes on after lost or foreign data, only warns, and Pillow keeps the warning to itself. A
sound file shows two things: its compressed data are used up to the last byte and no further, and
the picture looks like the thumbnail that the camera put beside it. Of a PNG Pillow checks neither
the sums over the pixels nor whether they are all there, and libtiff goes on after a wrong sum.
"""

from __future__ import annotations

import zlib
from io import BytesIO
from typing import Any

import numpy as np
from PIL import ExifTags, Image

_EOI, _SOS, _DHT = 0xD9, 0xDA, 0xC4
_END_OF_BLOCK = 0
# What may stand behind a scan: the end, or what leads to another scan (DHT, SOS, DQT, DNL, DRI,
# APPn, COM).
_BEHIND_A_SCAN = {_EOI, _DHT, _SOS, 0xDB, 0xDC, 0xDD, *range(0xE0, 0xF0), 0xFE}
# The decoder looks up to 8 bytes ahead: so many bytes of ones, each followed by the 00 that the
# format wants behind FF. An encoder pads the last byte with ones too.
_PADDING = b"\xff\x00" * 8
# A sector that was never written. At 3 bits a coefficient, more than a block without a zero in it.
_ZEROS = bytes(32)


class Scan(BytesIO):
    """A JPEG's bytes for Pillow, which tell afterwards how many of them the decoder asked for.

    The data of a single scan are served up to two bytes before their end, up to a padding put
    behind them, and then on. A decoder that ends earlier had data left over, one that wants what
    is behind the padding had too few.
    """

    def __init__(self, data: bytes) -> None:
        start, end, self.marker, flat = _scan(data)
        self._hollow = not flat and data.find(_ZEROS, start, end) >= 0
        self._stops = (max(end - 2, start), end + len(_PADDING))
        self._single = self.marker == _EOI
        super().__init__(data[:end] + _PADDING + data[end:] if self._single else data)

    def read(self, size: int | None = -1) -> bytes:
        at = self.tell()
        for stop in self._stops:
            if self._single and size is not None and at < stop < at + size:
                size = stop - at
        return super().read(size)

    @property
    def damaged(self) -> bool:
        """Whether data are missing or left over. Only after the picture was decoded from here."""
        if self.marker is None:
            return False  # no end: decoding it has failed
        if not self._single:  # several scans: only foreign markers are noticed
            return self.marker not in _BEHIND_A_SCAN
        return self._hollow or not self._stops[0] < self.tell() <= self._stops[1]


def _scan(data: bytes) -> tuple[int, int, int | None, bool]:
    """Where the first scan's data begin and end, and the marker there; None if there is none.

    Then whether a flat part may be zero bytes alone: where the first component's code of zeros
    ends a block. In the usual table, and in most others, it stands for a coefficient.
    """
    at = 2
    zero_codes: dict[int, int] = {}
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill
            at += 1
            continue
        segment = data[at + 4 : at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")]
        at += 4 + len(segment)
        if marker == _DHT:
            zero_codes |= _zero_codes(segment)
        if marker == _SOS:
            break
    else:
        return len(data), len(data), None, True
    flat = len(segment) < 3 or zero_codes.get(0x10 | segment[2] & 15, 0) == _END_OF_BLOCK
    start = at
    while (at := data.find(b"\xff", at)) >= 0 and at + 1 < len(data):
        marker = data[at + 1]
        if marker == 0 or 0xD0 <= marker <= 0xD7:  # a byte FF of the data, a restart
            at += 2
        elif marker == 0xFF:
            at += 1
        else:
            return start, at, marker, flat
    return start, len(data), None, flat


def _zero_codes(segment: bytes) -> dict[int, int]:
    """What the code of zeros means in each Huffman table of a DHT segment, by class and number.

    Codes are given out from zeros on, so it is the first symbol.
    """
    found, at = {}, 0
    while at + 17 < len(segment):
        found[segment[at]] = segment[at + 17]
        at += 17 + sum(segment[at + 1 : at + 17])
    return found


def unlike_thumbnail(photo: Image.Image) -> bool:
    """Whether a decoded photo, not yet turned, looks other than the thumbnail in its EXIF data."""
    thumbnail = _thumbnail(photo)
    if thumbnail is None:
        return False
    best = min(
        _difference(photo, thumbnail.rotate(angle, expand=True)) for angle in (0, 90, 180, 270)
    )
    return best > _MAX_DIFFERENT


_CELLS, _MAX_LEVELS, _MAX_DIFFERENT = 16, 32, 0.1


def _difference(photo: Image.Image, thumbnail: Image.Image) -> float:
    """The share of 16 x 16 cells of which a colour differs by more than 32 of 255."""
    # Cameras' thumbnails are 4:3, with black bars where the photo is not.
    scale = min(thumbnail.width / photo.width, thumbnail.height / photo.height)
    width, height = photo.width * scale, photo.height * scale
    left, top = (thumbnail.width - width) / 2, (thumbnail.height - height) / 2
    box = (left, top, left + width, top + height)
    cells = [
        np.asarray(image.convert("RGB").resize((_CELLS, _CELLS), Image.Resampling.BOX, area))
        for image, area in ((photo, None), (thumbnail, box))
    ]
    levels = np.abs(cells[0].astype(int) - cells[1]).max(axis=-1)  # (16, 16)
    return float((levels > _MAX_LEVELS).mean())


def _thumbnail(photo: Image.Image) -> Image.Image | None:
    blob: Any = photo.info.get("exif")
    if not isinstance(blob, bytes):
        return None
    try:
        directory = photo.getexif().get_ifd(ExifTags.IFD.IFD1)
        start, length = directory[0x0201], directory[0x0202]  # JPEGInterchangeFormat, …Length
        start += len(b"Exif\0\0") if blob.startswith(b"Exif\0\0") else 0
        with Image.open(BytesIO(blob[start : start + length]), formats=("JPEG",)) as thumbnail:
            thumbnail.load()
            return thumbnail.convert("RGB")
    except Exception:  # none, or a broken one, which raises nearly anything
        return None


def png_damage(data: bytes) -> str:
    """What is wrong with a PNG's pixel data: "checksum", "truncated" or empty."""
    at, inflate, length, promised = 8, zlib.decompressobj(), 0, _png_length(data[16:29])
    while at + 12 <= len(data) and length <= promised:
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        body = memoryview(data)[at + 8 : at + 8 + size]
        if kind == b"IDAT":
            if zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(
                data[at + 8 + size : at + 12 + size], "big"
            ):
                return "checksum"
            try:
                length += _inflated(inflate, body, promised - length)
            except zlib.error:
                return "checksum"
        at += 12 + size
    return "truncated" if length < promised else ""


def _inflated(inflate: Any, body: memoryview, most: int) -> int:
    """How many bytes a piece of zlib's data becomes; they are not kept, nor counted far beyond."""
    length, rest = 0, bytes(body)
    while rest and length <= most:
        length += len(inflate.decompress(rest, 1 << 20))
        rest = inflate.unconsumed_tail
    return length


# Interlaced, a PNG is seven pictures: from this column on every so many, from this row on likewise.
_ADAM7: tuple[tuple[int, int, int, int], ...] = (
    *((0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4)),
    *((0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2)),
)
_WHOLE: tuple[tuple[int, int, int, int], ...] = ((0, 1, 0, 1),)


def _png_length(header: bytes) -> int:
    """Bytes of the pixels and their filters that a PNG's IHDR promises."""
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
    bits = header[8] * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(header[9], 1)
    length = 0
    for left, columns, top, rows in _ADAM7 if header[12] else _WHOLE:
        across = -(-(width - left) // columns) if width > left else 0
        down = -(-(height - top) // rows) if height > top else 0
        length += down * (1 + -(-across * bits // 8)) if across else 0
    return length


def tiff_damage(photo: Image.Image, data: bytes) -> str:
    """What is wrong with the deflated strips or tiles of an opened TIFF, as for a PNG."""
    tags = getattr(photo, "tag_v2", {})
    if tags.get(_COMPRESSION) not in _DEFLATE:
        return ""
    starts, sizes = (tags.get(strips, tags.get(tiles, ())) for strips, tiles in _PIECES)
    for start, size in zip(starts, sizes, strict=False):
        inflate = zlib.decompressobj()
        try:
            _inflated(inflate, memoryview(data)[start : start + size], _MAX_PIECE)
        except zlib.error:
            return "checksum"
        if not inflate.eof:
            return "truncated"
    return ""


_COMPRESSION, _DEFLATE = 259, (8, 32946)
_PIECES = ((273, 324), (279, 325))  # offsets and byte counts, of strips or of tiles
_MAX_PIECE = 1 << 30  # bytes; what is larger is not a photo's
