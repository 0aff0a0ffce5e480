"""The page's document is made once: Gradio would build the same text anew for every visit."""

from __future__ import annotations

from rpo.app.safety import App, Message, Receive, Send

_MOST = 16  # names of this machine under which the page is asked for


class Front:
    """Answers for the document as the application behind it did first; the rest passes."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._kept: dict[bytes, list[Message]] = {}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        host = _asks_for_document(scope)
        if host is None:
            await self._app(scope, receive, send)
            return
        if host not in self._kept:
            answer: list[Message] = []

            async def keep(message: Message) -> None:
                answer.append(message)

            await self._app(scope, receive, keep)
            if answer[0].get("status") != 200 or len(self._kept) >= _MOST:
                for message in answer:
                    await send(message)
                return
            self._kept[host] = answer
        for message in self._kept[host]:
            await send(dict(message))


def _asks_for_document(scope: Message) -> bytes | None:
    """The Host of a plain visit. None for other requests, and where a header could change it."""
    if scope["type"] != "http" or (scope["method"], scope["path"]) != ("GET", "/"):
        return None
    headers = {name.lower(): value for name, value in scope["headers"]}
    if scope["query_string"] or any(name.startswith(b"x-forwarded") for name in headers):
        return None
    return headers.get(b"host")
