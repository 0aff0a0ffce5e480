"""What is text stays text: a stranger's name or prompt on the page."""

from __future__ import annotations

import pytest

pytest.importorskip("gradio")

from rpo.app import pieces
from rpo.app.watch import Course
from rpo.events import Validated

SCRIPT = "<script>alert(1)</script>"
TEMPLATE = "${alert(1)} {{constructor.constructor('alert(1)')()}} `x`"


@pytest.mark.parametrize("bad", [SCRIPT, '"><img src=x onerror=alert(1)>', TEMPLATE, "a\n\x1b[31m"])
def test_a_strangers_text_is_shown_as_text(bad: str) -> None:
    course = Course()
    course.take(Validated(0, 0.5, 0.5, 0.5, True, None, (bad,), files=(f"images/{bad}.png",)))
    for html in (
        pieces.text(bad),
        pieces.note(bad, "problem"),
        pieces.code(bad),
        pieces.picture("/x.png", bad, bad),
        pieces.pairs(bad, course),
    ):
        for sign in ("<script", "<img src=x", "onerror=alert(1)>", "${", "{{", "`", "\x1b"):
            assert sign not in html
