"""Rows become examples, whatever holds them; what is kept apart is never trained on."""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from flexlora.errors import ConfigError, DataError
from flexlora.tasks.columns import Columns
from flexlora.tasks.rows import Row, Rows
from flexlora.tasks.source import Corpus, open_source
from flexlora.tasks.task import Example, Task

ROWS = [
    {"q": f"ask {i}", "more": "" if i % 2 else f"with {i}", "a": f"yes {i}", "who": f"w{i % 3}"}
    | {"kind": "odd" if i % 2 else "even", "key": f"k{i}"}
    for i in range(12)
]
NAMED = {"prompt": ("q", "more"), "response": "a"}


def put(folder: Path, rows: Sequence[Mapping[str, Any]], kind: str, name: str = "rows") -> Path:
    """These rows as a file of this kind."""
    path = folder / f"{name}.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    elif kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path, row_group_size=5)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if kind == "tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def load(path: Path, source: str = "jsonl", **options: Any) -> Corpus:
    return open_source(source, {"path": str(path), **NAMED, **options}).load()


def all_of(tasks: Sequence[Task]) -> list[Example]:
    return [example for task in tasks for example in task.examples]


KINDS = {"jsonl": "jsonl", "csv": "csv", "tsv": "csv", "parquet": "parquet"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_rows_in_any_file_are_the_same_examples(tmp_path: Path, kind: str) -> None:
    options = {"client": "who", "category": "kind", "id": "key"}
    corpus = load(put(tmp_path, ROWS, kind), KINDS[kind], **options)
    assert corpus.unseen == ()
    assert [(task.name, len(task.examples)) for task in corpus.train] == [
        ("w0", 4),
        ("w1", 4),
        ("w2", 4),
    ]
    first, second = corpus.train[0].examples[:2]
    assert first == Example("k0", "ask 0", "with 0", ("yes 0",), "even")
    assert second == Example("k3", "ask 3", "", ("yes 3",), "odd")
    expected = load(put(tmp_path, ROWS, "jsonl", "other"), **options)
    assert corpus.fingerprint == expected.fingerprint


def test_rows_are_named_by_their_place_and_folders_are_read_in_order(tmp_path: Path) -> None:
    put(tmp_path, ROWS[6:], "jsonl", "b")
    put(tmp_path, ROWS[:6], "jsonl", "a")
    (tmp_path / "notes.txt").write_text("no rows")
    (task,) = load(tmp_path).train
    assert task.name == "all"
    assert [e.instruction for e in task.examples] == [row["q"] for row in ROWS]
    assert [task.examples[i].id for i in (0, 5, 6)] == ["a:1", "a:6", "b:1"]


def test_several_columns_make_one_input_with_blank_lines(tmp_path: Path) -> None:
    rows: list[dict[str, str | None]] = [
        {"q": "do", "x": "one", "y": None, "z": "two", "a": "ok"},
        {"q": "do", "x": " ", "y": "", "z": None, "a": "ok"},
    ]
    path = put(tmp_path, rows, "jsonl")
    examples = all_of(load(path, prompt=["q", "x", "y", "z"]).train)
    assert [e.input for e in examples] == ["one\n\ntwo", ""]
    assert all_of(load(path, prompt="q").train)[0].input == ""


def test_quotes_line_breaks_marks_and_scripts_survive(tmp_path: Path) -> None:
    text = 'a "b", c\r\nd\u2028e — ни\x85'
    for kind, source in KINDS.items():
        path = put(tmp_path, [{"q": text, "a": "好"}], kind)
        if kind != "parquet":
            path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        (example,) = all_of(load(path, source, prompt="q").train)
        assert (example.instruction, example.references) == (text, ("好",)), kind


def test_an_array_packed_files_and_marks_are_read(tmp_path: Path) -> None:
    expected = load(put(tmp_path, ROWS, "jsonl"), client="who").fingerprint
    (tmp_path / "rows.json").write_text("\ufeff" + json.dumps(ROWS, indent=2))
    array = load(tmp_path / "rows.json", client="who", id="key")
    assert array == load(tmp_path / "rows.jsonl", client="who", id="key")
    assert all_of(load(tmp_path / "rows.json").train)[1].id == "rows:2"
    (tmp_path / "empty.json").write_text(" [ ]\n")
    with pytest.raises(DataError, match=r"empty.json holds no rows"):
        load(tmp_path / "empty.json")
    packed = tmp_path / "packed"
    packed.mkdir()
    data = (tmp_path / "rows.jsonl").read_bytes()
    (packed / "rows.jsonl.gz").write_bytes(gzip.compress(data))
    for path in (packed, packed / "rows.jsonl.gz"):
        assert load(path, client="who").fingerprint == expected
    table = put(tmp_path, ROWS, "tsv")
    (packed / "rows.tsv.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" * 2 + table.read_bytes()))
    assert load(packed, "csv", client="who") == load(table, "csv", client="who")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_all_files_of_a_folder_come_under_one_limit(
    tmp_path: Path, kind: str, packed: bool
) -> None:
    size = put(tmp_path, ROWS, kind).stat().st_size
    text = (tmp_path / f"rows.{kind}").read_bytes()
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("one", "two"):
        if packed:
            (folder / f"{name}.{kind}.gz").write_bytes(gzip.compress(text))
        else:
            (folder / f"{name}.{kind}").write_bytes(text)
    assert len(all_of(load(folder, kind, client="who", max_table_gb=2 * size / 1e9).train)) > 0
    with pytest.raises(
        DataError, match=rf"two\.{kind}.*, with the files before it, comes to .* GB"
    ):
        load(folder, kind, client="who", max_table_gb=1.9 * size / 1e9)


