"""errors.py: names that a terminal cannot hold."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rpo.errors import brief, printable


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Süße Hündin, 2.png", "Süße Hündin, 2.png"),
        ("我的狗 كلبي 🐕.png", "我的狗 كلبي 🐕.png"),
        ("👨\u200d👩.png", "👨\u200d👩.png"),  # the joiner makes one sign of two
        ("a\u3000b\u00a0c", "a\u3000b\u00a0c"),
        ("\x1b[2J\x07", "\\x1b[2J\\x07"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\x9b31m", "\\x9b31m"),  # ESC [ in one byte
        ("dog\u202egnp", "dog\\u202egnp"),
        ("a\u2028b\u2029c", "a\\u2028b\\u2029c"),
        (os.fsdecode(b"d\xf6g"), "d\\udcf6g"),
        ("back\\slash", "back\\slash"),
    ],
)
def test_printable(name: str, shown: str) -> None:
    assert printable(name) == shown
    assert printable(Path(name)) == shown
    assert printable(shown) == shown


def test_brief() -> None:
    assert brief("a\nb") == "'a\\nb'"
    assert brief(2.5) == "2.5"
    assert brief("x" * 300) == "'" + "x" * 199 + "..."
    assert brief(10**5000) == "a number of thousands of digits"
