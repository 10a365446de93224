"""The socket between a node's short-lived processes and the trainer: one user's, on one machine.

Loads no model code. A packet goes as the length of its header (4 bytes), the header, the length of
its body (8 bytes) and the body, numbers in little endian.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from flexlora.errors import ConfigError, WireError
from flexlora.flower.packets import HEADER_LIMIT
from flexlora.formats.home import expanded

NAME = "trainer.sock"
_LONGEST = 100  # Bytes of a socket's path: systems take 104 or 108.
_BLOCK = 1 << 20
_SLOW = 60.0  # Seconds between two blocks of a packet, after which a peer is given up.

Answer = Callable[[bytes, Callable[[], bytes]], tuple[bytes, bytes]]


def private_folder(path: Path | str) -> Path:
    """The folder, made if it is not there, if nobody but this user can open it.

    Raises ConfigError for one that others can, or that is another user's, and for a path too long
    for a socket in it.
    """
    folder = expanded(path).absolute()
    if len(os.fsencode(folder / NAME)) > _LONGEST:
        raise ConfigError(
            f"client folder {folder} has a path of more than {_LONGEST - len(NAME) - 1} bytes, too "
            "long for a socket; set client.folder to a shorter one"
        )
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700, parents=True)
    return require_private(folder)


def short_place(places: Sequence[str]) -> Path:
    """The first of these folders in which a temporary folder's own folders have room for a socket.

    Raises ConfigError where none has.
    """
    deepest = os.path.join("flexlora-12345678", "63", NAME)
    for place in places:
        if os.path.isdir(place) and len(os.fsencode(os.path.join(place, deepest))) <= _LONGEST:
            return Path(place)
    raise ConfigError(
        f"temporary folders {', '.join(places)} have paths too long for a socket, or are not "
        "there; set TMPDIR to a folder with a shorter one"
    )


def require_private(folder: Path) -> Path:
    """Raise ConfigError for what is no folder that this user alone can open."""
    try:
        found = folder.lstat()
    except OSError as error:
        raise ConfigError(
            f"client folder {folder} cannot be looked at ({error.strerror}); is its trainer begun?"
        ) from error
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"client folder {folder} is no folder of its own; give another one")
    if found.st_uid != os.getuid():
        raise ConfigError(f"client folder {folder} is another user's; give one of your own")
    if found.st_mode & 0o077:
        raise ConfigError(
            f"client folder {folder} can be opened by others (mode {found.st_mode & 0o777:o}), and "
            f"so could what lies in it; close it with chmod 700 {folder}"
        )
    return folder


@contextmanager
def listening(folder: Path) -> Iterator[socket.socket]:
    """A socket in the folder, which nobody else listens on; gone afterwards."""
    path = folder / NAME
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as found:
        found.bind(os.fspath(path))
        path.chmod(0o600)
        found.listen()
        try:
            yield found
        finally:
            path.unlink(missing_ok=True)


def serve(listener: socket.socket, answer: Answer) -> None:
    """Answer one packet after the other, without end. Whoever breaks off is forgotten."""
    while True:
        peer, _ = listener.accept()
        with peer, suppress(OSError, WireError):
            peer.settimeout(_SLOW)
            header = _receive_header(peer)
            _send(peer, *answer(header, partial(_receive_body, peer)))


def ask(folder: Path, header: bytes, body: bytes) -> tuple[bytes, bytes]:
    """The trainer's answer, however long it takes.

    Raises ConfigError for a folder that others can open, and WireError where no trainer answers.
    """
    path = require_private(folder) / NAME
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.connect(os.fspath(path))
            with suppress(BrokenPipeError, ConnectionResetError):
                _send(peer, header, body)  # It may answer before it has read all.
            found = _receive_header(peer)
            return found, _receive_body(peer)
    except OSError as error:
        raise WireError(
            f"no trainer answers at {path} ({error.strerror or error}); start it anew"
        ) from error


def _send(peer: socket.socket, header: bytes, body: bytes) -> None:
    peer.sendall(struct.pack("<I", len(header)) + header + struct.pack("<Q", len(body)))
    peer.sendall(body)


def _receive_header(peer: socket.socket) -> bytes:
    (size,) = struct.unpack("<I", _receive(peer, 4))
    if size > HEADER_LIMIT:
        raise WireError(f"a message has a header of {size} bytes, expected at most {HEADER_LIMIT}")
    return _receive(peer, size)


def _receive_body(peer: socket.socket) -> bytes:
    (size,) = struct.unpack("<Q", _receive(peer, 8))
    return _receive(peer, size)


def _receive(peer: socket.socket, size: int) -> bytes:
    """So many bytes; their memory grows with what comes, not with what is told."""
    found = bytearray()
    while len(found) < size:
        block = peer.recv(min(_BLOCK, size - len(found)))
        if not block:
            raise WireError(f"the other side broke off after {len(found)} of {size} bytes")
        found += block
    return bytes(found)