def test_limits_can_be_raised(tmp_path: Path) -> None:
    long = [{"q": "x" * 1_000_000, "a": "y"}]
    path = put(tmp_path, long, "jsonl")
    with pytest.raises(DataError, match=r"line 1 holds 1,000,001 characters in its named col"):
        load(path, prompt="q")
    assert len(all_of(load(path, prompt="q", max_row_characters=1_000_001).train)) == 1
    assert (
        len(all_of(load(path, prompt="q", max_row_characters=10**6 + 1, max_table_gb=2e-3).train))
        == 1
    )
    wide = [{f"c{i}": "x" for i in range(20_000)} | {"q": "x", "a": "y"}]
    assert len(all_of(load(put(tmp_path, wide, "csv"), "csv", prompt="q").train)) == 1


class Counted(str):
    """A text that counts how often one like it is compared."""

    asked = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Counted.asked += 1
        return str.__eq__(self, other)


def test_a_wide_header_is_looked_at_once_a_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each name against each other would be four million comparisons here."""
    path = put(tmp_path, [{f"c{i}": "x" for i in range(2000)} | {"q": "x", "a": "y"}], "csv")
    reader = csv.reader

    def counting(*arguments: Any, **options: Any) -> Any:
        class Lines:
            lines = reader(*arguments, **options)
            line_num = property(lambda self: self.lines.line_num)

            def __iter__(self) -> Lines:
                return self

            def __next__(self) -> list[str]:
                return list(map(Counted, next(self.lines)))

        return Lines()

    monkeypatch.setattr(csv, "reader", counting)
    monkeypatch.setattr(Counted, "asked", 0)
    assert len(all_of(load(path, "csv", prompt="q").train)) == 1
    assert Counted.asked <= 20 * 2002


def test_a_csv_field_may_be_longer_than_python_expects(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    path = put(tmp_path, [{"q": "x" * 200_000, "a": "y"}], "csv")
    assert len(all_of(load(path, "csv", prompt="q").train)[0].instruction) == 200_000
    assert csv.field_size_limit() == before


def test_lists_are_references_and_choices_rank_answers(tmp_path: Path) -> None:
    rows: list[dict[str, Any]]
    rows = [{"q": "?", "a": ["red", "crimson"], "c": ["blue", "red"]}]
    (example,) = all_of(load(put(tmp_path, rows, "jsonl"), prompt="q", choices="c").train)
    assert (example.references, example.choices) == (("red", "crimson"), ("blue", "red"))
    rows = [{"q": "?", "a": "red", "c": '["blue", "red"]'}]
    (same,) = all_of(load(put(tmp_path, rows, "csv"), "csv", prompt="q", choices="c").train)
    assert (same.references, same.choices) == (("red",), ("blue", "red"))
    rows = [{"q": "?", "a": 0, "c": ["blue", "red"]}, {"q": "?", "a": 1, "c": ["blue", "red"]}]
    placed = all_of(load(put(tmp_path, rows, "jsonl"), prompt="q", choices="c").train)
    assert [e.references for e in placed] == [("blue",), ("red",)]


def test_a_place_may_be_text_where_no_choice_is_a_number(tmp_path: Path) -> None:
    """All that a CSV file holds is text."""
    as_text = [{"q": "a", "a": "1", "c": '["blue", "red"]'}]
    (same,) = all_of(load(put(tmp_path, as_text, "csv"), "csv", prompt="q", choices="c").train)
    assert same.references == ("red",)
    for text in ("2", "-1", "٤", "9" * 20):
        as_text[0]["a"] = text
        with pytest.raises(DataError, match="choices; give"):
            load(put(tmp_path, as_text, "csv"), "csv", prompt="q", choices="c")
    numbers = [{"q": "a", "a": "1", "c": '["1", "0"]'}]  # There it is the answer.
    (same,) = all_of(load(put(tmp_path, numbers, "csv"), "csv", prompt="q", choices="c").train)
    assert same.references == ("1",)


def test_whole_numbers_are_written_out(tmp_path: Path) -> None:
    rows = [{"q": 7, "a": 49, "who": 3}]
    corpus = load(put(tmp_path, rows, "jsonl"), prompt="q", client="who")
    assert corpus.train[0] == Task("3", (Example("rows:1", "7", "", ("49",)),))


def test_only_named_parquet_columns_are_read(tmp_path: Path) -> None:
    nested = [{**row, "image": {"bytes": b"\x00"}} for row in ROWS]
    path = put(tmp_path, nested, "parquet")
    assert len(all_of(load(path, "parquet").train)) == 12
    with pytest.raises(DataError, match="which has q, more, a, who, kind, key, image"):
        load(path, "parquet", response="b")


# --- what is kept apart --------------------------------------------------------------------------


def test_a_share_of_every_category_is_kept_at_the_server(tmp_path: Path) -> None:
    rows = [*ROWS, {**ROWS[0], "kind": "single", "q": "only one"}]
    corpus = load(
        put(tmp_path, rows, "jsonl"), client="who", category="kind", test_share=0.3, seed=5
    )
    assert [(t.name, len(t.examples)) for t in corpus.unseen] == [("test/even", 2), ("test/odd", 2)]
    kept, trained = all_of(corpus.unseen), all_of(corpus.train)
    assert sorted(e.id for e in kept + trained) == sorted(f"rows:{i + 1}" for i in range(13))
    assert "only one" in {e.instruction for e in trained}
    assert [task.name for task in corpus.train] == ["w0", "w1", "w2"]


def test_whole_clients_or_another_file_are_kept_unseen(tmp_path: Path) -> None:
    path = put(tmp_path, ROWS, "jsonl")
    corpus = load(path, client="who", unseen_tasks=1, seed=2)
    assert len(corpus.unseen) == 1
    assert len(corpus.train) == 2
    assert corpus.unseen[0].name not in {task.name for task in corpus.train}
    other = put(tmp_path, ROWS[:4], "jsonl", "other")
    corpus = load(path, test_path=str(other), category="kind")
    assert [t.name for t in corpus.train] == ["even", "odd"]
    assert [(t.name, len(t.examples)) for t in corpus.unseen] == [("test/even", 2), ("test/odd", 2)]
    only = load(tmp_path / "gone", test_path=str(other), train_tasks=0)
    assert (len(only.train), len(all_of(only.unseen))) == (0, 4)


def test_limits_and_notes(tmp_path: Path) -> None:
    path = put(tmp_path, [*ROWS, *({**ROWS[0], "who": "w9"} for _ in range(2))], "jsonl")
    corpus = load(path, client="who", min_examples=3, train_tasks=2, examples_per_task=2)
    assert [len(task.examples) for task in corpus.train] == [2, 2]
    (note,) = corpus.notes
    assert note.startswith("1 tasks with fewer than 3 examples were left out (such as w9)")
    corpus = load(path, examples=5, share=0.5)
    assert len(all_of(corpus.train)) == 2
    assert corpus.notes == (f"5 of the 14 rows of {path} were chosen",)
    small = {e.id for e in all_of(load(path, examples=5).train)}
    assert small < {e.id for e in all_of(load(path, examples=9).train)}
    assert small != {e.id for e in all_of(load(path, examples=5, seed=1).train)}


def test_two_loads_are_equal_and_a_changed_file_is_another(tmp_path: Path) -> None:
    path = put(tmp_path, ROWS, "jsonl")
    options: dict[str, Any] = {"client": "who", "category": "kind", "seed": 3}
    options |= {"test_share": 0.2, "examples": 10}
    assert load(path, **options) == load(path, **options)
    before = load(path, **options).fingerprint
    put(tmp_path, [*ROWS[:-1], {**ROWS[-1], "a": "no"}], "jsonl")
    assert load(path, **{**options, "examples": None}).fingerprint != before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"test_share": 0.1, "unseen_tasks": 1}, "test_share and data.unseen_tasks both say"),
        ({"test_path": "x", "test_share": 0.1}, "data.test_path and data.test_share both"),
        ({"test_share": 1.0}, "data.test_share is 1.0, expected a number above 0 and below 1"),
        ({"share": 0.0}, "data.share is 0.0, expected a number above 0 and at most 1"),
        ({"examples": 0}, "data.examples is 0, expected a whole number of 1 or more"),
        ({"messages": "m"}, "data.messages and data.prompt are both given"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        open_source("jsonl", {"path": "x", **NAMED, **options})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"unseen_tasks": 4}, "unseen_tasks is 4, but .* holds 3 tasks; lower unseen_tasks"),
        ({"unseen_tasks": 3}, "no row of .* is left to train on; keep fewer apart"),
        ({"train_tasks": 4}, "train_tasks is 4, but .* holds 3 tasks"),
        ({"min_examples": 9}, "no row of .* is left to train on"),
    ],
)
def test_more_than_there_is(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        load(put(tmp_path, ROWS, "jsonl"), client="who", **options)


# --- wrong values --------------------------------------------------------------------------------


def read(*values: dict[str, Any], **columns: Any) -> list[Example]:
    rows = [Row(f"t, line {i + 1}", f"t:{i + 1}", row) for i, row in enumerate(values)]
    names = dict.fromkeys(name for row in values for name in row)
    named = {"prompt": ("q",), "response": "a", **columns}
    return [r.example for r in Columns(**named).read(Rows("t", tuple(names), rows))]


GOOD = {"q": "do", "a": "ok", "c": ["ok", "no"], "n": "x"}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"q": None}, "t, line 2: q is null, expected text or a whole number; mend that row"),
        ({"q": True}, "t, line 2: q is true or false, expected text"),
        ({"q": 0.5}, r"t, line 2: q is a number with a decimal point \(0.5\), expected text"),
        ({"q": {"x": 1}}, "t, line 2: q is an object, expected text"),
        ({"q": 7}, r"line 2: q is a whole number \(7\), but text in t, line 1; write the whole"),
        ({"q": " "}, "t, line 2: q is blank; 1 row has nothing there: fill or remove"),
        ({"a": ["ok"]}, "t, line 2: a is a list, but text in t, line 1"),
        ({"a": "maybe"}, "t, line 2: a is 'maybe', which is none of the 2 choices; give one"),
        ({"c": ["ok"]}, "t, line 2: c holds 1 choices; give two or more, all different"),
        ({"c": ["ok", "ok"]}, "t, line 2: c holds 2 choices; give two or more, all different"),
        ({"c": ["ok", 3]}, r"t, line 2: c, item 2, is a whole number \(3\), expected text"),
        ({"c": []}, "t, line 2: c is an empty list"),
        ({"n": "x"}, "t, line 2: id 'x' is that of t, line 1 too; give each row its own"),
        ({"n": b"y"}, "t, line 2: n is bytes, expected text"),
    ],
)
def test_wrong_values_are_named_with_their_row(row: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        read(GOOD, {**GOOD, "n": "y", **row}, choices="c", id="n")


def test_wrong_choices_in_text_and_by_place() -> None:
    with pytest.raises(DataError, match=r"c: broken JSON .*; write the choices as"):
        read({**GOOD, "c": "ok|no"}, choices="c")
    with pytest.raises(DataError, match="c is text, but no list in JSON; write the choices as"):
        read({**GOOD, "c": '{"a": 1}'}, choices="c")
    with pytest.raises(DataError, match="a is 2, but there are 2 choices; give the place"):
        read({**GOOD, "a": 2}, choices="c")


def test_all_blank_rows_are_told_at_once() -> None:
    with pytest.raises(
        DataError,
        match=r"t, line 1: a is blank; 2 rows have nothing there \(also t, line 3\): fill",
    ):
        read({"q": "x", "a": ""}, {"q": "x", "a": "y"}, {"q": "x", "a": " "})


def test_columns_that_are_missing_or_not_named() -> None:
    with pytest.raises(
        DataError, match=r"column 'b' is not in t, which has q, a, c, n; set data.r"
    ):
        read(GOOD, response="b")
    with pytest.raises(
        DataError, match=r"data.prompt names no column of t, .*; set it .* a chat's"
    ):
        read(GOOD, prompt=())
    with pytest.raises(
        DataError, match=r"data.response names no column of t, which has q, a, c, n"
    ):
        read(GOOD, response="")
    with pytest.raises(DataError, match="t holds no rows"):
        read()
    with pytest.raises(DataError, match=r"c0, c1, .* c19, … \(30 in all\); set data.prompt"):
        read({f"c{i}": "x" for i in range(30)})


# --- Dolly ---------------------------------------------------------------------------------------


def test_dolly_as_it_is_on_disk(shared: Path) -> None:
    corpus = open_source(
        "dolly", {"path": str(shared / "data" / "dolly"), "test_share": 0.1, "seed": 0}
    ).load()
    kept, trained = all_of(corpus.unseen), all_of(corpus.train)
    assert len(kept) + len(trained) == 15011
    assert len({e.id for e in kept + trained}) == 15011
    assert Counter(e.category for e in kept + trained)["open_qa"] == 3742
    assert [task.name for task in corpus.train] == sorted(
        {"brainstorming", "classification", "closed_qa", "creative_writing", "general_qa"}
        | {"information_extraction", "open_qa", "summarization"}
    )
    for task, rest in zip(corpus.unseen, corpus.train, strict=True):
        assert task.name == f"test/{rest.name}"
        total = len(task.examples) + len(rest.examples)
        assert len(task.examples) == round(0.1 * total)
    assert any(e.input for e in trained)
    file = shared / "data" / "dolly" / "databricks-dolly-15k.jsonl"
    assert open_source("dolly", {"path": str(file), "test_share": 0.1}).load() == corpus


def test_no_reader_imports_what_it_does_not_need() -> None:
    script = (
        "import sys; from flexlora.tasks.source import SOURCES;"
        "[SOURCES.named(name) for name in ('jsonl', 'csv', 'parquet', 'huggingface', 'dolly')];"
        "heavy = {'pyarrow', 'datasets', 'pandas', 'transformers'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
