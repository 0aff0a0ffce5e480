"""The page: three tabs, one look."""

from __future__ import annotations

from typing import Any

import gradio as gr

from rpo.app.desk import Desk
from rpo.app.draw import Draw
from rpo.app.form import QUICK, shown
from rpo.app.library import Library
from rpo.app.results import Results
from rpo.app.teach import EXAMPLES, Teach

_FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]
_HEADER = (
    '<header class="top"><h1>Teach a picture model your own</h1>'
    "<p>dog, mug or toy. A few photos are enough, and nothing leaves this machine.</p></header>"
)

# Gradio names each radio button apart; of one name, the arrows go from one to the next.
_GROUPS = """<script>
let groups = 0;
new MutationObserver(() => document.querySelectorAll("fieldset").forEach(group => {
  const name = group.dataset.choices ??= `choices-${++groups}`;
  group.querySelectorAll("input[type=radio]").forEach(one => {
    if (one.name !== name) one.name = name;
  });
})).observe(document, {childList: true, subtree: true});
</script>"""


def theme() -> gr.themes.Base:
    """Our own: calm colours, the system's fonts, light and dark."""
    return gr.themes.Base(
        primary_hue="teal", neutral_hue="stone", font=_FONT, font_mono=_MONO, radius_size="md"
    ).set(
        body_background_fill="var(--paper)",
        body_background_fill_dark="var(--paper)",
        body_text_color="var(--ink)",
        body_text_color_dark="var(--ink)",
        body_text_color_subdued="var(--soft)",
        body_text_color_subdued_dark="var(--soft)",
        background_fill_primary="var(--card)",
        background_fill_primary_dark="var(--card)",
        background_fill_secondary="var(--paper)",
        background_fill_secondary_dark="var(--paper)",
        border_color_primary="var(--line)",
        border_color_primary_dark="var(--line)",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_border_width_dark="0px",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_text_color="var(--soft)",
        block_label_text_color_dark="var(--soft)",
        block_title_text_color="var(--ink)",
        block_title_text_color_dark="var(--ink)",
        block_info_text_color="var(--soft)",
        block_info_text_color_dark="var(--soft)",
        block_shadow="none",
        input_background_fill="var(--card)",
        input_background_fill_dark="var(--card)",
        input_border_color="var(--edge)",
        input_border_color_dark="var(--edge)",
        input_border_width="1px",
        input_border_width_dark="1px",
        input_placeholder_color="var(--soft)",
        input_placeholder_color_dark="var(--soft)",
        button_primary_background_fill="var(--reward)",
        button_primary_background_fill_dark="var(--reward)",
        button_primary_background_fill_hover="var(--deep)",
        button_primary_background_fill_hover_dark="var(--deep)",
        button_primary_text_color="var(--card)",
        button_primary_text_color_dark="var(--paper)",
        button_secondary_background_fill="var(--card)",
        button_secondary_background_fill_dark="var(--card)",
        button_secondary_background_fill_hover="var(--tint)",
        button_secondary_background_fill_hover_dark="var(--tint)",
        button_secondary_text_color="var(--ink)",
        button_secondary_text_color_dark="var(--ink)",
        button_secondary_border_color="var(--edge)",
        button_secondary_border_color_dark="var(--edge)",
        button_border_width="1px",
        checkbox_border_color="var(--edge)",
        checkbox_border_color_dark="var(--edge)",
        checkbox_background_color_selected="var(--reward)",
        checkbox_background_color_selected_dark="var(--reward)",
        slider_color="var(--reward)",
        slider_color_dark="var(--reward)",
        color_accent="var(--reward)",
        color_accent_soft="var(--tint)",
        color_accent_soft_dark="var(--tint)",
    )


def build(desk: Desk, title: str) -> tuple[gr.Blocks, dict[str, Any]]:
    """The page, and what it looks like: arguments for mounting it."""
    with gr.Blocks(title=title, analytics_enabled=False) as demo:
        shown(_HEADER)
        with gr.Tabs(elem_id="tabs"):
            with gr.Tab("Teach", id="teach"):
                teach = Teach(desk)
            with gr.Tab("Draw", id="draw") as drawing:
                draw = Draw(desk)
            with gr.Tab("Runs", id="runs") as shelf:
                library = Library(desk)
                results = Results(desk)
        teach.load(demo)
        drawing.select(draw.arrive, draw.run, draw.run, **QUICK)
        shelf.select(
            library.arrive,
            [library.several, library.run],
            [library.cards, library.several, library.run],
            **QUICK,
        )
        shelf.select(
            results.arrive, results.name, [results.part, results.name, results.report], **QUICK
        )
    demo.queue(default_concurrency_limit=8, max_size=500, api_open=False)
    pictures = "".join(
        f'#example-{name}::before{{background-image:url("/rpo/examples/{name}")}}'
        for name in EXAMPLES
    )
    head = f'<link rel="stylesheet" href="/rpo/page.css"><style>{pictures}</style>{_GROUPS}'
    return demo, {"theme": theme(), "head": head}
