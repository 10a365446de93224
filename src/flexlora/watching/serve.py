"""One process, one address: bound before anything is served, let go of at the first signal."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from ipaddress import ip_address
from typing import final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from flexlora.errors import ConfigError, shown
from flexlora.watching.door import is_address
from flexlora.watching.places import Places
from flexlora.watching.site import site

_ENDING = 3  # Seconds that connections have to end in.
_AT_ONCE = 64  # Connections; one more is told to come again.
_ASKING = 5.0  # Seconds that a new connection has to ask in: else it keeps others out.


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0: any that is free.

    Raises ConfigError for a host that is none of this machine, a port that is in use, or one that
    only the system may take.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"--host {shown(host)} is no address of this machine ({_reason(error)}); leave it out "
            "for 127.0.0.1"
        ) from error
    family, _, _, _, address = found[0]
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # Elsewhere it would let two servers have one port.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise _unbound(host, port, error) from error
    return listening


def is_loopback(listening: socket.socket) -> bool:
    """Whether nobody on another machine can reach it."""
    return ip_address(str(listening.getsockname()[0]).partition("%")[0]).is_loopback


def address_of(listening: socket.socket, host: str) -> str:
    """What to open, without a token; of a server that listens everywhere, by the machine's name."""
    bound, port = listening.getsockname()[:2]
    everywhere = not is_address(host.partition("%")[0]) and ip_address(bound).is_unspecified
    name = host
    if everywhere or (is_address(host) and ip_address(host).is_unspecified):
        name = socket.gethostname()
    return f"http://{f'[{name}]' if ':' in name else name}:{port}/"


def server_of(
    places: Places, listening: socket.socket, host: str, token: str = ""
) -> uvicorn.Server:
    """What serves these places there: `run([listening])` until `should_exit`, or a signal."""
    port = listening.getsockname()[1]
    names = frozenset({"localhost", host, socket.gethostname()})
    server: uvicorn.Server

    def closing() -> bool:
        return server.should_exit

    app = site(places, names=names, token=token, cookie=f"flexlora_watch_{port}", closing=closing)
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http=_Prompt,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,  # It would have the token of an address.
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_AT_ONCE,
        timeout_graceful_shutdown=_ENDING,
    )
    server = uvicorn.Server(config)
    return server


@final
class _Prompt(H11Protocol):
    """A connection that brings no whole request is let go of."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._late = self.loop.call_later(_ASKING, self._drop)

    def connection_lost(self, exc: Exception | None) -> None:
        self._late.cancel()
        super().connection_lost(exc)

    def _drop(self) -> None:
        if self.cycle is None:
            self.transport.close()


def _unbound(host: str, port: int, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        return ConfigError(
            f"port {port} of {host} is in use; give another --port, or 0 for any that is free"
        )
    if error.errno == errno.EACCES:
        return ConfigError(
            f"port {port} of {host} is the system's ({_reason(error)}); give a --port above 1023"
        )
    return ConfigError(
        f"--host {shown(host)} is no address of this machine ({_reason(error)}); leave it out for "
        "127.0.0.1"
    )


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
