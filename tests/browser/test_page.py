"""From photos to a download, as an artist goes: with the embedded model and a few steps."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from visiting import SECONDS, Server, Visit, wait_until

import rpo

DOG = Path(rpo.__file__).parent / "assets" / "emojiland" / "subjects" / "dog"
FEW = {  # of everything, and enough steps to stop amid them
    "sampling-steps": "2",
    "sampling-images_per_prompt": "1",
    "training-steps": "60",
    "validation-every": "20",
    "validation-steps": "2",
}


def photos(folder: Path) -> list[Path]:
    """Four good ones, of which one lies on its side and one is HEIC, and a broken one."""
    heif = pytest.importorskip("pillow_heif")
    folder.mkdir()
    sharp = Image.Resampling.NEAREST
    drawn = [Image.open(f).convert("RGB").resize((320, 320), sharp) for f in sorted(DOG.iterdir())]
    exif = Image.Exif()
    exif[0x0112] = 6  # it was taken with the telephone on its side
    drawn[0].rotate(90).save(folder / "turned.jpg", exif=exif)
    heif.from_pillow(drawn[1]).save(folder / "phone.heic")
    drawn[2].save(folder / "plain.png")
    drawn[3].save(folder / "fourth.jpg")
    whole = (folder / "fourth.jpg").read_bytes()
    (folder / "broken.jpg").write_bytes(whole[: len(whole) // 2])
    return sorted(folder.iterdir())


def unfold(page: Any, name: str) -> None:
    page.get_by_role("button", name=name).click()


def fill(page: Any, values: dict[str, str]) -> None:
    for name, value in values.items():
        page.locator(f"#set-{name} input, #set-{name} textarea").first.fill(value)


def test_the_first_picture_comes_at_once_and_the_server_is_small(
    server: Server, visit: Visit
) -> None:
    start = time.monotonic()
    visit.open()
    took = time.monotonic() - start
    assert server.memory() < 400
    assert took < 2 * 5  # 2 s on a free machine; those that run tests are not


def test_photos_in_pictures_out(
    server: Server, visit: Visit, chromium: Any, tmp_path: Path
) -> None:
    page = visit.page
    # --- photos and what is said of them
    page.set_input_files("#drop input[type=file]", photos(tmp_path / "photos"))
    page.wait_for_selector(".squares li.out")
    assert page.locator(".squares li").count() == 5
    assert "its end is missing" in page.inner_text(".squares li.out")
    assert page.locator(".squares li.out b").inner_text() == "broken.jpg"
    shown = page.locator(".squares li:not(.out) img").first
    wait_until(lambda: shown.evaluate("image => image.naturalWidth") == 256)
    page.fill("#noun input, #noun textarea", "dog")
    page.get_by_text("Taken for a living being").wait_for()

    # --- a crop
    unfold(page, "Move or remove a photo")
    before = page.locator(".squares img").evaluate_all("all => all.map(image => image.src)")
    slider = page.get_by_label("range slider for Closer")
    slider.focus()
    for _ in range(4):
        slider.press("ArrowRight")
    page.wait_for_function(
        "old => [...document.querySelectorAll('.squares img')].some(i => !old.includes(i.src))",
        arg=before,
    )

    # --- teaching
    unfold(page, "How it learns")
    page.get_by_label("lora:", exact=False).check()
    unfold(page, "Everything else")
    for section in ("How the base model draws", "The optimisation", "When and how a checkpoint"):
        page.locator(".folded button", has_text=section).click()
    fill(page, FEW)
    unfold(page, "Everything else")
    unfold(page, "How it learns")
    page.click("#teach-start")
    page.wait_for_selector(".state.running")

    # --- it is stopped, and two browsers see so, also after a reload
    page.wait_for_selector("#curve svg")
    page.wait_for_selector("#pairs img")
    page.click("#stop button, button#stop")
    page.wait_for_selector(".state.stopped")
    other = Visit(chromium, server)
    other.page.wait_for_selector(".state.stopped")
    assert other.page.locator("#job input").input_value() == "dog-1"
    other.context.close()
    visit.open()
    page.wait_for_selector(".state.stopped")
    page.wait_for_selector(".squares li")  # the photos are still there as well, and the noun
    wait_until(lambda: page.locator("#noun input, #noun textarea").input_value() == "dog")

    # --- it goes on, the server is killed, and another one finds it
    page.click("#resume button, button#resume")
    page.wait_for_selector(".state.running")
    server.end(signal.SIGKILL)
    server.start()
    visit.open()
    page.wait_for_selector(".state.running, .state.finished")
    page.wait_for_selector(".state.finished")
    page.get_by_text("chosen").first.wait_for()
    page.get_by_text("The figures").click()
    assert page.locator("#curve tr.pick").count() == 1

    # --- drawing
    visit.tab("Draw")
    page.wait_for_function("document.querySelector('#prompt textarea').value.includes('[V] dog')")
    page.locator("#skill label", has_text="Outfit").click()
    page.locator("#idea label", has_text="wearing a red hat").click()
    page.wait_for_function("document.querySelector('#prompt textarea').value.includes('red hat')")
    page.get_by_label("Also by the model").check()
    unfold(page, "Seed, guidance, steps")
    page.fill("#draw-steps input, #draw-steps textarea", "2")
    page.click("#draw-start")
    page.wait_for_selector("#gallery figure")
    assert page.locator("#gallery .two figure").count() == 4  # two pictures, each before and now
    line = page.locator("#line textarea, #line input").input_value()
    assert line.startswith("rpo generate ")
    assert "a [V] dog wearing a red hat" in line
    drawn = server.folder / "dog-1" / "images" / "generated"
    with Image.open(sorted(drawn.glob("*.png"))[0]) as picture:
        assert picture.info["prompt"] == "a [V] dog wearing a red hat"
        assert picture.info["steps"] == "2"

    # --- comparing and taking away
    shutil.copytree(server.folder / "dog-1", server.folder / "dog-2")
    visit.tab("Runs")
    page.wait_for_selector(".cards li")
    assert page.locator(".cards li").count() == 2
    for name in ("dog-1", "dog-2"):
        page.locator("#several input").click()
        page.get_by_role("option", name=name).click()
    page.keyboard.press("Escape")
    page.click("#compare-start")
    wait_until(lambda: page.locator("#compared figure").count() == 2)
    page.locator("#format label", has_text="lora:").click()
    page.click("#export-start")
    link = page.wait_for_selector("#made a")
    with page.expect_download() as downloading:
        link.click()
    file = tmp_path / downloading.value.suggested_filename
    downloading.value.save_as(file)
    assert file.name.endswith("-lora.zip")
    assert_loads(file, tmp_path / "taken")

    # --- the report opens, and a run moves to the bin
    with visit.context.expect_page() as opening:
        page.locator(".cards a").first.click()
    assert "[V] dog" in opening.value.inner_text("h1")
    opening.value.close()
    unfold(page, "Throw this run away")
    page.click("#throw")
    wait_until(lambda: page.locator(".cards li").count() == 1)
    assert len(list((server.folder / ".rpo-app" / "bin").glob("*-dog-*/config.toml"))) == 1


def assert_loads(file: Path, folder: Path) -> None:
    """The adapter changes what a plain diffusers pipeline draws."""
    with zipfile.ZipFile(file) as archive:
        archive.extractall(folder)
    (weights,) = folder.rglob("pytorch_lora_weights.safetensors")
    assert (weights.parent / "README.md").is_file()
    code = """
