"""A piece of network before a SuperLink: it counts what it carries, and can be cut."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import final

_BLOCK = 1 << 16


@final
class Pipe:
    """Carries bytes between `port` of this machine and another one. up: bytes from the node, down:
    to it."""

    def __init__(self, to: int) -> None:
        self.up = self.down = 0
        self._to = to
        self._whole = threading.Event()
        self._whole.set()
        self._ends: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """From now on all that comes is dropped, and nobody is told."""
        self._whole.clear()

    def mend(self) -> None:
        """What was under way is lost; new connections hold."""
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._ends.clear()
        self._whole.set()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.mend()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._carry, args=(near,), daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        self._ends.append(near)
        with near, suppress(OSError):
            if not self._whole.is_set():
                while near.recv(_BLOCK):
                    pass
                return
            with socket.create_connection(("127.0.0.1", self._to)) as far:
                self._ends.append(far)
                back = threading.Thread(target=self._pass, args=(far, near, "down"), daemon=True)
                back.start()
                self._pass(near, far, "up")
                back.join()

    def _pass(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        with suppress(OSError):
            while block := source.recv(_BLOCK):
                if self._whole.is_set():
                    sink.sendall(block)
                    setattr(self, way, getattr(self, way) + len(block))
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def pipe(to: int) -> Iterator[Pipe]:
    made = Pipe(to)
    try:
        yield made
    finally:
        made.close()
