"""The report's pictures of a quantised run on both bases: as it learned, and as exports draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from rpo.report.page import picture, section


def both_bases(path: Path, records: Sequence[Mapping[str, Any]], quantize: str) -> str:
    """A card for each validation prompt: the same weights and noise on either base.

    Empty for a run without such pictures. path: the run's; quantize: what its base was held in.
    """
    redrawn = next((r for r in reversed(records) if r["event"] == "redrawn"), None)
    if redrawn is None:
        return ""
    step = redrawn["step"]
    here = next((r for r in records if r["event"] == "validated" and r["step"] == step), None)
    columns = [(f"on the base in {quantize}", here), ("on the base's own weights", redrawn)]
    shown = [(name, record) for name, record in columns if record is not None]
    cards = []
    for index, prompt in enumerate(redrawn["prompts"]):
        pair = "".join(
            picture(path / record["images"][index], f"{prompt}, {name}", name)
            for name, record in shown
            if index < len(record["images"])
        )
        cards.append(
            f'<div class="pair"><h3>{escape(prompt)}</h3><div class="trio">{pair}</div></div>'
        )
    rewards = " and ".join(f"{record['reward']:.3f} {name}" for name, record in shown)
    intro = (
        f"The adapter of step {step} learned on a base model held in {quantize}. Exports and other "
        "programs put it on the base model's own weights, where the same noise becomes another "
        f"picture. The reward is {rewards}."
    )
    return section(
        "Without quantisation", escape(intro), f'<div class="pairs">{"".join(cards)}</div>'
    )
