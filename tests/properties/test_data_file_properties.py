"""Whatever a data file holds, reading it ends with rows or with one sentence that says why not."""

from __future__ import annotations

import gzip
import io
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from flexlora.errors import InputError
from flexlora.tasks.source import open_source

ROWS = [
    {
        "q": f"what is {i}?",
        "a": str(i % 3),
        "c": json.dumps(["0", "1", "2"]),
        "k": f"k{i % 2}",
        "m": [{"role": "user", "content": f"hi {i}"}, {"role": "assistant", "content": "yes"}],
    }
    for i in range(8)
]
TABLE = {"prompt": "q", "response": "a", "choices": "c", "category": "k"}
CHATS = {"messages": "m", "client": "k"}
PIECES = [
    *(
        b"\x00",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\r",
        b"\n",
        b"\n\n",
        b'"',
        b"'",
        b",",
        b"\t",
        b"{",
        b"}",
        b"[",
    ),
    *(
        b"]",
        b":",
        b"null",
        b"true",
        b"NaN",
        b"1e999",
        b"-0",
        b"7" * 4301,
        b"[" * 3000,
        b'{"a":' * 3000,
    ),
    *(
        b"\\ud800",
        b"\\u0000",
        b"\xe2\x80\xa8",
        b"\xe2\x80\xae",
        b"\x1f\x8b",
        b"PAR1",
        b"from",
        b"value",
    ),
    *(
        b'"tool_calls": [{}], ',
        b'"role": 7, ',
        b"tool",
        b"system",
        b'[{"text": "x"}, 3]',
        b"content",
    ),
]
VALUES: list[Any] = [
    *(None, True, 0, -1, 10**4000, 0.5, float("nan"), "", " ", "\ud800", "x" * 300, b"x".decode()),
    *(
        [],
        [[]],
        {},
        {"role": "user"},
        [None],
        ["0", "1"],
        "[1]",
        '["0", "1"]',
        "[" * 2000,
        "\u202e",
    ),
    *([{"from": "human", "value": "x"}, {"from": "gpt", "value": None}], [{"role": []}], [0, {}]),
    [{"role": "user", "content": [{"type": "text"}]}, {"role": "assistant", "tool_calls": 1}],
]


def lines(rows: Sequence[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def array(rows: Sequence[Any]) -> bytes:
    return json.dumps(rows, indent=1).encode()


def packed(rows: Sequence[Any]) -> bytes:
    return gzip.compress(lines(rows), mtime=0)


def comma(rows: Sequence[Any]) -> bytes:
    plain = [{key: str(value) for key, value in row.items()} for row in rows]
    head = ",".join(plain[0]) + "\n"
    body = (",".join(json.dumps(value) for value in row.values()) for row in plain)
    return (head + "\n".join(body)).encode("utf-8", "replace")


def parquet(rows: Sequence[Any]) -> bytes:
    """Of the rows as they were where a table cannot hold these: then only bytes change."""
    file = io.BytesIO()
    try:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), file, row_group_size=3)
    except (pyarrow.ArrowException, OverflowError, UnicodeError, TypeError):
        file = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), file, row_group_size=3)
    return file.getvalue()


KINDS: dict[str, tuple[str, Callable[[Sequence[Any]], bytes]]] = {
    "rows.jsonl": ("jsonl", lines),
    "rows.json": ("jsonl", array),
    "rows.jsonl.gz": ("jsonl", packed),
    "rows.csv": ("csv", comma),
    "rows.parquet": ("parquet", parquet),
}


def changed(rows: Sequence[Any], draw: random.Random) -> list[Any]:
    """These rows with a few values, keys or rows that nobody expects."""
    found: list[Any] = [dict(row) for row in rows]
    for _ in range(draw.randrange(3)):
        row, key = draw.choice(found), draw.choice(list(ROWS[0]))
        if isinstance(row, dict):
            row[draw.choice([key, key, f" {key}", "\ud800", ""])] = draw.choice(VALUES)
            if not draw.randrange(4):
                row.pop(key, None)
    return found


def broken(data: bytes, draw: random.Random) -> bytes:
    """These bytes with a few of them flipped, cut, doubled, or with others between."""
    for _ in range(draw.randrange(4)):
        place = draw.randrange(len(data) + 1)
        step = draw.randrange(4)
        if step == 0 and place < len(data):
            data = data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]
        elif step == 1:
            data = data[:place] + data[place + draw.randrange(20) :]
        elif step == 2:
            data = data[:place] + data[draw.randrange(place + 1) :]
        else:
            data = data[:place] + draw.choice(PIECES) + data[place:]
    return data


def try_files(folder: Path, seeds: range) -> dict[str, int]:
    """How many of these files gave rows, and how many a sentence; anything else is raised."""
    found = {"rows": 0, "sentences": 0}
    for seed in seeds:
        draw = random.Random(seed)
        name = draw.choice(list(KINDS))
        source, written = KINDS[name]
        path = folder / name
        path.write_bytes(broken(written(changed(ROWS, draw)), draw))
        columns = draw.choice([TABLE, CHATS])
        options = {"path": str(path), "seed": 0, **columns, "max_row_characters": 2_000}
        try:
            corpus = open_source(source, options).load()
        except InputError as error:
            said = str(error)
            assert "\n" not in said, (seed, said)
            assert len(said) < 3_000, (seed, said)  # Ten problems.
            said.encode()  # Can be shown.
            found["sentences"] += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}: {name}, {columns}") from error
        else:
            for task in corpus.train:
                task.name.encode()
            found["rows"] += 1
    return found


def test_files_of_any_content_are_read_or_told(tmp_path: Path) -> None:
    found = try_files(tmp_path, range(600))
    assert min(found.values()) > 60


@pytest.mark.soak
def test_many_files_of_any_content_are_read_or_told(tmp_path: Path) -> None:
    try_files(tmp_path, range(1_000, 31_000))
