"""The models that can learn on this machine, each with what `rpo plan` says of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from rpo.app.plans import Plans, in_words, plan_words
from rpo.models.resolve import EMBEDDED, installed_models

MOST = 30  # that are planned for; others when they are chosen


class Models:
    """The list of the first tab. Plans arrive one by one, that of the chosen model first."""

    def __init__(self, plans: Plans) -> None:
        self._plans = plans
        self.names = [model.name for model in installed_models() if model.kind == "pipeline"]
        self.field = gr.Radio(
            self._labelled([""] * len(self.names)),
            value=EMBEDDED,
            label="Models on this machine",
            elem_id="model",
            elem_classes="lines models",
        )

    def choices(self, chosen: str, method: str, presets: Sequence[str]) -> dict[str, Any]:
        """The list as it is to be shown now: an update of the field."""
        lines = {}
        for name in sorted(self.names[:MOST], key=lambda name: name != chosen):
            words = plan_words(name, method, presets, ())
            lines[name] = in_words(self._plans.ask_in_turn(words))
        return {"choices": self._labelled([lines.get(name, "") for name in self.names])}

    def _labelled(self, lines: Sequence[str]) -> list[tuple[str, str]]:
        """Each model's name for people, and the line below it; the page shows the break."""
        shown = zip(self.names, lines, strict=True)
        return [(f"{_named(name)}\n{line}".strip(), name) for name, line in shown]


def _named(name: str) -> str:
    return "Emojiland, built in" if name == EMBEDDED else name
