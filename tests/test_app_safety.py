"""Attacks on the page: each is refused, told in one line, and changes nothing outside."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from app_home import PORT, Reply, ask, make_run

pytest.importorskip("gradio")

from rpo.app.home import Home
from rpo.app.safety import COOKIE, MOST_ELSE, MOST_FILES, MOST_UPLOAD, Gate
from rpo.app.server import make_app
from rpo.errors import UserError

TOKEN = "a-token-of-the-tests"
SECRET = "the secret of another folder"
HERE = f"127.0.0.1:{PORT}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with a run, links out of it, and a secret beside it."""
    root = tmp_path_factory.mktemp("outside")
    (root / "secret").mkdir()
    for name in ("secret.png", "config.toml", "environment.json", "report.html", "secret.zip"):
        (root / "secret" / name).write_text(SECRET)
    runs = root / "runs"
    home = Home.at(runs)
    run = make_run(runs, "dog-1", finished=True)
    (run / "images" / "link.png").symlink_to(root / "secret" / "secret.png")
    (run / "images" / "linked").symlink_to(root / "secret")
    (runs / "elsewhere").symlink_to(root / "secret")
    linked = make_run(runs, "dog-2")
    (linked / "report.html").unlink()
    (linked / "report.html").symlink_to(root / "secret" / "report.html")
    (home.exports / "ab~link.zip").symlink_to(root / "secret" / "secret.zip")
    return root


@pytest.fixture(scope="module")
def page(place: Path) -> Iterator[Any]:
    """The whole page on this machine's own address."""
    app, desk = make_app(Home.at(place / "runs"), "127.0.0.1", PORT)
    yield app
    desk.close()


@pytest.fixture(autouse=True)
def _nothing_outside_changes(place: Path) -> Iterator[None]:
    before = {file: file.read_bytes() for file in (place / "secret").iterdir()}
    yield
    assert {file: file.read_bytes() for file in (place / "secret").iterdir()} == before


async def greeting(scope: Any, receive: Any, send: Any) -> None:
    """An inner app that reads its body and says hello."""
    more = scope["type"] == "http"
    while more:
        more = (await receive()).get("more_body", False)
    opened = [(b"access-control-allow-origin", b"*")]
    await send({"type": "http.response.start", "status": 200, "headers": opened})
    await send({"type": "http.response.body", "body": b"hello"})


def gate(host: str = "127.0.0.1", token: str | None = None) -> Gate:
    return Gate(greeting, host, PORT, token)


def refused(reply: Reply, log: pytest.LogCaptureFixture, *statuses: int) -> None:
    """It was refused, by one line that holds no token."""
    assert reply.status in (statuses or (403,))
    assert b"hello" not in reply.body
    assert SECRET.encode() not in reply.body
    assert len(log.records) == 1
    line = log.records[0].getMessage()
    assert "\n" not in line
    assert TOKEN not in line
    log.clear()


# --- who asks ----------------------------------------------------------------------------


def test_the_page_answers_this_machine(caplog: pytest.LogCaptureFixture) -> None:
    for host in (HERE, f"localhost:{PORT}", f"[::1]:{PORT}"):
        reply = ask(gate(), headers={"host": host, "origin": f"http://{host}"})
        assert (reply.status, reply.body) == (200, b"hello")
    assert not caplog.records
    assert reply.headers["x-frame-options"] == "DENY"
    assert "access-control-allow-origin" not in reply.headers  # nobody else may read it


@pytest.mark.parametrize(
    "host",
    [
        f"evil.example:{PORT}",
        f"127.0.0.1.evil.example:{PORT}",
        f"localhost.evil.example:{PORT}",
        f"192.168.1.9:{PORT}",
        "127.0.0.1",
        "127.0.0.1:80",
        f"evil@127.0.0.1:{PORT}",
        "[::1",
        "",
    ],
)
def test_another_host_is_refused(host: str, caplog: pytest.LogCaptureFixture) -> None:
    refused(ask(gate(), headers={"host": host}), caplog)


def test_two_hosts_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    refused(ask(gate(), headers=[("host", HERE), ("host", HERE)]), caplog, 400)


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", f"http://127.0.0.1:{PORT + 1}", f"file://{HERE}", "http://["],
)
def test_another_origin_is_refused(origin: str, caplog: pytest.LogCaptureFixture) -> None:
    refused(ask(gate(), "/gradio_api/queue/join", "POST", {"origin": origin}), caplog)


