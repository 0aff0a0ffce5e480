"""What the page of `rpo app` costs: a job's steps beside many visits, the first picture, memory.

    python -m benchmarks.page

1. Memory: of the server that nobody has visited yet, and at the end (resident, in MB).
2. The first picture: from "Ready" to the first thing that a waiting Chromium paints, and to the
   whole page; without Playwright or a Chromium it is left out.
3. One job of many gradient steps goes on beside the server, in windows of --seconds each: alone,
   then with --rate page loads a second, alternately, --rounds times. Steps a second in the windows
   are compared, so a machine that changes its pace hits both alike. The job never validates
   meanwhile, and what lies between two windows is not counted.

A page load is what a reload fetches: the document and both style sheets, by connections that stay
open, from this one process, whose own seconds of the processor are told. It takes them from the
job as well as the server does, so the slowdown is an upper bound. The machine should be idle.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.command import finish, make_parser
from benchmarks.provenance import machine_line, provenance, write_json
from rpo.about import ASSETS
from rpo.errors import UserError

PHOTOS = ASSETS / "emojiland" / "subjects" / "dog"
LOAD = ("/", "/theme.css", "/rpo/page.css")
CONNECTIONS = 4
PAUSE = 2.0  # seconds between windows
AS_A_BROWSER = {"Accept-Encoding": "gzip, deflate, br"}
MOST_MEMORY, MOST_SLOWDOWN, MOST_SECONDS = 400.0, 0.10, 2.0  # MB, share, to the first picture


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, int, float]]:
    """`rpo app` over a folder: its address, its process, and when it said that it is ready."""
    command = [sys.executable, "-m", "rpo", "app", str(folder), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.match(r"Ready: (http://\S+/)\n", process.stdout.readline())
        ready = time.time()
        try:
            if found is None:
                raise UserError("rpo app: did not start; see above")
            yield found[1], process.pid, ready
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def memory_of(pid: int) -> float:
    """What a process holds, in MB. UserError where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        raise UserError("/proc: is not here; this measures on Linux") from None
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1000  # type: ignore[index]


# --- the first picture -------------------------------------------------------------------


