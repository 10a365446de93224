"""A log followed by offset: whole lines, once each, and anew where it is another one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flexlora.watching import tail
from flexlora.watching.tail import Tail


def test_each_line_comes_once_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    follower = Tail(path)
    assert follower.read() == (False, [])
    path.write_bytes(b"one\ntwo\nthr")
    assert follower.read() == (False, [b"one\n", b"two\n"])
    assert follower.read() == (False, [])
    with open(path, "ab") as file:
        file.write(b"ee\n")
    assert follower.read() == (False, [b"three\n"])
    assert follower.read() == (False, [])


def test_a_log_that_is_cut_back_or_replaced_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\ntwo\nthree\n")
    follower = Tail(path)
    follower.read()
    path.write_bytes(b"one\n")
    assert follower.read() == (True, [b"one\n"])
    other = tmp_path / "other"
    other.write_bytes(b"one\nother\n")  # As long as before and longer: a resume, then new rounds.
    os.replace(other, path)
    assert follower.read() == (False, [b"other\n"])  # It goes on from where it was.
    other.write_bytes(b"eno\nother\nmore\n")
    os.replace(other, path)
    assert follower.read() == (True, [b"eno\n", b"other\n", b"more\n"])
    path.unlink()
    assert follower.read() == (True, [])
    assert follower.read() == (False, [])


def test_what_has_not_changed_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\nhalf")
    follower = Tail(path)
    follower.read()
    opened: list[object] = []
    monkeypatch.setattr("builtins.open", lambda *a, **_: opened.append(a))
    for _ in range(20):
        assert follower.read() == (False, [])
    assert opened == []


def test_a_long_log_comes_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one with a line that is longer than a piece."""
    monkeypatch.setattr(tail, "PIECE", 16)
    lines = [b"%d" % i * (i % 30) + b"\n" for i in range(1, 60)]
    (tmp_path / "log").write_bytes(b"".join(lines))
    follower, found = Tail(tmp_path / "log"), []
    while piece := follower.read()[1]:
        found += piece
    assert found == lines
