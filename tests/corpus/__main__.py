"""Writes docs/photos.md."""

from . import CASES, PAGE, page

PAGE.write_text(page(), encoding="utf-8")
print(f"{PAGE}: {len(CASES)} kinds")