def test_a_page_elsewhere_that_embeds_ours_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    for mode in ("no-cors", "cors"):
        headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": mode}
        refused(ask(gate(), headers=headers), caplog)
    posted = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    refused(ask(gate(), "/gradio_api/upload", "POST", posted), caplog)
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert ask(gate(), headers=link).status == 200  # a link to the page is no harm


def test_sockets_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(gate()({"type": "websocket", "path": "/", "headers": []}, receive, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]
    assert len(caplog.records) == 1


# --- the token ---------------------------------------------------------------------------


def test_the_link_opens_the_page_and_its_cookie_keeps_it_open() -> None:
    open_to_all = gate("0.0.0.0", TOKEN)
    lan = {"host": f"192.168.1.9:{PORT}"}
    reply = ask(open_to_all, headers=lan, query=f"token={TOKEN}")
    assert reply.status == 303
    assert reply.headers["location"] == "/"
    cookie = reply.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    shown = cookie.partition(";")[0]
    assert ask(open_to_all, headers={**lan, "cookie": shown}).body == b"hello"


@pytest.mark.parametrize(
    ("query", "cookie"),
    [
        ("", ""),
        ("token=", ""),
        ("token=wrong", ""),
        (f"token={TOKEN}x", ""),
        ("", f"{COOKIE}=wrong"),
        ("", f"{COOKIE}={TOKEN[:-1]}"),
        ("", f"other={TOKEN}"),
        ("", "\x01=;;;"),
        ("token=%ff%fe", ""),
    ],
)
def test_no_or_a_wrong_token_is_refused(
    query: str, cookie: str, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {"cookie": cookie} if cookie else {}
    refused(ask(gate("0.0.0.0", TOKEN), headers=headers, query=query), caplog, 401)


def test_a_token_is_asked_for_everywhere(caplog: pytest.LogCaptureFixture) -> None:
    for path in ("/rpo/report/dog-1", "/gradio_api/queue/data", "/theme.css", "/rpo/page.css"):
        refused(ask(gate("0.0.0.0", TOKEN), path, query=f"token={TOKEN}"), caplog, 401)


def test_a_foreign_name_is_refused_even_with_the_token(caplog: pytest.LogCaptureFixture) -> None:
    headers = {"host": f"evil.example:{PORT}", "cookie": f"{COOKIE}={TOKEN}"}
    refused(ask(gate("0.0.0.0", TOKEN), headers=headers), caplog)


# --- where to ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=../../etc/passwd",
        "/gradio_api/file/etc/passwd",
        "/gradio_api/proxy=http://evil.example/",
        "/gradio_api/stream/a/b/c/playlist.m3u8",
        "/gradio_api/custom_component/a/client/b/c",
        "/gradio_api/deep_link",
        "/gradio_api/vibe-code/",
        "/gradio_api/openapi.json",
        "/gradio_api/runs",
        "/monitoring",
        "/login",
        "/docs",
        "/svelte/../../secret",
        "/assets/../../../secret/secret.png",
        "/static/..%2f..%2fsecret",
        "/rpo/pictures/../../secret/secret.png",
        "/rpo/pictures/dog-1/../../../secret/secret.png",
        "/rpo/pictures/dog-1/..\\..\\secret.png",
        "/rpo/pictures/dog-1/a\0.png",
        "/rpo/squares/../../secret.png",
        "/rpo/download/../secret.zip",
        "/nothing",
    ],
)
def test_ways_that_are_none_are_refused(
    path: str, page: Any, caplog: pytest.LogCaptureFixture
) -> None:
    refused(ask(page, path), caplog, 404)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods_are_refused(
    method: str, page: Any, caplog: pytest.LogCaptureFixture
) -> None:
    refused(ask(page, "/rpo/report/dog-1", method), caplog, 405)


@pytest.mark.parametrize(
    "path",
    [
        "/rpo/pictures/dog-1/link.png",
        "/rpo/pictures/dog-1/linked/secret.png",
        "/rpo/pictures/dog-1//etc/passwd",
        "/rpo/pictures/dog-1/overview.png/",
        "/rpo/pictures/elsewhere/secret.png",
        "/rpo/pictures/.rpo-app/a.png",
        "/rpo/report/elsewhere",
        "/rpo/report/dog-2",
        "/rpo/report/.rpo-app",
        "/rpo/report/%2e%2e",
        "/rpo/download/ab~link.zip",
        "/rpo/download/.hidden.zip",
        "/rpo/squares/0123456789abcdef0123456789abcdef/a.png",
        "/rpo/squares/runs/a.png",
        "/rpo/examples/nothing",
    ],
)
def test_a_file_elsewhere_is_not_served(path: str, page: Any) -> None:
    reply = ask(page, path)
    assert reply.status == 404
    assert SECRET.encode() not in reply.body


