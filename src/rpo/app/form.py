"""All settings as form fields, made of what the settings say of themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from rpo.config import SETTINGS
from rpo.config.sections import SECTIONS
from rpo.config.settings import Setting

# What the page asks for elsewhere, or decides itself.
_ELSEWHERE = ("model", "method", "noun", "device")
AS_SUITS = "as suits"
# Of an event that shows no progress of its own and is no public interface.
QUICK: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def shown(value: str = "", **more: Any) -> gr.HTML:
    """A piece of HTML without Gradio's own styles."""
    return gr.HTML(value, apply_default_css=False, padding=False, elem_classes="shown", **more)


def changes(seen: Sequence[Any], now: Sequence[Any]) -> list[Any]:
    """Updates for what is not as seen before, so that nothing flickers; then what was seen now.

    A text is a value, a bool whether a field is there, a tuple a choice and all choices, a table
    an update of a field, and None leaves it alone.
    """
    before = seen if len(seen) == len(now) else [None] * len(now)
    updates: list[Any] = []
    for old, new in zip(before, now, strict=True):
        if new is None or (old == new and type(old) is type(new)):
            updates.append(gr.skip())
        elif isinstance(new, tuple):
            updates.append(gr.update(choices=list(new[1:]), value=new[0], visible=True))
        elif isinstance(new, dict):
            updates.append(gr.update(**new))
        elif isinstance(new, bool):
            updates.append(gr.update(visible=new))
        else:
            updates.append(new)
    return [*updates, list(now)]


class SettingsForm:
    """Fields for every setting, folded by section; empty ones stay as suits model and method."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.fields: list[Any] = []
        groups = {"": "The run"} | {name: section.__doc__ for name, section in SECTIONS.items()}
        for section, title in groups.items():
            with gr.Accordion(_short(title), open=False, elem_classes="folded"):
                for key, setting in SETTINGS.items():
                    if key.rpartition(".")[0] == section and key not in _ELSEWHERE:
                        self.keys.append(key)
                        self.fields.append(_field(key, setting))

    def overrides(self, values: Sequence[Any]) -> list[str]:
        """What was filled in, as name=value."""
        pairs = zip(self.keys, values, strict=True)
        given = ((key, str(value).strip()) for key, value in pairs if value is not None)
        return [f"{key}={value}" for key, value in given if value not in ("", AS_SUITS)]


def _short(title: str | None) -> str:
    return (title or "").split(" (")[0].split(", where")[0].rstrip(".")


def _field(key: str, setting: Setting) -> Any:
    name = "set-" + key.replace(".", "-")
    label = key.rpartition(".")[2].replace("_", " ")
    choices = setting.choices or (("true", "false") if setting.type is bool else ())
    if choices:
        known = [AS_SUITS, *choices]
        return gr.Dropdown(known, value=AS_SUITS, label=label, info=setting.help, elem_id=name)
    return gr.Textbox(
        label=label, info=setting.help, placeholder=AS_SUITS, max_length=300, elem_id=name
    )
