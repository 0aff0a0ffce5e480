"""report.py and chart.py: what the page says, that it stands alone, and where the points lie."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from rpo.config import load_config
from rpo.config.presets import PRESETS
from rpo.report.chart import reward_curve, ticks, whole_ticks
from rpo.report.page import duration
from rpo.report.report import render_report
from rpo.runs.folder import RunFolder
from rpo.runs.result import Validation

PROMPTS = ["a [V] dog <at> sea", "a blue [V] dog"]
ENVIRONMENT = {
    "versions": {"rpo": "0", "peft": None},
    "hardware": {
        "device": "cpu",
        "processor": "p",
        "cores": 2,
        "threads": 2,
        "system": "s",
        "memory_gb": 8.0,
        "accelerators": [{"name": "some GPU", "memory_gb": 80}],
    },
    "seed": 0,
    "subject": {"folder": "photos", "photos": [{"name": "b&w.jpg"}, {"name": "2.jpg"}]},
    "models": {"pipeline": {"name": "emojiland", "files": {"unet/w.safetensors": "abc123"}}},
}


class Pipeline:
    """Stands for the saved pipeline."""

    def save_pretrained(self, path: Path) -> None:
        (path / "model_index.json").write_text("{}")


class Checker(HTMLParser):
    """Collects tags and finds those that are never closed."""

    VOID = frozenset({"meta", "img", "br", "line", "polyline"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [v or "" for k, v in attrs if k in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def make_run(tmp_path: Path, rewards: dict[int, float], best: int, size: int = 8) -> RunFolder:
    folder = RunFolder.create(tmp_path / "run", load_config(noun="dog"), ENVIRONMENT)
    folder.record(
        {
            "event": "started",
            "reference_prompt": "a photo of [V] dog",
            "training_prompts": ["a green [V] dog"],
            "validation_prompts": PROMPTS,
        }
    )
    pictures = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    folder.save_images("photos", pictures, ["1", "2"])
    folder.save_images("training", pictures, ["a green [V] dog"] * 2)
    folder.record(
        {
            "event": "labelled",
            "mean_probability": 0.41,
            "flip_rate": 0.39,
            "mean_gap": -0.38,
            "pairs": 64,
        }
    )
    for step, reward in rewards.items():
        images = folder.save_images(f"validation/step-{step:05d}", pictures * reward, PROMPTS)
        folder.record(
            {
                "event": "validated",
                "step": step,
                "reward": reward,
                "image_alignment": reward - 0.1,
                "text_alignment": reward + 0.1,
                "prompts": PROMPTS,
                "images": images,
            }
        )
    folder.save_best(Pipeline().save_pretrained, {"step": best})
    return folder


def end(folder: RunFolder) -> None:
    folder.record({"event": "stopped", "step": 80, "best_step": 40, "reason": "finished"})
    for seconds, memory in ((70.0, 900.0), (20.0, 1500.0)):  # two sessions
        folder.record(
            {
                "event": "phase",
                "phase": "training",
                "seconds": seconds,
                "memory_mb": memory,
                "gpu_memory_mb": None,
            }
        )


def parse(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    return checker


def test_whole_page(tmp_path: Path) -> None:
    folder = make_run(tmp_path, {0: 0.5, 40: 0.7, 80: 0.6}, best=40)
    end(folder)
    path = folder.write_report(render_report(folder))
    assert path == folder.path / "report.html"
    html = path.read_text(encoding="utf-8")
    page = parse(html)
    # 2 photos, 2 training pictures, 3 columns x 2 prompts; each inlined, nothing to fetch
    assert len(page.sources) == 2 + 2 + 3 * 2
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not re.search(r"https?://|@import|url\(", html)
    assert "script" not in page.tags
    for text in (
        "a [V] dog &lt;at&gt; sea",
        "b&amp;w.jpg",
        "step 40, chosen",
        "step 80, last",
        "0.700 <small>was 0.500",
        "41.0%",
        "\N{MINUS SIGN}0.380",
        "1 min 30 s",
        "1.50 GB",
        "rpo generate",
        "DiffusionPipeline.from_pretrained",
        "training.learning_rate",
        "abc123",
        "some GPU",
        "prefers-color-scheme: dark",
    ):
        assert text in html
    assert "interrupted" not in html
    assert "The weights of step 40 scored best" in html


def test_changed_settings_stand_beside_their_defaults(tmp_path: Path) -> None:
    html = render_report(make_run(tmp_path, {0: 0.5, 40: 0.7}, best=40))
    page = re.sub(r"<[^>]*>", " ", html)
    section = " ".join(page[page.rindex("Settings") :].split())
    assert section.startswith("Settings Model emojiland. These differ from the defaults.")
    assert "setting here default" in section
    assert "training.learning_rate 0.0003 5e-06" in section
    assert "paper" not in section[: section.index("The prompts")]
    changed = re.findall(r'<td class="key">([\w.]+)</td><td class="n">', html)
    assert "model" not in changed
    assert set(changed) == {f"{s}.{k}" for s, v in PRESETS["emojiland"].items() for k in v}


def test_the_snippet_for_diffusers_draws_as_generate_does(tmp_path: Path) -> None:
    html = render_report(make_run(tmp_path, {0: 0.5}, best=0))  # the preset emojiland's
    how = PRESETS["emojiland"]["sampling"]
    assert f"num_inference_steps={how['steps']}," in html
    assert f"guidance_scale={how['guidance_scale']}," in html
    assert "height=" not in html[html.index("DiffusionPipeline") :].split("</pre>")[0]


def test_a_step_kept_without_selection_is_not_called_the_best(tmp_path: Path) -> None:
    folder = make_run(tmp_path, {0: 0.7, 40: 0.6}, best=40)
    assert "scored best" in render_report(folder)
    folder.update_config(load_config(noun="dog", overrides=["validation.keep=last"]))
    html = render_report(folder)
    for words in ("scored best", "chose the step", "Choosing the step", "No step scored"):
        assert words not in html
    assert "The weights of step 40 are kept: the last ones, whatever their reward." in html


def test_a_failure_is_told(tmp_path: Path) -> None:
    folder = make_run(tmp_path, {0: 0.5, 40: 0.7}, best=40)
    folder.record({"event": "failed", "message": "the loss became <nan>"})
    html = render_report(folder)
    assert "The run ended in an error: the loss became &lt;nan&gt;" in html
    assert "was interrupted" not in html


def test_one_validation_says_nothing_of_the_training(tmp_path: Path) -> None:
    html = render_report(make_run(tmp_path, {0: 0.7}, best=0))
    assert "No step scored above" not in html


def test_columns_fall_together(tmp_path: Path) -> None:
    html = render_report(make_run(tmp_path, {0: 0.5, 40: 0.7}, best=40))
    assert html.count("data:image") == 2 + 2 + 2 * 2
    assert "step 40, chosen (last)" in html
    assert "--resume continues it" in html


def test_says_so_when_nothing_was_gained(tmp_path: Path) -> None:
    html = render_report(make_run(tmp_path, {0: 0.7, 40: 0.6}, best=0))
    assert "No step scored above the base model" in html
    assert "step 0, chosen (base)" in html
    assert "was 0" not in html


def test_page_of_a_run_that_has_hardly_begun(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", load_config(noun="dog"), ENVIRONMENT)
    html = render_report(folder)
    parse(html)
    assert "Interrupted before the first validation" in html
    assert "<svg" not in html


def test_early_stop_is_told(tmp_path: Path) -> None:
    folder = make_run(tmp_path, {0: 0.5, 40: 0.7}, best=40)
    folder.record({"event": "stopped", "step": 40, "best_step": 40, "reason": "patience"})
    assert "stopped early" in render_report(folder)


def test_large_pictures_are_inlined_smaller(tmp_path: Path) -> None:
    html = render_report(make_run(tmp_path, {0: 0.5}, best=0, size=150))
    assert "data:image/jpeg" in html
    assert 'class="pixel"' not in html
    assert 'width="150"' in html


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.44, "0.4 s"),
        (12.4, "12 s"),
        (59.6, "1 min 00 s"),
        (185.4, "3 min 05 s"),
        (7620, "2 h 07 min"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_ticks_enclose_the_values() -> None:
    assert ticks(0.47, 0.89) == [0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    low, *_, high = ticks(0.5, 0.5)
    assert low <= 0.5 <= high
    assert low < high
    assert whole_ticks(400, 8) == [0, 50, 100, 150, 200, 250, 300, 350, 400]
    assert whole_ticks(3, 8) == [0, 1, 2, 3]
    assert whole_ticks(50, 4) == [0, 20, 40]


def test_points_lie_where_they_should() -> None:
    history = [Validation(0, 0.5, 0.0, 1.0, False), Validation(80, 0.5, 0.5, 0.5, True)]
    svg = reward_curve(history, width=140, height=162)
    # x from 40 to 126; y of 0 is 124, of 1 is 24, so 0.5 is half-way
    assert '<g class="is-text"><polyline points="40.0,24.0 126.0,74.0"/>' in svg
    assert '<g class="is-image"><polyline points="40.0,124.0 126.0,74.0"/>' in svg
    assert 'x="126.0" y="14" text-anchor="end">step 80, chosen' in svg
    assert svg.count('class="picked"') == 1


def test_one_validation_has_a_chart() -> None:
    svg = reward_curve([Validation(0, 0.5, 0.5, 0.5, True)], width=300, height=200)
    assert svg.count("<circle") == 3
    assert "nan" not in svg