def test_what_is_a_runs_own_is_served(page: Any) -> None:
    assert ask(page, "/rpo/pictures/dog-1/overview.png").headers["content-type"] == "image/png"
    report = ask(page, "/rpo/report/dog-1")
    assert report.body == b"<h1>report</h1>"
    # a stranger's report can run nothing, fetch nothing and say nothing in this page's name
    assert report.headers["content-security-policy"].endswith("sandbox")
    assert b"default-src 'none'" in report.headers["content-security-policy"].encode()


def test_the_page_is_bound_to_its_own_sources(page: Any) -> None:
    reply = ask(page)
    assert reply.status == 200
    policy = reply.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy


@pytest.mark.parametrize(
    "name",
    [
        "..",
        ".",
        "",
        "/etc",
        "../secret",
        "a/b",
        ".rpo-app",
        "elsewhere",
        "dog\n1",
        "x" * 300,
        7,
        None,
    ],
)
def test_no_field_names_a_run_elsewhere(name: Any, place: Path) -> None:
    home = Home.at(place / "runs")
    with pytest.raises(UserError, match=r"no run|a link"):
        home.run(name)
    with pytest.raises(UserError):
        home.throw_away(name)
    with pytest.raises(UserError, match="gone"):
        home.draft(name)


# --- how much ----------------------------------------------------------------------------


def part(name: str, data: bytes = b"x") -> bytes:
    head = f'--b\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    return head.encode() + data + b"\r\n"


UPLOAD = {"content-type": "multipart/form-data; boundary=b"}


def test_ten_thousand_files_are_refused(
    page: Any, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uploads = Home.at(place / "runs").uploads
    before = len(list(uploads.iterdir()))
    many = (part(f"{n}.png") for n in range(10_000))
    refused(ask(page, "/gradio_api/upload", "POST", UPLOAD, many), caplog, 413)
    assert len(list(uploads.iterdir())) - before <= MOST_FILES + 1


def test_names_of_files_that_come_in_pieces_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    whole = b"".join(part(f"{n}.png") for n in range(MOST_FILES + 1))
    pieces_of_seven = (whole[i : i + 7] for i in range(0, len(whole), 7))
    refused(ask(gate(), "/gradio_api/upload", "POST", UPLOAD, pieces_of_seven), caplog, 413)
    right = b"".join(part(f"{n}.png") for n in range(MOST_FILES))
    in_pieces = (right[i : i + 7] for i in range(0, len(right), 7))
    assert ask(gate(), "/gradio_api/upload", "POST", UPLOAD, in_pieces).status == 200


def test_two_gigabytes_are_refused_before_they_come(caplog: pytest.LogCaptureFixture) -> None:
    headers = {**UPLOAD, "content-length": str(2 * 10**9)}

    def nothing_is_read() -> Iterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    refused(ask(gate(), "/gradio_api/upload", "POST", headers, nothing_is_read()), caplog, 413)


def test_two_gigabytes_that_hide_their_length_are_cut(caplog: pytest.LogCaptureFixture) -> None:
    block, read = bytes(10**7), 0

    def endless() -> Iterator[bytes]:
        nonlocal read
        while True:
            read += len(block)
            yield block

    refused(ask(gate(), "/gradio_api/upload", "POST", UPLOAD, endless()), caplog, 413)
    assert read <= MOST_UPLOAD + 2 * len(block)


@pytest.mark.parametrize("length", ["-1", "many", str(MOST_ELSE + 1)])
def test_lengths_that_are_none_are_refused(length: str, caplog: pytest.LogCaptureFixture) -> None:
    headers = {"content-length": length}
    refused(ask(gate(), "/gradio_api/queue/join", "POST", headers), caplog, 400, 413)


def test_an_attack_cannot_write_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "rpo.app"):
        ask(gate(), "/x\nrefused 200 GET / from root: \x1b[31m")
    (line,) = [record.getMessage() for record in caplog.records]
    assert "\n" not in line
    assert "\x1b" not in line
