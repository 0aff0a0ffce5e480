"""What every visit fetches is made once for each name of the machine and encoding."""

from __future__ import annotations

from typing import Any

import pytest
from app_home import PORT, ask

pytest.importorskip("gradio")

from rpo.app.front import PAGES, Front

HERE, THERE = f"127.0.0.1:{PORT}", f"localhost:{PORT}"


class Counting:
    """Says how many requests it has seen."""

    def __init__(self, status: int = 200) -> None:
        self.seen, self.status = 0, status

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen += 1
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": b"%d" % self.seen})


def test_the_same_document_for_all_who_come_by_one_name() -> None:
    app = Front(Counting())
    hosts = (HERE, HERE, THERE, HERE, THERE)
    assert [ask(app, headers={"host": h}).body for h in hosts] == [b"1", b"1", b"2", b"1", b"2"]


@pytest.mark.parametrize(
    ("path", "method", "headers", "query"),
    [
        ("/config", "GET", {}, ""),
        ("/", "HEAD", {}, ""),
        ("/", "GET", {}, "token=a"),
        ("/", "GET", {"x-forwarded-host": "evil.example"}, ""),
        ("/", "GET", {"X-Forwarded-Proto": "https"}, ""),
    ],
)
def test_what_could_differ_is_asked_for_each_time(
    path: str, method: str, headers: dict[str, str], query: str
) -> None:
    app = Front(Counting())
    bodies = [ask(app, path, method, headers, query=query).body for _ in range(2)]
    assert bodies == [b"1", b"2"]
    assert ask(app).body == b"3"  # and it is not kept for those who ask plainly


def test_each_file_and_each_encoding_has_its_own() -> None:
    app = Front(Counting())
    packed = {"accept-encoding": "br"}
    bodies = [ask(app, p, headers=h).body for p in PAGES for h in ({}, packed, {}, packed)]
    assert bodies == [b"1", b"2", b"1", b"2", b"3", b"4", b"3", b"4", b"5", b"6", b"5", b"6"]


def test_a_failure_is_not_kept() -> None:
    app = Front(Counting(500))
    assert [ask(app).body for _ in range(2)] == [b"1", b"2"]


def test_many_names_take_no_more_memory() -> None:
    app = Front(Counting())
    for number in range(100):
        ask(app, headers={"host": f"10.0.0.{number}:{PORT}"})
    assert len(app._kept) <= 48
