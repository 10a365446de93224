"""Rows in memory are the rows of a file with the same lines, under a name of their own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from flexlora import hold_rows
from flexlora.errors import DataError
from flexlora.tasks.source import open_source

ROWS = [
    {"q": f"wie heißt {i}?\u2028", "a": ["eins", "zwei"], "who": i % 2, "x": None} for i in range(6)
]
NAMED = {"prompt": "q", "response": "a", "client": "who"}


class Dataset:
    """What a library may hold: it is iterable, and nothing more."""

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for row in ROWS:
            held = {**row, "a": np.array(row["a"]), "who": np.int64(int(str(row["who"])))}
            yield MappingProxyType(held)


def test_they_are_what_a_file_of_them_is(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    file = open_source("jsonl", {"path": str(tmp_path / "rows.jsonl"), **NAMED}).load()
    name = hold_rows(ROWS)
    held = open_source("rows", {"path": name, **NAMED}).load()
    texts = [[(x.instruction, x.references) for x in t.examples] for t in held.train]
    assert texts == [[(x.instruction, x.references) for x in t.examples] for t in file.train]
    assert [x.id for x in held.train[1].examples] == ["rows:1", "rows:3", "rows:5"]
    assert hold_rows(Dataset()) == name
    assert hold_rows(ROWS[1:]) != name


def test_what_is_held_is_a_copy() -> None:
    rows = [{"q": "a", "a": "b"}, {"q": "c", "a": "d"}]
    name = hold_rows(rows)
    rows[0]["q"] = "changed"
    (task,) = open_source("rows", {"path": name, "prompt": "q", "response": "a"}).load().train
    assert task.examples[0].instruction == "a"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({"q": ["a"]}, r"^rows are an object, expected an iterable of mappings"),
        ("rows.jsonl", r"^rows are text, expected an iterable"),
        (["q", "a"], r"^row 0 is text, .* of a pandas table give table.to_dict\('records'\)$"),
        ([{"q": "a"}, {3: "b"}], r"^row 1 has a column named by a whole number, expected text"),
        ([{"q": "a"}, {"q": float("nan")}], r"^row 1, column q holds what JSON does not have"),
        ([{"q": object()}], r"^row 0, column q holds .* \(it is of type object\); give text"),
    ],
)
def test_what_is_no_row(rows: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        hold_rows(rows)


def test_wrong_rows_are_told_together_and_unknown_names_with_a_cure() -> None:
    name = hold_rows([{"q": "a", "a": "b"}, {"q": "a"}, {"q": 1.5, "a": "b"}])
    words = rf"^2 problems in {name}: \(1\) row 1.*\(2\) row 2"
    with pytest.raises(DataError, match=words):
        open_source("rows", {"path": name, "prompt": "q", "response": "a"}).load()
    with pytest.raises(DataError, match=r"^rows:0 is no name of rows .* flexlora\.hold_rows"):
        open_source("rows", {"path": "rows:0", "prompt": "q", "response": "a"}).load()
    with pytest.raises(DataError, match="is both what trains and what is kept unseen"):
        open_source("rows", {"path": hold_rows(ROWS), "test_path": hold_rows(ROWS), **NAMED}).load()
    with pytest.raises(DataError, match="holds no rows"):
        open_source("rows", {"path": hold_rows([]), **NAMED}).load()