import sys, torch
from diffusers import DiffusionPipeline
pipeline = DiffusionPipeline.from_pretrained(sys.argv[1], torch_dtype=torch.float32)
def draw():
    return pipeline("a [V] dog", num_inference_steps=2, output_type="np", height=64, width=64,
                    generator=torch.Generator().manual_seed(0)).images
before = draw()
pipeline.load_lora_weights(sys.argv[2])
assert abs(draw() - before).max() > 1e-4
"""
    model = DOG.parents[1] / "pipeline"
    words = [sys.executable, "-c", code, str(model), str(weights.parent)]
    subprocess.run(words, check=True, timeout=SECONDS)


def test_a_narrow_page_needs_no_sideways_scrolling(chromium: Any, server: Server) -> None:
    visit = Visit(chromium, server, "narrow")
    for name in ("Teach", "Draw", "Runs"):
        visit.tab(name)
        visit.page.wait_for_timeout(800)
        over = visit.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert over <= 0
    visit.context.close()


def test_the_page_follows_the_dark(chromium: Any, server: Server) -> None:
    visit = Visit(chromium, server, color_scheme="dark")
    colour = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(int(part) for part in colour.strip("rgba()").split(",")[:3]) < 60
    visit.context.close()


def test_the_keyboard_alone_is_enough_to_begin(visit: Visit) -> None:
    page = visit.page
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        name = page.evaluate("(e => e.id || e.closest('[id]')?.id || '')(document.activeElement)")
        seen.append(name)
        if name == "example-dog":
            page.keyboard.press("Enter")
        if name == "teach-start":
            break
    assert "example-dog" in seen
    assert seen[-1] == "teach-start"
    page.wait_for_selector(".squares li")
    assert page.locator("#noun input, #noun textarea").input_value() == "dog"


def test_what_is_missing_is_said(visit: Visit) -> None:
    visit.page.click("#teach-start")
    visit.page.get_by_role("alert").filter(has_text="Drop some photos first").wait_for()


def test_axe_finds_no_serious_fault(visit: Visit) -> None:
    import os

    file = Path(os.environ.get("RPO_AXE", ""))
    if not file.is_file():
        pytest.skip("RPO_AXE names no axe.min.js: `make test-browser` fetches it where npm is")
    source = file.read_text(encoding="utf-8")
    for name in ("Teach", "Draw", "Runs"):
        visit.tab(name)
        visit.page.wait_for_timeout(1000)
        visit.page.evaluate(source)
        found = visit.page.evaluate("axe.run().then(r => r.violations)")
        serious = [
            (one["id"], [node["html"][:160] for node in one["nodes"]][:3])
            for one in found
            if one["impact"] in ("serious", "critical")
        ]
        assert serious == [], f"{name}: {json.dumps(serious, indent=1)}"


def test_another_site_learns_nothing(server: Server) -> None:
    request = urllib.request.Request(server.link, headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request)
