"""Who may ask the page for what: a pure ASGI layer in front of everything else.

A request that is refused is answered here, and told in one line of the log. What passes is one of
the few ways in `WAYS`: all else of Gradio's, which can do far more, is not there.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import re
import secrets
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from rpo.errors import printable

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

log = logging.getLogger("rpo.app")

COOKIE = "rpo_token"
MOST_UPLOAD = 420_000_000  # bytes of one request that brings photos
MOST_FILES = 60  # of one such request
MOST_ELSE = 2_000_000  # bytes of any other request
_G = "/gradio_api"
# Method and path of all that is served. Nothing of Gradio's that reads a file by its path.
WAYS = (
    ("GET", r"/|/theme\.css|/favicon\.ico|/manifest\.json|/config/?"),
    ("GET", r"/(assets|static)/[\w./@~-]+"),
    ("GET", _G + r"/(heartbeat/\w+|queue/data|startup-events|info|app_id|upload_progress)/?"),
    ("GET", _G + r"/theme\.css"),
    ("POST", _G + r"/(queue/join|upload|cancel|reset|run/predict)/?"),
    ("GET", r"/rpo/(squares|examples|pictures|report|results|download)/.+"),
    ("GET", r"/rpo/page\.css"),
)
_ENTRIES = [(method, re.compile(path)) for method, path in WAYS]
_FILE = b"filename="  # in the head of each file of an upload
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self'; object-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class _TooMuch(Exception):
    """A body that goes on too long."""


class Gate:
    """Lets a request through to `app`, or refuses it."""

    def __init__(self, app: App, host: str, port: int, token: str | None = None) -> None:
        """token: what a browser must have shown; None where only this machine reaches the page."""
        self._app, self._port, self._token = app, port, token
        self._names = _names_of(host)
        self._any_address = token is not None  # without one, a foreign name could lead here

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._refuse_socket(scope, receive, send)
            return
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        status, reason = self._judge(scope, headers)
        if status == 303:
            await _answer(send, 303, "", {"location": "/", "set-cookie": self._cookie()})
            return
        if status:
            _tell(scope, status, reason)
            await _answer(send, status, reason)
            return
        await self._limited(scope, receive, send, headers)

    # --- judging ---------------------------------------------------------------------------

    def _judge(self, scope: Message, headers: dict[str, str]) -> tuple[int, str]:
        """The status to refuse with and why; 0 for what may pass, 303 for a token that is shown."""
        if sum(name.lower() == b"host" for name, _ in scope["headers"]) != 1:
            return 400, "one Host is needed"
        if not self._is_ours(headers.get("host", "")):
            return 403, "this page goes by another address"
        if wrong := self._foreign(scope, headers):
            return 403, wrong
        if self._token is not None:
            query = parse_qs(scope["query_string"].decode("latin-1"))
            shown = query.get("token", [""])[0]
            if scope["path"] == "/" and shown:
                right = secrets.compare_digest(shown.encode(), self._token.encode())
                return (303, "") if right else (401, "wrong token; open the link that was printed")
            if not secrets.compare_digest(_shown(headers).encode(), self._token.encode()):
                return 401, "no token; open the link that `rpo app` printed"
        return self._way(scope, headers)

    def _is_ours(self, host: str) -> bool:
        """Whether a Host is one of this page's, so that no other name leads here (rebinding)."""
        try:
            parts = urlsplit(f"//{host}")
            name, port = parts.hostname or "", parts.port
        except ValueError:
            return False
        if port != self._port or "@" in host or "/" in host:
            return False
        return name in self._names or (self._any_address and _is_address(name))

    def _foreign(self, scope: Message, headers: dict[str, str]) -> str:
        """Why a request is another site's; empty if it is not."""
        site, mode = headers.get("sec-fetch-site", ""), headers.get("sec-fetch-mode", "")
        origin, reads = headers.get("origin"), scope["method"] in ("GET", "HEAD")
        if origin is not None:
            if origin not in (f"http://{headers['host']}", f"https://{headers['host']}"):
                return "asked for by another site"
        elif site in ("cross-site", "same-site") and not (reads and mode == "navigate"):
            return "asked for by another site"
        return ""

    def _way(self, scope: Message, headers: dict[str, str]) -> tuple[int, str]:
        method, path = scope["method"], scope["path"]
        known = [entry for entry, form in _ENTRIES if form.fullmatch(path)]
        strange = "\\" in path or "\0" in path or any(p in (".", "..") for p in path.split("/"))
        if strange or not known:
            return 404, "there is no such page"
        if method not in known and not (method == "HEAD" and "GET" in known):
            return 405, "not in this way"
        try:
            length = int(headers.get("content-length", "0"))
        except ValueError:
            return 400, "a length is a number"
        if not 0 <= length <= _limit(path):
            return 413, "too much at once; fewer or smaller photos"
        return 0, ""

    def _cookie(self) -> str:
        token = quote(self._token or "", safe="")
        return f"{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/; Max-Age=2592000"

    # --- passing on ------------------------------------------------------------------------

    async def _limited(
        self, scope: Message, receive: Receive, send: Send, headers: dict[str, str]
    ) -> None:
        """Passes on; counts what comes in, and puts our headers onto what goes out."""
        room, files, tail = _limit(scope["path"]), 0, b""
        begun = cut = failed = False
        uploads = scope["path"].startswith(f"{_G}/upload")

        async def counted() -> Message:
            nonlocal room, files, tail, cut
            message = await receive()
            if message["type"] == "http.request":
                body = message.get("body", b"")
                room -= len(body)
                if uploads:
                    joined = tail + body  # a part's head may lie across two pieces
                    files, tail = files + joined.count(_FILE), joined[1 - len(_FILE) :]
                if room < 0 or files > MOST_FILES:
                    cut = True
                    raise _TooMuch
            return message

        async def marked(message: Message) -> None:
            nonlocal begun, failed
            failed = failed or (uploads and message.get("status") == 500)
            if cut or failed:  # what the app says of its own failure
                return
            if message["type"] == "http.response.start":
                begun = True
                given = {name.lower() for name, _ in message["headers"]}
                ours = [(k.encode(), v.encode()) for k, v in HEADERS.items()]
                kept = [h for h in message["headers"] if not _opens(h[0])]
                message["headers"] = kept + [h for h in ours if h[0] not in given]
            await send(message)

        try:
            await self._app(scope, counted, marked)
        except _TooMuch:
            _tell(scope, 413, "too much at once")
            if not begun:
                await _answer(send, 413, "too much at once; fewer or smaller photos")
        except Exception as error:
            if not failed:
                raise
            why = "the photos could not be taken in; try again"
            if getattr(error, "errno", None) == errno.ENOSPC:
                why = "the disk is full; free some space, then try again"
            _tell(scope, 507, why)
            await _answer(send, 507, why)

    async def _refuse_socket(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            _tell(scope, 403, "no sockets here")
            await send({"type": "websocket.close", "code": 1008})


def _limit(path: str) -> int:
    return MOST_UPLOAD if path.startswith(f"{_G}/upload") else MOST_ELSE


def _opens(name: bytes) -> bool:
    """Whether a header of an answer would let other sites read it."""
    return name.lower().startswith(b"access-control-")


def _shown(headers: dict[str, str]) -> str:
    """The token that a browser keeps; empty for none."""
    try:
        cookies = SimpleCookie(headers.get("cookie", ""))
    except CookieError:
        return ""
    return cookies[COOKIE].value if COOKIE in cookies else ""


def _names_of(host: str) -> set[str]:
    """The names under which a server at that address is asked for."""
    if is_own(host):
        return {"127.0.0.1", "localhost", "::1", host}
    return {host, socket.gethostname().lower(), "localhost", "127.0.0.1", "::1"}


def is_own(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _tell(scope: Message, status: int, reason: str) -> None:
    """One line of the log; a token in the query is not in it."""
    client = (scope.get("client") or ("?",))[0]
    path = printable(scope["path"])[:200]
    log.warning("refused %s %s %s from %s: %s", status, scope.get("method"), path, client, reason)


async def _answer(
    send: Send, status: int, text: str, more: MutableMapping[str, str] | None = None
) -> None:
    headers = {"content-type": "text/plain; charset=utf-8", "cache-control": "no-store"}
    headers |= {**HEADERS, **(more or {})}
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": text.encode()})
