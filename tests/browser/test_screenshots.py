"""The pictures of docs/images: a subject taught as `rpo app` teaches it, with no setting changed.

Only where RPO_SCREENSHOTS names a folder; it takes minutes.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
from visiting import Server, Visit

pytestmark = pytest.mark.skipif("RPO_SCREENSHOTS" not in os.environ, reason="no pictures asked for")
PATIENCE = 1_800_000  # milliseconds: the machine may be busy


def test_the_steps_of_the_page(chromium: Any, server: Server) -> None:
    visit = Visit(chromium, server)
    page = visit.page
    page.set_default_timeout(PATIENCE)
    visit.shoot("1-welcome")
    page.click("#example-dog")
    page.wait_for_selector(".squares li")
    page.get_by_text("on this machine, with").wait_for()
    visit.shoot("2-photos")
    page.click("#teach-start")
    page.wait_for_selector("#pairs .now")
    visit.shoot("3-learning")
    page.wait_for_selector(".state.finished")
    visit.shoot("4-done")
    draw(visit)
    visit.shoot("5-draw")
    compare(visit)
    visit.shoot("6-runs")
    visit.context.close()
    for look in ("light", "dark"):
        narrow(chromium, server, look)


def draw(visit: Visit) -> None:
    page = visit.page
    visit.tab("Draw")
    page.wait_for_function("document.querySelector('#prompt textarea').value.includes('[V] dog')")
    page.get_by_label("Also by the model").check()
    for where in ("in front of a waterfall", "under a night sky full of stars"):
        before = page.locator("#gallery li").count()
        page.fill("#prompt textarea", f"a [V] dog {where}")
        page.click("#draw-start")
        page.wait_for_function(
            "n => document.querySelectorAll('#gallery li').length == n + 2", arg=before
        )


def compare(visit: Visit) -> None:
    page = visit.page
    visit.tab("Runs")
    page.wait_for_selector(".cards img")
    page.locator("#format label", has_text="diffusers:").click()
    page.click("#export-start")
    page.wait_for_selector("#made a")


def narrow(chromium: Any, server: Server, look: Any) -> None:
    visit = Visit(chromium, server, "narrow", color_scheme=look)
    visit.page.set_default_timeout(PATIENCE)
    end = "" if look == "light" else "-dark"
    visit.page.wait_for_selector("#curve svg")
    visit.shoot(f"teach{end}")
    visit.tab("Draw")
    visit.page.wait_for_selector("#gallery figure")
    visit.shoot(f"draw{end}")
    visit.tab("Runs")
    visit.page.wait_for_selector(".cards img")
    visit.shoot(f"runs{end}")
    visit.context.close()
