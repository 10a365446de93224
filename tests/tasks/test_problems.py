"""What is wrong with a file is told in one go, each problem with its place."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from flexlora.errors import DataError
from flexlora.tasks.source import Corpus, open_source

GOOD = {"q": "ask", "more": "with", "a": "yes", "who": "north", "kind": "k", "key": "1"}


def lines(*rows: object) -> str:
    """Objects as JSON, texts as they are."""
    return "".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in rows)


def load(path: Path, source: str = "jsonl", **options: Any) -> Corpus:
    given = {"prompt": ("q", "more"), "response": "a", **options}
    return open_source(source, {"path": str(path), **given}).load()


def refusal(path: Path, source: str = "jsonl", **options: Any) -> str:
    with pytest.raises(DataError) as error:
        load(path, source, **options)
    return str(error.value)


def test_problems_of_every_kind_are_told_together_and_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(
        lines(
            GOOD,
            '{"q": ',
            [],
            {**GOOD, "q": 0.5, "key": "4"},
            {**GOOD, "a": None, "key": "5"},
            {**GOOD, "a": " ", "key": "6"},
            {**GOOD, "q": "x" * 300, "key": "7"},
            GOOD,
            {**GOOD, "who": "North ", "key": "9"},
            {k: v for k, v in GOOD.items() if k != "more"},
        )
    )
    said = refusal(path, client="who", id="key", max_row_characters=200)
    assert said.startswith(f"9 problems in {path}: (1) line 2: broken JSON at column 7 ")
    wanted = [
        "(2) line 3 is a list, expected an object; write objects",
        "(3) line 4: q is a number with a decimal point (0.5), expected text",
        "(4) line 5: a is null, expected text",
        "(5) line 7 holds 313 characters in its named columns",
        "(6) line 10: more is missing; write null where it has nothing to say",
        "(7) line 6: a is blank; 1 row has nothing there",
        "(8) line 8: id '1' is that of line 1 too",
        "(9) line 9: who 'North ' differs from 'north' in line 1 by blanks, marks or cap",
    ]
    places = [said.index(words) for words in wanted]
    assert places == sorted(places)
    assert "\n" not in said


def as_jsonl(rows: list[dict[str, Any]], path: Path) -> None:
    path.write_text(lines(*rows))


def as_array(rows: list[dict[str, Any]], path: Path) -> None:
    path.write_text(json.dumps(rows))


def as_csv(rows: list[dict[str, Any]], path: Path) -> None:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(file.getvalue())


def as_parquet(rows: list[dict[str, Any]], path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


@pytest.mark.parametrize(
    ("kind", "write", "first"),
    [
        ("jsonl", as_jsonl, "line 2"),
        ("json", as_array, "item 2"),
        ("csv", as_csv, "line 3"),
        ("parquet", as_parquet, "row 1"),
    ],
)
def test_of_many_problems_ten_are_told(
    tmp_path: Path,
    kind: str,
    write: Callable[[list[dict[str, Any]], Path], None],
    first: str,
) -> None:
    path = tmp_path / f"d.{kind}"
    write([GOOD, *({**GOOD, "a": "no"} for _ in range(14))], path)
    source = {"json": "jsonl"}.get(kind, kind)
    said = refusal(path, source, choices="more")
    assert said.startswith(f"15 problems in {path}, the first 10 of which are: (1) ")
    assert f"(2) {first}: more is text, but no list" in said or f"(2) {first}: more: bro" in said
    assert "(10) " in said
    assert "(11) " not in said


def test_ragged_lines_and_quotes_are_told_together(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text('q,more,a\nx,y,z\n1,2\n1,2,3,4\n"x,y\n')
    said = refusal(path, "csv")
    assert said.startswith(f"3 problems in {path}: (1) line 3: 2 fields, but the header names 3")
    assert "(2) line 4: 4 fields" in said
    assert "(3) line 5: a quote opens there that never closes" in said


def test_all_files_of_a_folder_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("q,,a\n1,2,3\n")
    (tmp_path / "b.csv").write_text("q,more,a\n1,2\n")
    said = refusal(tmp_path, "csv")
    assert said.startswith(f"2 problems in {tmp_path}: (1) {tmp_path / 'a.csv'}, line 1: column 2")
    assert f"(2) {tmp_path / 'b.csv'}, line 2: 2 fields" in said


def test_all_columns_that_are_not_there_are_told(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(lines({"q": "x", " a": "y"}, "{"))
    said = refusal(path, client="who")
    assert said.startswith(f"4 problems in {path}: (1) line 2: broken JSON")
    for name in ("more", "a", "who"):
        assert f"column {name!r} is not in {path}, which has q, ' a'; " in said


def test_one_problem_is_told_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(lines(GOOD, {**GOOD, "a": None}))
    words = f"{path}, line 2: a is null, expected text or a whole number or a list; mend that row"
    assert refusal(path) == words


@pytest.mark.parametrize("column", ["q", "more", "a", "who", "kind", "key", "m"])
def test_a_row_without_a_named_column_is_an_error(tmp_path: Path, column: str) -> None:
    chat = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    rows = [{**GOOD, "m": chat}, {**GOOD, "m": chat, "key": "2"}]
    del rows[1][column]
    path = tmp_path / "d.jsonl"
    path.write_text(lines(*rows))
    named: dict[str, Any] = {"client": "who", "category": "kind", "id": "key"}
    if column == "m":
        named |= {"prompt": (), "response": "", "messages": "m"}
    assert refusal(path, **named).startswith(f"{path}, line 2: {column} is missing; ")


@pytest.mark.parametrize("nothing", [None, "", " \n"])
def test_a_further_prompt_column_may_say_nothing(tmp_path: Path, nothing: str | None) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(lines(GOOD, {**GOOD, "more": nothing}))
    assert [x.input for x in load(path).train[0].examples] == ["with", ""]


@pytest.mark.parametrize("key", ["client", "category"])
@pytest.mark.parametrize("other", ["North", "north ", " nor th", "n\u200borth", "NORTH\u00a0"])
def test_names_that_are_almost_alike_are_asked_about(tmp_path: Path, key: str, other: str) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(lines(GOOD, {**GOOD, "who": other}, {**GOOD, "who": other}))
    said = refusal(path, **{key: "who"})
    assert said == (
        f"{path}, line 2: who {other!r} differs from 'north' in {path}, line 1 by blanks, marks or "
        'capitals alone; write both alike, or set data.alike to "keep" if they are two'
    )
    kept = load(path, **{key: "who"}, alike="keep").train
    assert sorted(task.name for task in kept) == sorted(["north", other])


def test_marks_of_a_letter_may_be_spelt_in_two_ways(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(lines({**GOOD, "who": "caf\u00e9"}, {**GOOD, "who": "cafe\u0301"}))
    assert "line 2: who 'cafe\u0301' differs from 'caf\u00e9' in" in refusal(path, client="who")
    path.write_text(lines({**GOOD, "who": "caf\u00e9"}, {**GOOD, "who": "cafe"}))
    assert len(load(path, client="who").train) == 2