def first_picture(folder: Path) -> dict[str, float] | None:
    """Seconds from "Ready" to the first paint and to the whole page, in a browser that waits."""
    chromium = shutil.which("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    if chromium is None:
        return None
    flags = ["--no-sandbox", "--disable-gpu"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        page = browser.new_page()
        with serving(folder) as (link, _, ready):
            page.goto(link)
            page.wait_for_selector("#teach-start")
            whole = time.time() - ready
            paint = page.evaluate(
                "performance.timeOrigin"
                " + performance.getEntriesByName('first-contentful-paint')[0].startTime"
            )
        browser.close()
    return {"first_paint": paint / 1000 - ready, "whole_page": whole}


# --- a job beside visits -----------------------------------------------------------------


@contextmanager
def teaching(run: Path, steps: int, given: Sequence[str]) -> Iterator[Path]:
    """A job of so many gradient steps in a process of its own; gives the file of its events.

    given: more settings, as --set takes them.
    """
    settings = {
        "sampling.images_per_prompt": 1,
        "sampling.steps": 2,
        "validation.steps": 2,
        "validation.every": steps,
        "training.steps": steps,
    }
    command = [sys.executable, "-m", "rpo", "train", str(PHOTOS), "--noun", "dog", "--quiet"]
    command += ["--out", str(run), *(f"--set={key}={value}" for key, value in settings.items())]
    command += [f"--set={setting}" for setting in given]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            file = run / "metrics.jsonl"
            while not steps_between(file, 0, math.inf):
                if process.poll() is not None:
                    raise UserError("rpo train: ended before its first step; see above")
                time.sleep(0.2)
            yield file
            if process.poll() is not None:
                raise UserError("--seconds: the job ended first; make it longer by --steps")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(120)


def steps_between(file: Path, begin: float, end: float) -> int:
    """How many gradient steps a run ended between two times, by its events."""
    if not file.is_file():
        return 0
    lines = file.read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
    return sum(r["event"] == "step" and begin <= r["time"] < end for r in records)


class Visitors:
    """So many page loads a second, each at its time, by a few connections that stay open."""

    def __init__(self, link: str, rate: float, seconds: float) -> None:
        self._host, self._rate = link.split("/")[2], rate
        self._count = round(rate * seconds)
        self._lock = threading.Lock()
        self.waited: list[float] = []
        self.errors: list[str] = []

    def visit(self) -> None:
        """Makes all visits; returns when the last one is answered."""
        begin = time.monotonic()
        threads = [threading.Thread(target=self._some, args=(begin, k)) for k in range(CONNECTIONS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _some(self, begin: float, first: int) -> None:
        connection = http.client.HTTPConnection(self._host, timeout=60)
        for number in range(first, self._count, CONNECTIONS):
            due = begin + number / self._rate
            time.sleep(max(0.0, due - time.monotonic()))
            wrong = self._load(connection)
            with self._lock:
                self.waited.append(time.monotonic() - due)
                self.errors += [wrong] if wrong else []
        connection.close()

    @staticmethod
    def _load(connection: http.client.HTTPConnection) -> str:
        try:
            for path in LOAD:
                connection.request("GET", path, headers=AS_A_BROWSER)
                answer = connection.getresponse()
                if not answer.read() or answer.status != 200:
                    return f"{path}: {answer.status}"
        except OSError as error:
            connection.close()
            return type(error).__name__
        return ""


def measure_windows(arguments: argparse.Namespace, link: str, file: Path) -> dict[str, Any]:
    """Steps a second alone and beside visits, window by window, and how the visits fared."""
    alone, beside, waited, errors = [], [], [], []
    own = 0.0
    for _ in range(arguments.rounds):
        begin = time.time()
        time.sleep(arguments.seconds)
        alone.append(steps_between(file, begin, time.time()) / (time.time() - begin))
        time.sleep(PAUSE)
        visitors = Visitors(link, arguments.rate, arguments.seconds)
        begin, used = time.time(), time.process_time()
        visitors.visit()
        taken = time.time() - begin
        own += time.process_time() - used
        beside.append(steps_between(file, begin, begin + taken) / taken)
        waited += visitors.waited
        errors += visitors.errors
        time.sleep(PAUSE)
    return {
        "steps_a_second_alone": alone,
        "steps_a_second_beside_visits": beside,
        "slowdown": 1 - statistics.mean(beside) / statistics.mean(alone),
        "page_loads": len(waited),
        "errors": errors,
        "seconds_a_load": {"median": statistics.median(waited), "most": max(waited)},
        "visitors_processor_seconds_a_load": own / len(waited),
    }


# --- the command -------------------------------------------------------------------------


def run(arguments: argparse.Namespace) -> str:
    """Measures, writes the record, and returns the lines to print."""
    if min(arguments.seconds, arguments.rate) <= 0 or min(arguments.rounds, arguments.steps) < 1:
        raise UserError("--seconds, --rate, --rounds and --steps: all above 0")
    record: dict[str, Any] = {"provenance": provenance("cpu"), "cores": os.cpu_count()}
    record["asked"] = {k: getattr(arguments, k) for k in ("seconds", "rate", "rounds")}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "runs"
        record["first_picture"] = first_picture(folder)
        with serving(folder) as (link, pid, _):
            time.sleep(PAUSE)
            record["idle_memory_mb"] = memory_of(pid)
            with teaching(folder / "dog-1", arguments.steps, arguments.set) as file:
                record |= measure_windows(arguments, link, file)
            record["memory_after_mb"] = memory_of(pid)
    write_json(arguments.out, record)
    return "\n".join([machine_line(record["provenance"]), *_told(record), str(arguments.out)])


def _told(record: dict[str, Any]) -> Iterator[str]:
    first = record["first_picture"]
    if first is None:
        yield "first picture    not measured: no Playwright or no Chromium here"
    else:
        yield (
            f"first picture    {first['first_paint']:.2f} s after Ready (at most "
            f"{MOST_SECONDS:g}), whole page {first['whole_page']:.2f} s"
        )
    yield (
        f"memory           {record['idle_memory_mb']:.0f} MB idle (at most {MOST_MEMORY:g}), "
        f"{record['memory_after_mb']:.0f} MB after the visits"
    )
    waits = record["seconds_a_load"]
    yield (
        f"page loads       {record['page_loads']}, {len(record['errors'])} errors, median "
        f"{waits['median'] * 1000:.0f} ms, longest {waits['most'] * 1000:.0f} ms"
    )
    steps = [
        statistics.mean(record[f"steps_a_second_{name}"]) for name in ("alone", "beside_visits")
    ]
    yield (
        f"job              {steps[0]:.2f} steps a second alone, {steps[1]:.2f} beside the visits: "
        f"{record['slowdown']:.1%} slower (at most {MOST_SLOWDOWN:.0%})"
    )


def main(words: Sequence[str] | None = None) -> int:
    """The command; words: of the command line, by default its own."""
    parser = make_parser("page", __doc__, "page.json")
    parser.add_argument("--seconds", type=float, default=60, help="of a window")
    parser.add_argument("--rate", type=float, default=20, help="page loads a second")
    parser.add_argument("--rounds", type=int, default=2, help="windows of each kind")
    parser.add_argument("--steps", type=int, default=20_000, help="of the job, at most")
    return finish(run, parser.parse_args(words))


if __name__ == "__main__":
    sys.exit(main())
