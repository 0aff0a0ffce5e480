"""The page is made once: Gradio would build and compress the same text anew for every visit."""

from __future__ import annotations

from rpo.app.safety import App, Message, Receive, Send

Visit = tuple[str, bytes, bytes]  # path, Host, Accept-Encoding
PAGES = ("/", "/theme.css", "/rpo/page.css")  # what every visit fetches, and no visit changes
_MOST = 48  # answers: by the names of this machine that are used, and by encodings


class Front:
    """Answers for the page as the application behind it did first; the rest passes."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._kept: dict[Visit, list[Message]] = {}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        visit = _plain_visit(scope)
        if visit is None:
            await self._app(scope, receive, send)
            return
        answer = self._kept.get(visit)
        if answer is None:
            answer = await _answer(self._app, scope, receive)
            if answer[0].get("status") == 200 and len(self._kept) < _MOST:
                self._kept[visit] = answer
        for message in answer:
            await send(dict(message))


async def _answer(app: App, scope: Message, receive: Receive) -> list[Message]:
    """All that an application answers."""
    said: list[Message] = []

    async def keep(message: Message) -> None:
        said.append(message)

    await app(scope, receive, keep)
    return said


def _plain_visit(scope: Message) -> Visit | None:
    """What an answer to it depends on; None for other requests, and where more could change it."""
    if scope["type"] != "http" or scope["method"] != "GET" or scope["path"] not in PAGES:
        return None
    headers = {name.lower(): value for name, value in scope["headers"]}
    if scope["query_string"] or any(name.startswith(b"x-forwarded") for name in headers):
        return None
    return scope["path"], headers.get(b"host", b""), headers.get(b"accept-encoding", b"")
