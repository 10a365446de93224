"""Who may ask what: GET alone, of this server by its own name, with the token where there is one.

A page of somebody else in the same browser reads nothing here: no header allows it to, and a name
of theirs that leads to this address is refused.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
from collections.abc import Collection, Mapping
from typing import final
from urllib.parse import parse_qs, quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of every answer; one that has such a header already keeps it."""
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:]+)(:\d+)?")
_QUERY = "token"


@final
class Door:
    """names: by which this server may be asked for, beside plain addresses, which no foreign name
    can lead to; token: "" where everybody on this machine may ask; cookie: what keeps it."""

    def __init__(self, app: ASGIApp, names: Collection[str], token: str, cookie: str) -> None:
        self.app = app
        self.names = {name.lower() for name in names}
        self.token = token
        self.cookie = cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # No other kind is served.

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        answer = self._refusal(scope) or self._admission(scope) or self.app
        await answer(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        host = Headers(scope=scope).get("host", "")
        if not self._is_ours(host):
            words = "This server does not go by that name; open the address that it printed."
            return PlainTextResponse(words, 421)
        if scope["method"] != "GET":
            words = "Nothing can be changed here: GET alone is answered."
            return PlainTextResponse(words, 405, {"Allow": "GET"})
        asks = Headers(scope=scope)
        mode = asks.get("sec-fetch-mode", "navigate")
        if asks.get("sec-fetch-site") == "cross-site" and mode != "navigate":
            words = "A page of somebody else may lead here, and fetches nothing."
            return PlainTextResponse(words, 403)
        return None

    def _admission(self, scope: Scope) -> Response | None:
        """None for who may come in; the token in an address becomes a cookie, and goes from there,
        so that no history and no log has it for long."""
        if not self.token:
            return None
        try:
            asked = parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=20)
        except ValueError:
            words = "This address asks for more than there is; open the one that was printed."
            return PlainTextResponse(words, 400)
        if given := asked.get(_QUERY):
            if self._is_token(given[0]):
                path = "/" + scope["path"].lstrip("/\\")  # "//name" would be another server.
                answer = RedirectResponse(quote(path), 303)
                answer.set_cookie(self.cookie, self.token, httponly=True, samesite="lax")
                return answer
        else:
            cookies = cookie_parser(Headers(scope=scope).get("cookie", ""))
            if self._is_token(cookies.get(self.cookie, "")):
                return None
        words = "This page needs its token: open the address that flexlora watch printed."
        return PlainTextResponse(words, 401)

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(errors="replace"), self.token.encode())

    def _is_ours(self, host: str) -> bool:
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = found[1].strip("[]").lower().rstrip(".")
        return name in self.names or is_address(name)


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
