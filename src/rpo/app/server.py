"""The server of the page: puts its parts together and answers on one address of this machine."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rpo.app.home import Home
from rpo.errors import UserError
from rpo.runs.locking import holder, locked

PORTS = range(7860, 7880)
TITLE = "RPO"


def make_app(home: Home, host: str, port: int, token: str | None = None) -> tuple[Any, Any]:
    """The ASGI application and its queue. Raises UserError where Gradio is missing."""
    gradio = _gradio(home)
    from fastapi import FastAPI

    from rpo.app.desk import Desk
    from rpo.app.files import routes
    from rpo.app.front import Front
    from rpo.app.jobs import Queue
    from rpo.app.page import build
    from rpo.app.safety import MOST_UPLOAD, Gate

    desk = Desk(home, Queue(home))
    outer = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    outer.router.routes.extend(routes(home))
    demo, look = build(desk, TITLE)
    gradio.mount_gradio_app(
        outer,
        demo,
        path="/",
        server_name=host,
        server_port=port,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        enable_monitoring=False,
        show_error=False,
        mcp_server=False,
        pwa=False,
        max_file_size=MOST_UPLOAD,
        blocked_paths=[str(home.root)],
        **look,
    )
    return Gate(Front(outer), host, port, token), desk


def _gradio(home: Home) -> Any:
    """Gradio, told to be silent and to keep its files in the page's folder."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["GRADIO_TEMP_DIR"] = str(home.uploads)
    os.environ.pop("GRADIO_SHARE", None)
    try:
        import gradio
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "gradio":
            raise
        raise UserError(
            "rpo app: the page needs Gradio; pip install 'rpo-diffusion[app]'"
        ) from None
    return gradio


def serve(
    folder: Path,
    host: str = "127.0.0.1",
    port: int | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Answers until Ctrl-C. Raises UserError where the folder or the address cannot be had.

    say: gets the line with the page's address, once a browser can open it.
    """
    from rpo.app.safety import is_own

    home = Home.at(folder)
    if (other := holder(home.own)) is not None:
        raise UserError(
            f"{home.root}: `rpo app` serves it already ({other}); open its page, or name another "
            "folder"
        )
    token = None if is_own(host) else secrets.token_urlsafe(32)
    bound = _bind(host, port)
    port = bound.getsockname()[1]
    link = address(host, port, token)
    with ExitStack() as stack:
        stack.callback(bound.close)
        stack.enter_context(locked(home.own))
        _run(home, host, port, token, bound, lambda: say(link))


def _run(
    home: Home,
    host: str,
    port: int,
    token: str | None,
    bound: socket.socket,
    ready: Callable[[], None],
) -> None:
    logging.getLogger("rpo.app").addHandler(logging.StreamHandler(sys.stderr))
    app, desk = make_app(home, host, port, token)
    import uvicorn

    from rpo.app.jobs import Clockwork

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.started:
                ready()

    settings = uvicorn.Config(
        app,
        log_level="error",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,  # a header must not say where a request comes from
        timeout_graceful_shutdown=2,
        ws="none",
    )
    logging.getLogger("uvicorn.error").addFilter(is_of_interest)
    clock = Clockwork(desk.queue, desk.plans.devices, desk.drawer.tick)
    clock.start()
    try:
        Server(settings).run(sockets=[bound])
    finally:
        clock.stop()
        desk.close()


def is_of_interest(record: logging.LogRecord) -> bool:
    """Whether a line belongs into the log: at the end open pages are cut off, which is no error."""
    error = record.exc_info[1] if record.exc_info else None
    cut_off = isinstance(error, asyncio.CancelledError)
    return not cut_off and "timeout graceful shutdown" not in record.getMessage()


def address(host: str, port: int, token: str | None) -> str:
    """The link that opens the page; a server that listens everywhere is named by its machine."""
    name = socket.gethostname() if host in ("0.0.0.0", "::") else host
    shown = f"[{name}]" if ":" in name else name
    return f"http://{shown}:{port}/" + (f"?token={quote(token)}" if token else "")


def _bind(host: str, port: int | None) -> socket.socket:
    """A socket at the address. Raises UserError where it cannot be had."""
    try:
        family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
    except OSError:
        raise UserError(f"--host {host}: no address of this machine; leave it out") from None
    error: OSError | None = None
    for number in PORTS if port is None else (port,):
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((host, number))
            found.listen(2048)  # at once: what is merely bound another server can bind as well
        except (OSError, OverflowError) as reason:
            found.close()
            error = reason if isinstance(reason, OSError) else None
            continue
        return found
    wanted = f"--port {port}" if port is not None else f"--port: {PORTS[0]} to {PORTS[-1]}"
    reason_given = error.strerror if error is not None else "no port"
    raise UserError(f"{wanted}: cannot be had on {host} ({reason_given}); name another")
