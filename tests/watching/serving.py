"""The server in a thread of this process, asked by raw requests: no client tidies an address."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexlora.cli.standing_words import event_words
from flexlora.watching.places import Places
from flexlora.watching.serve import bind, server_of


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str


class Serving:
    """A server that runs; `ask` sends a request as it is given."""

    def __init__(self, folders: list[Path], *, port: int = 0, token: str = "") -> None:
        self.places = Places(folders, event_words)
        self._listening = bind("127.0.0.1", port)
        self.port = int(self._listening.getsockname()[1])
        self.server = server_of(self.places, self._listening, "127.0.0.1", token)
        self._thread = threading.Thread(target=self.server.run, args=([self._listening],))
        self._thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.putrequest(method, path, skip_host=True)
            named = {"Host": f"127.0.0.1:{self.port}", **headers}
            for name, value in named.items():
                connection.putheader(name, value)
            connection.endheaders()
            answer = connection.getresponse()
            told = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, told, answer.read().decode())
        finally:
            connection.close()

    @contextmanager
    def listening(self, path: str, **headers: str) -> Iterator[Iterator[tuple[str, list[Any]]]]:
        """The events of a stream as they come: (id, messages)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            assert answer.status == 200
            assert answer.headers["content-type"].startswith("text/event-stream")
            yield _events(answer)
        finally:
            if connection.sock is not None:
                connection.sock.shutdown(socket.SHUT_RDWR)
            connection.close()

    def close(self) -> None:
        self.server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()


def _events(answer: http.client.HTTPResponse) -> Iterator[tuple[str, list[Any]]]:
    name = ""
    for raw in answer:
        line = raw.decode().rstrip("\n")
        if line.startswith("id: "):
            name = line[4:]
        elif line.startswith("data: "):
            yield name, json.loads(line[6:])


@contextmanager
def serving(*folders: Path, token: str = "") -> Iterator[Serving]:
    made = Serving(list(folders), token=token)
    try:
        yield made
    finally:
        made.close()
