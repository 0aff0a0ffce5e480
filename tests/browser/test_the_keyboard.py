"""The whole way without a mouse: nothing on the page can only be clicked."""

from __future__ import annotations

import shutil
from typing import Any

from visiting import Server, Visit, wait_until

MOST = 250  # presses of Tab from anywhere to anywhere
FEW = {"#set-sampling-steps": "2", "#set-sampling-images_per_prompt": "1"}
SHORT = {"#set-training-steps": "40"}
SELDOM = {"#set-validation-every": "20", "#set-validation-steps": "2"}
# What shows a hand to the mouse, and neither is, holds nor lies in what Tab reaches; an open list's
# choices are reached by its field's arrows.
ONLY_CLICKED = """() => {
  const passed = '[aria-hidden=true], .hide, [role=listbox]';
  const seen = e => e.offsetParent !== null && !e.closest(passed);
  const reached = 'a[href], button, input, textarea, select, summary, [tabindex]';
  const by_tab = e => e.tabIndex >= 0 && !e.disabled;
  const all = [...document.querySelectorAll('*')].filter(seen);
  const lone = all.filter(e => getComputedStyle(e).cursor === 'pointer'
    && ![e.closest(reached), e.closest('label')?.control, ...e.querySelectorAll(reached)]
      .some(x => x && by_tab(x)));
  return lone.map(e => e.outerHTML.slice(0, 160));
}"""


class Keys:
    """The page by its keys alone."""

    def __init__(self, page: Any) -> None:
        self.page = page

    def reach(self, selector: str, words: str = "") -> None:
        """Presses Tab until what is looked for has the focus."""
        here = "([s, w]) => {const e = document.activeElement;"
        here += "return e.matches(s) && e.textContent.includes(w)}"
        for _ in range(MOST):
            if self.page.evaluate(here, [selector, words]):
                return
            self.page.keyboard.press("Tab")
        raise AssertionError(f"Tab does not reach {selector} {words}")

    def press(self, selector: str, words: str = "", key: str = "Enter") -> None:
        self.reach(selector, words)
        self.page.keyboard.press(key)

    def unfold(self, words: str) -> None:
        self.press(".folded > button", words)

    def write(self, values: dict[str, str]) -> None:
        for place, value in values.items():
            self.reach(f"{place} input, {place} textarea")
            self.page.keyboard.press("Control+a")
            self.page.keyboard.type(value)

    def choose(self, place: str, name: str) -> None:
        """One of a dropdown's choices, by its name."""
        self.reach(f"{place} input")
        self.page.keyboard.type(name)
        self.page.get_by_role("option", name=name).wait_for()
        self.page.keyboard.press("Enter")


def test_from_photos_to_a_download_by_keys_alone(server: Server, visit: Visit) -> None:
    page, keys = visit.page, Keys(visit.page)
    keys.press("#example-teapot")
    page.wait_for_selector(".squares li")
    wait_until(lambda: page.locator("#noun input, #noun textarea").input_value() == "teapot")
    keys.unfold("How it learns")
    keys.press("input[type=checkbox][name*='lora'], input[name='lora']", key="Space")
    keys.unfold("Everything else")
    for section, values in (
        ("How the base model draws", FEW),
        ("The optimisation", SHORT),
        ("When and how a checkpoint", SELDOM),
    ):
        keys.unfold(section)
        keys.write(values)
    assert not page.evaluate(ONLY_CLICKED)
    keys.press("#teach-start")

    page.wait_for_selector("#curve svg")
    keys.press("#stop")
    page.wait_for_selector(".state.stopped")
    keys.press("#resume")
    page.wait_for_selector(".state.finished")
    keys.press("#curve summary")
    assert page.locator("#curve tr.pick").is_visible()
    assert not page.evaluate(ONLY_CLICKED)

    keys.press("[role=tab]", "Draw")
    page.wait_for_function("document.querySelector('#prompt textarea').value.includes('teapot')")
    keys.press("#skill input", key="ArrowRight")
    page.locator("#idea label", has_text="Van Gogh").first.wait_for()
    keys.press("#idea input", key="Space")
    page.wait_for_function(
        "!document.querySelector('#prompt textarea').value.includes('on the Moon')"
    )
    keys.unfold("Seed, guidance, steps")
    keys.write({"#draw-steps": "2"})
    keys.press("#beside input", key="Space")
    keys.press("#draw-start")
    page.wait_for_selector("#gallery figure")
    assert page.locator("#gallery .two figure").count() == 4
    keys.reach("#gallery a[download]")
    assert not page.evaluate(ONLY_CLICKED)

    shutil.copytree(server.folder / "teapot-1", server.folder / "teapot-2")
    keys.press("[role=tab]", "Runs")
    page.locator(".cards b", has_text="teapot-2").wait_for()
    for name in ("teapot-1", "teapot-2"):
        keys.choose("#several", name)
    page.keyboard.press("Escape")
    keys.press("#compare-start")
    wait_until(lambda: page.locator("#compared figure").count() == 2)
    keys.press("#format input", key="ArrowDown")
    keys.press("#export-start")
    page.wait_for_selector("#made a")
    with page.expect_download() as downloading:
        keys.press("#made a")
    assert downloading.value.suggested_filename == "teapot-2-lora.zip"
    before = page.locator(".cards li").count()
    keys.unfold("Throw this run away")
    keys.press("#throw")
    wait_until(lambda: page.locator(".cards li").count() == before - 1)
    assert not page.evaluate(ONLY_CLICKED)
