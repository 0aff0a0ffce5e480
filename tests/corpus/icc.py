"""Colour by formula: spaces, their ICC profiles, and what their levels are in sRGB."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from .case import COLOURS, GREYS, Colours, scene

# RGB to XYZ (D50, adapted by Bradford): Lindbloom, "RGB/XYZ matrices"; Display P3: its ICC profile.
SRGB = np.array(
    (
        (0.4360747, 0.3850649, 0.1430804),
        (0.2225045, 0.7168786, 0.0606169),
        (0.0139322, 0.0971045, 0.7141733),
    )
)


ADOBE = np.array(
    (
        (0.6097559, 0.2052401, 0.1492240),
        (0.3111242, 0.6256560, 0.0632197),
        (0.0194811, 0.0608902, 0.7448387),
    )
)


P3 = np.array(
    (
        (0.515121, 0.291977, 0.157104),
        (0.241196, 0.692245, 0.066574),
        (-0.001053, 0.041885, 0.784073),
    )
)


PROPHOTO = np.array(
    ((0.7976749, 0.1351917, 0.0313534), (0.2880402, 0.7118741, 0.0000857), (0.0, 0.0, 0.8252100))
)


D50 = (0.9642, 1.0, 0.8249)


def encode_srgb(linear: Any) -> np.ndarray:
    """IEC 61966-2-1: linear light in [0, 1] to levels of 255."""
    linear = np.clip(linear, 0, 1)
    low, high = 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055
    return np.where(linear <= 0.0031308, low, high) * 255


def shown(stored: Colours, matrix: np.ndarray = SRGB, gamma: float = 1.0) -> Colours:
    """What levels of a space of that matrix and gamma are in sRGB."""
    linear = (np.asarray(stored) / 255) ** gamma
    return encode_srgb(linear @ matrix.T @ np.linalg.inv(SRGB).T).tolist()


def profile(space: bytes, matrix: np.ndarray, gamma: float, name: str) -> bytes:
    """An ICC profile (version 2, matrix and gamma; of grey the gamma alone)."""
    text = name.encode() + b"\0"
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(8 + 3 + 67),
        b"cprt": b"text" + bytes(4) + b"none\0",
        b"wtpt": _xyz(D50),
    }
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))
    if space == b"GRAY":
        tags[b"kTRC"] = curve
    else:
        for index, letter in enumerate((b"r", b"g", b"b")):
            tags[letter + b"XYZ"] = _xyz(matrix[:, index])
            tags[letter + b"TRC"] = curve
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for tag, data in tags.items():
        table += tag + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = struct.pack(
        ">I4sI4s4s4s", start + len(body), bytes(4), 0x02400000, b"mntr", space, b"XYZ "
    )
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _xyz(D50)[8:]
    return header.ljust(128, b"\0") + table + body


def _xyz(values: Any) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *[round(float(v) * 65536) for v in values])


LINEAR_SRGB = profile(b"RGB ", SRGB, 1.0, "GIMP built-in Linear sRGB")


ADOBE_RGB = profile(b"RGB ", ADOBE, 2.19921875, "Adobe RGB (1998)")


PLAIN_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


PROFILES: dict[str, tuple[bytes, Colours]] = {
    "sRGB": (PLAIN_SRGB, COLOURS),
    "linear sRGB": (LINEAR_SRGB, shown(COLOURS)),
    "Adobe RGB": (ADOBE_RGB, shown(COLOURS, ADOBE, 2.19921875)),
    "Display P3": (profile(b"RGB ", P3, 2.2, "P3"), shown(COLOURS, P3, 2.19921875)),
    "ProPhoto": (profile(b"RGB ", PROPHOTO, 1.8, "ProPhoto"), shown(COLOURS, PROPHOTO, 1.80078125)),
    "linear P3 named sRGB": (profile(b"RGB ", P3, 1.0, "sRGB"), shown(COLOURS, P3)),
}


def grey_shown(gamma: float) -> Colours:
    return [[float(encode_srgb((level / 255) ** gamma))] * 3 for level in GREYS]


def lab(colours: Colours) -> tuple[Image.Image, Colours]:
    """A CIELAB picture with rounded L*, a*, b* of the colours, and its colours by CIE 15."""
    quarters_ = []
    expected = []
    for lightness, a, b in colours:
        quarters_.append((round(lightness * 2.55), a + 128, b + 128))
        y = (round(lightness * 2.55) / 2.55 + 16) / 116
        parts = np.array((y + a / 500, y, y - b / 200))
        xyz = np.where(parts > 6 / 29, parts**3, 3 * (6 / 29) ** 2 * (parts - 4 / 29)) * D50
        expected.append(encode_srgb(xyz @ np.linalg.inv(SRGB).T).tolist())
    bands = [scene([[q[i]] * 3 for q in quarters_]).getchannel(0) for i in range(3)]
    return Image.merge("LAB", bands), expected
