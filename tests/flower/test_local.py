"""The socket to the trainer is one user's alone, and one packet that breaks off ends nothing."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flexlora.errors import ConfigError, WireError
from flexlora.flower.local import (
    NAME,
    ask,
    listening,
    private_folder,
    require_private,
    serve,
    short_place,
)
from flexlora.flower.packets import HEADER_LIMIT


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """With somebody who answers: header and body turned round."""

    def answer(header: bytes, body: Callable[[], bytes]) -> tuple[bytes, bytes]:
        return header[::-1], b"" if header == b"unread" else body()[::-1]

    made = private_folder(tmp_path / "c")
    with listening(made) as listener:
        threading.Thread(target=_served, args=(listener, answer), daemon=True).start()
        yield made
        listener.shutdown(socket.SHUT_RDWR)  # What waits in `accept` is woken.


def _served(listener: socket.socket, answer: Callable[..., tuple[bytes, bytes]]) -> None:
    try:
        serve(listener, answer)
    except OSError:
        return


def test_packets_come_and_go_in_any_size(folder: Path) -> None:
    body = os.urandom(3 << 20)
    assert ask(folder, b"header", body) == (b"redaeh", body[::-1])
    assert ask(folder, b"h", b"") == (b"h", b"")


def test_an_answer_comes_though_the_body_was_refused(folder: Path) -> None:
    assert ask(folder, b"unread", os.urandom(3 << 20))[0] == b"daernu"


def test_who_breaks_off_or_tells_too_much_is_forgotten(folder: Path) -> None:
    for data in (b"", b"\x05", struct.pack("<I", 9) + b"four", struct.pack("<I", HEADER_LIMIT + 1)):
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(folder / NAME))
            peer.sendall(data)
    assert ask(folder, b"ab", b"cd") == (b"ba", b"dc")


def test_no_trainer_is_told(tmp_path: Path) -> None:
    folder = private_folder(tmp_path / "c")
    with pytest.raises(WireError, match=r"no trainer answers at .*trainer\.sock .*; start it anew"):
        ask(folder, b"", b"")


def test_a_new_folder_is_closed_to_others(tmp_path: Path) -> None:
    made = private_folder(tmp_path / "a" / "b")
    assert made.stat().st_mode & 0o777 == 0o700
    assert require_private(made) == made


def test_a_temporary_folder_has_room_for_a_socket(tmp_path: Path) -> None:
    deep, short = tmp_path / ("d" * 90), Path("/tmp")
    deep.mkdir()
    assert short_place([str(deep), str(short)]) == short
    assert short_place([str(short), str(deep)]) == short
    found = short / "flexlora-12345678" / "63"  # As `flower up` names them, 64 silos at most.
    assert len(bytes(found / NAME)) <= 100


def test_no_room_for_a_socket_is_told(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    with pytest.raises(ConfigError, match=r"temporary folders .*d, .*none have .*set TMPDIR to"):
        short_place([str(deep), str(tmp_path / "none")])


def test_a_folder_that_others_can_open_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o750)
    for look in (private_folder, lambda x: ask(x, b"", b"")):
        with pytest.raises(ConfigError, match=r"can be opened by others \(mode 750\).*chmod 700"):
            look(folder)


def test_a_link_or_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(private_folder(tmp_path / "c"))
    for name in ("file", "link"):
        with pytest.raises(ConfigError, match="is no folder of its own"):
            private_folder(tmp_path / name)


def test_a_path_too_long_for_a_socket_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"too long for a socket; set client\.folder"):
        private_folder(tmp_path / ("x" * 100))


def test_another_users_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = private_folder(tmp_path / "c")
    monkeypatch.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(ConfigError, match="is another user's"):
        require_private(folder)


@pytest.mark.parametrize("module", ["local", "packets"])
def test_what_only_passes_packets_on_loads_no_model_code(module: str) -> None:
    script = (
        f"import sys, flexlora.flower.{module};"
        "heavy = {'torch', 'transformers', 'flwr', 'numpy', 'pydantic'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
