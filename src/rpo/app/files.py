"""The page's own addresses: pictures, reports and downloads of runs, each by its name alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from rpo.about import ASSETS
from rpo.app.home import Home
from rpo.app.photos import Collection
from rpo.bench.records import FOLDER, PAGE
from rpo.data.bundled import bundled_names
from rpo.errors import UserError
from rpo.runs.folder import REPORT

STYLE = ASSETS / "app.css"
# A report may be a stranger's: it is shown, and can neither run nor fetch anything.
_SEALED = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox"
_FOR_A_WHILE = {"cache-control": "private, max-age=3600"}


def routes(home: Home) -> list[Route]:
    """The routes over one folder of runs."""

    def square(request: Request) -> Response:
        found = request.path_params
        file = Collection(home, found["collection"]).square_file(found["name"])
        return FileResponse(file, media_type="image/png", headers=_FOR_A_WHILE)

    def example(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in bundled_names():
            raise UserError("no such example")
        first = sorted((ASSETS / "emojiland" / "subjects" / name).glob("*.png"))[0]
        return FileResponse(first, media_type="image/png", headers=_FOR_A_WHILE)

    def picture(request: Request) -> Response:
        found = request.path_params
        file = home.file(found["run"], found["inside"], ".png")
        return FileResponse(file, media_type="image/png", headers={"cache-control": "no-cache"})

    def report(request: Request) -> Response:
        file = home.run(request.path_params["run"]) / REPORT
        if file.is_symlink() or not file.is_file():
            raise UserError("this run has no report yet")
        return FileResponse(
            file, media_type="text/html", headers={"content-security-policy": _SEALED}
        )

    def results(request: Request) -> Response:
        place = home.result(request.path_params["name"]) / FOLDER
        if place.is_symlink() or (place / PAGE).is_symlink() or not (place / PAGE).is_file():
            raise UserError("these results have no report yet")
        return FileResponse(
            place / PAGE, media_type="text/html", headers={"content-security-policy": _SEALED}
        )

    def download(request: Request) -> Response:
        name = request.path_params["name"]
        file: Path = home.exports / name
        if Path(name).name != name or name.startswith(".") or file.suffix != ".zip":
            raise UserError("no such download")
        if file.is_symlink() or not file.is_file():
            raise UserError("no such download")
        return FileResponse(file, media_type="application/zip", filename=name.partition("~")[2])

    def style(request: Request) -> Response:
        return FileResponse(STYLE, media_type="text/css", headers=_FOR_A_WHILE)

    return [
        Route("/rpo/squares/{collection}/{name}", refusing(square)),
        Route("/rpo/examples/{name}", refusing(example)),
        Route("/rpo/pictures/{run}/{inside:path}", refusing(picture)),
        Route("/rpo/report/{run}", refusing(report)),
        Route("/rpo/results/{name:path}", refusing(results)),
        Route("/rpo/download/{name}", refusing(download)),
        Route("/rpo/page.css", style),
    ]


def refusing(answer: Callable[[Request], Response]) -> Callable[[Request], Response]:
    """An endpoint whose UserError is a plain 404."""

    def endpoint(request: Request) -> Response:
        try:
            return answer(request)
        except (UserError, OSError, ValueError) as error:
            said = str(error) if isinstance(error, UserError) else "there is no such file"
            return PlainTextResponse(said, status_code=404)

    return endpoint
