"""A real Chromium in front of a real server; without the one or the other these tests skip."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from visiting import CHROMIUM, FLAGS, Server, Visit


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of this folder are the browser's."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(autouse=True)
def _no_network() -> None:
    """In place of the other tests' guard: the browser and the server talk over this machine."""


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    pytest.importorskip("gradio")
    found = Server(tmp_path_factory.mktemp("page") / "runs")
    found.start()
    yield found
    found.end()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    if not Path(CHROMIUM).is_file():
        pytest.skip(f"{CHROMIUM} is not there: install Debian's package chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any, server: Server) -> Iterator[Visit]:
    found = Visit(chromium, server)
    yield found
    assert found.foreign() == []
    assert found.errors == []
    found.context.close()
