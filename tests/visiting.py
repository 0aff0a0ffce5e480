"""A real server of the page, and visits to it by a real browser."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from PIL import Image

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
SECONDS = 240.0  # for what takes a few: the machine may be busy
WIDTHS = {"wide": (1280, 900), "narrow": (390, 844)}


class Server:
    """`rpo app` over a folder of runs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.link, self.process = folder, "", None
        self.port = ""

    def start(self) -> None:
        words = [sys.executable, "-m", "rpo", "app", self.folder.name, "--no-browser"]
        words += ["--port", self.port] if self.port else []
        self.process = subprocess.Popen(
            words, stdout=subprocess.PIPE, text=True, cwd=self.folder.parent
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.fullmatch(r"Ready: (http://127\.0\.0\.1:(\d+)/)\n", line)
        assert found, line
        self.link, self.port = found.groups()

    def end(self, number: int = signal.SIGTERM) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def memory(self) -> float:
        """What it holds, in MB."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1000  # type: ignore[index]


class Visit:
    """A browser's page, what it asked for, and what went wrong in it."""

    def __init__(self, chromium: Any, server: Server, width: str = "wide", **more: Any) -> None:
        size = dict(zip(("width", "height"), WIDTHS[width], strict=True))
        self.context = chromium.new_context(viewport=size, accept_downloads=True, **more)
        self.page = self.context.new_page()
        self.page.set_default_timeout(SECONDS * 1000)
        self.width, self.server = width, server
        self.asked: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.open()

    def open(self) -> None:
        self.page.goto(self.server.link)
        self.page.wait_for_selector("#teach-start")

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name).click()

    def shoot(self, name: str) -> None:
        """Keeps a picture of the page where RPO_SCREENSHOTS names a folder."""
        if folder := os.environ.get("RPO_SCREENSHOTS"):
            # also what nobody has scrolled to yet
            self.page.eval_on_selector_all("img", "all => all.forEach(i => i.loading = 'eager')")
            self.page.wait_for_timeout(1200)
            file = Path(folder) / f"app-{name}-{self.width}.png"
            taken = Image.open(io.BytesIO(self.page.screenshot(full_page=True)))
            taken.convert("RGB").quantize(256).save(file, optimize=True)  # a third of the bytes

    def foreign(self) -> list[str]:
        """What it asked of other hosts."""
        ours = (self.server.link, "data:", "blob:")
        return [url for url in self.asked if not url.startswith(ours)]


def wait_until(condition: Any, seconds: float = SECONDS) -> None:
    """Waits for a condition that is not the page's."""
    late = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < late
        time.sleep(0.2)
