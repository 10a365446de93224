"""The addresses of the server: the page, its files, the streams, and the reports of runs."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping
from importlib import resources

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route
from starlette.types import ASGIApp

from flexlora.comparing.page import comparison_page
from flexlora.errors import FlexLoRAError
from flexlora.formats.visible import visible
from flexlora.report import report_page
from flexlora.watching.board import Board
from flexlora.watching.door import Door
from flexlora.watching.places import Places
from flexlora.watching.stream import Stream

# Scripts of the page are its own files; a report has its script inside, and nothing of this server.
_REPORT = (
    "sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_SCRIPT, _STYLE = "text/javascript", "text/css"
_SCRIPTS = ("main.js", "stream.js", "words.js", "chart.js", "round.js", "one.js", "all.js")
FILES: Mapping[str, tuple[str, str]] = {
    "page.css": ("flexlora.report", _STYLE),
    "watch.css": ("flexlora.watching", _STYLE),
    **dict.fromkeys(_SCRIPTS, ("flexlora.watching", _SCRIPT)),
}
"""What the page loads: name → the package that has it, and its kind."""


def site(
    places: Places,
    *,
    names: frozenset[str] = frozenset({"localhost"}),
    token: str = "",
    cookie: str = "flexlora_watch",
    closing: Callable[[], bool] = lambda: False,
) -> ASGIApp:
    """The whole server as an ASGI application; names, token, cookie: as of `Door`."""
    pages = _Pages(places, Stream(Board(places), closing))
    routes = [
        Route("/", pages.all),
        Route("/stream", pages.stream),
        Route("/files/{name}", pages.file),
        Route("/run/{slug}", pages.one),
        Route("/run/{slug}/stream", pages.stream),
        Route("/run/{slug}/report", pages.report),
        Route("/comparison/{slug}/report", pages.comparison),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _refused})
    app.router.redirect_slashes = False
    return Door(app, names, token, cookie)


class _Pages:
    def __init__(self, places: Places, stream: Stream) -> None:
        self.places = places
        self.events = stream
        self._writing = asyncio.Lock()  # One report at a time: each may take seconds.

    async def all(self, request: Request) -> Response:
        if len(self.places.runs) == 1 and not self.places.compared and not self.places.grows:
            return RedirectResponse(f"/run/{next(iter(self.places.runs))}", 303)
        return HTMLResponse(_file("watch.html"))

    async def one(self, request: Request) -> Response:
        self._known(request)
        return HTMLResponse(_file("watch.html"))

    async def file(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in FILES:
            raise HTTPException(404)
        package, kind = FILES[name]
        return Response(_file(name, package), media_type=kind)

    async def stream(self, request: Request) -> Response:
        slug = self._known(request) if "slug" in request.path_params else ""
        last = request.headers.get("last-event-id") or request.query_params.get("after", "")
        headers = {"X-Accel-Buffering": "no"}
        events = self.events.events(slug, last[:40])
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    async def report(self, request: Request) -> Response:
        folder = self.places.runs[self._known(request)].folder
        return await self._written(request, lambda: report_page([folder]))

    async def comparison(self, request: Request) -> Response:
        compared = self.places.compared.get(request.path_params["slug"])
        if compared is None:
            raise HTTPException(404)
        return await self._written(request, lambda: comparison_page(compared.folder))

    async def _written(self, request: Request, write: Callable[[], str]) -> Response:
        async with self._writing:
            if await request.is_disconnected():  # While others' were made.
                return PlainTextResponse("", 503)
            try:
                page = await asyncio.to_thread(write)
            except FlexLoRAError as error:
                return PlainTextResponse(f"No report: {visible(str(error))}.\n", 409)
        return HTMLResponse(page, headers={"Content-Security-Policy": _REPORT})

    def _known(self, request: Request) -> str:
        slug: str = request.path_params["slug"]
        if slug not in self.places.runs:
            raise HTTPException(404)
        return slug


async def _refused(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    words = "There is no such page here; begin at /.\n" if status == 404 else "Refused.\n"
    return PlainTextResponse(words, status)


@functools.cache
def _file(name: str, package: str = "flexlora.watching") -> str:
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")
