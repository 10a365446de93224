"""A JSON file that somebody else may have written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flexlora.formats.json_file import json_table


def test_an_object_is_read_up_to_the_last_byte_of_the_limit(tmp_path: Path) -> None:
    (tmp_path / "x").write_text('{"a": "é"}')
    (tmp_path / "link").symlink_to("x")
    for name in ("x", "link"):
        assert json_table(tmp_path / name, limit_bytes=11) == {"a": "é"}
    with pytest.raises(ValueError, match="has more than 10 bytes"):
        json_table(tmp_path / "x", limit_bytes=10)


WRONG = [
    "",
    "{",
    "[1]",
    "3",
    "null",
    "[" * 100_000,
    '{"a": "\\ud800"}',
    '{"a": ' + "9" * 5000 + "}",
]


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
def test_anything_else_is_said_in_words(tmp_path: Path, text: str) -> None:
    (tmp_path / "x").write_text(text)
    with pytest.raises(ValueError, match=r"is not readable JSON|is not a JSON table"):
        json_table(tmp_path / "x", limit_bytes=1 << 20)


def test_what_is_no_plain_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("pipe", "device", "."):
        with pytest.raises(ValueError, match="is no plain file"):
            json_table(tmp_path / name, limit_bytes=1 << 20)
    with pytest.raises(FileNotFoundError):
        json_table(tmp_path / "gone", limit_bytes=1 << 20)
