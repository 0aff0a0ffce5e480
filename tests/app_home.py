"""A folder of runs for the tests of the page, and requests that go straight to its ASGI app."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from rpo.config import Config, to_toml
from rpo.events import Event, to_record

PORT = 7860


def make_run(root: Path, name: str, events: Iterable[Event] = (), finished: bool = False) -> Path:
    """A run folder with what the page reads of one: settings, events, pictures, a report."""
    path = root / name
    for folder in ("images/generated", "last", "best"):
        (path / folder).mkdir(parents=True)
    (path / "config.toml").write_text(to_toml(Config(noun="dog", subject_kind="live")))
    (path / "environment.json").write_text(json.dumps({"subject": {"folder": "", "photos": []}}))
    (path / "best" / "rpo.json").write_text(json.dumps({"step": 2}))
    summary = {"step": 4, "best_step": 2, "finished": finished}
    (path / "last" / "state.json").write_text(json.dumps(summary))
    (path / "report.html").write_text("<h1>report</h1>")
    Image.new("RGB", (8, 8), "red").save(path / "images" / "overview.png")
    write_events(path / "metrics.jsonl", events)
    return path


def write_events(file: Path, events: Iterable[Event]) -> None:
    """Adds events to a file, one a line, as a job stamps them."""
    with file.open("a", encoding="utf-8") as opened:
        for number, event in enumerate(events):
            record = to_record(replace(event, number=number))
            opened.write(json.dumps(record) + "\n")


@dataclass(frozen=True)
class Reply:
    """What an ASGI app answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def ask(
    app: Any,
    path: str = "/",
    method: str = "GET",
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    body: Iterable[bytes] = (),
    query: str = "",
) -> Reply:
    """One request, as a server would hand it over; `path` is not normalised by anything."""
    given = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
    if not any(name.lower() == "host" for name, _ in given):
        given.append(("host", f"127.0.0.1:{PORT}"))
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in given],
        "client": ("127.0.0.1", 5000),
        "server": ("127.0.0.1", PORT),
    }
    pieces, ended = iter(body), False
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        nonlocal ended
        if ended:
            await asyncio.Event().wait()  # the client stays, and says nothing more
        piece = next(pieces, None)
        ended = piece is None
        return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    start = sent[0]
    names = {k.decode().lower(): v.decode("latin-1") for k, v in start["headers"]}
    return Reply(start["status"], names, b"".join(m.get("body", b"") for m in sent[1:]))
