"""Wrong data and partitions: exit code 2, one sentence, and nothing written."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest
import tomli_w

from commands import Flexlora, assert_one_sentence
from flexlora.models import load_model
from small import SMALL
from wrong_input import Cases

ROWS = [
    {"q": f"ask {i}", "a": "yes", "who": f"w{i % 4}", "kind": f"k{i % 3}", "key": f"{i}"}
    for i in range(24)
]
NAMED = {"prompt": "q", "response": "a", "test_share": 0.2, "max_tokens": 250}
NO_COLUMNS = {"prompt": None, "response": None, "test_share": None}


@dataclass(frozen=True)
class Place:
    """An empty folder, and what may be put there."""

    folder: Path

    def put(self, content: str | bytes, name: str = "d.jsonl") -> Path:
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def rows(self, *more: object) -> Path:
        return self.put("".join(json.dumps(row) + "\n" for row in (*ROWS, *more)))

    def run(
        self, path: Path | None, source: str = "jsonl", *settings: str, **data: Any
    ) -> list[object]:
        """`flexlora run` with the small config on this file; a key that is None is left out."""
        where = {} if path is None else {"path": str(path)}
        table = {"source": source, **where, **NAMED, **data}
        table = {key: value for key, value in table.items() if value is not None}
        config = self.folder / "c.toml"
        config.write_text(tomli_w.dumps({**SMALL, "data": table}))
        flags = [flag for setting in settings for flag in ("--set", setting)]
        return ["run", config, "--out", self.folder / "out", *flags]


CASES: Cases[Place] = Cases()
case = CASES.add


# --- files ---------------------------------------------------------------------------------------

case("no path", "data.source is 'jsonl', which needs data.path; give it")(lambda p: p.run(None))
case("path missing", "gone.jsonl does not exist; set the path to a file or a folder")(
    lambda p: p.run(p.folder / "gone.jsonl")
)
case("folder without such files", "holds no .jsonl or .ndjson file")(lambda p: p.run(p.folder))
case("empty file", "d.jsonl holds no rows; give one or more")(lambda p: p.run(p.put("\n\n")))
case(
    "bad encoding", "d.jsonl, line 2: byte 0xe9 at offset 20 is not UTF-8; save the file as UTF-8"
)(lambda p: p.run(p.put(b'{"q":"a","a":"b"}\n{"\xe9":"a"}\n')))
case("bad encoding after a mark", "line 1: byte 0xff at offset 5 is not UTF-8")(
    lambda p: p.run(p.put(b'\xef\xbb\xbf{"\xff": 1}\n'))
)
case("UTF-16", "d.jsonl, line 1: byte 0xff at offset 0 is not UTF-8")(
    lambda p: p.run(p.put('{"q": "a"}\n'.encode("utf-16")))
)
case("broken line", "d.jsonl, line 2: broken JSON at column 10", "; write one whole object a line")(
    lambda p: p.run(p.put('{"q":"a","a":"b"}\n{"q":"a",\n'))
)
case("a JSON list of lists", "d.jsonl, item 2 is a list, expected an object; write objects")(
    lambda p: p.run(p.put('[{"q": "a", "a": "b"},\n[]]'))
)
case(
    "a JSON list that breaks off", "d.json, line 2: broken JSON at column 1 (Expecting ',' or ']'"
)(lambda p: p.run(p.put('[{"q": "a", "a": "b"}\n', "d.json")))
case("a JSON list and more", "d.json, line 2: broken JSON at column 1 (Extra data)")(
    lambda p: p.run(p.put('[{"q": "a", "a": "b"}]\n[]', "d.json"))
)
case("a number without end in a list", "d.json, item 2 holds a whole number of more digits")(
    lambda p: p.run(p.put('[{"q": "a", "a": "b"}, ' + "7" * 5000 + "]", "d.json"))
)
case("packed by another program", "d.jsonl is packed by zstd, no text; unpack it")(
    lambda p: p.run(p.put(b"\x28\xb5\x2f\xfd\x00"))
)
case(
    "a spreadsheet", "d.csv is a zip archive (or a spreadsheet), no text; unpack it, or save it as"
)(lambda p: p.run(p.put(b"PK\x03\x04\x00", "d.csv"), "csv"))
case("parquet as text", "d.jsonl is a parquet file, no text; set data.source to 'parquet'")(
    lambda p: p.run(p.put(b"PAR1\x15"))
)
case("gzip that breaks off", "d.jsonl.gz is packed and broken (", "); copy the file anew")(
    lambda p: p.run(p.put(gzip.compress(b"x" * 99)[:-9], "d.jsonl.gz"))
)
for source in ("huggingface", "csv", "parquet", "natural_instructions"):
    case(
        f"a path of {source} that cannot be",
        "data.path is a text of 5,000 characters",
        "give at most 4,096",
    )(
        lambda p, s=source: p.run(  # type: ignore[misc]
            Path("x" * 5000), s, **(NO_COLUMNS if s == "natural_instructions" else {})
        )
    )
case("a path that cannot be", "data.path is a text of 5,0")(
    lambda p: p.run(p.folder / ("x" * 5000))
)
case(
    "a blank before a name", "has q, ' a'; ' a' differs by blanks, marks or capitals alone: rename"
)(lambda p: p.run(p.put("q, a\n1,2\n", "d.csv"), "csv"))
case(
    "a name that is not seen", r"has q, '\u200b\u202ea'; '\u200b\u202ea' differs by blanks, marks"
)(lambda p: p.run(p.put("q,\u200b\u202ea\n1,2\n", "d.csv"), "csv"))
case(
    "a name of half a character", r"column 'a' is not in", r"which has q, '\ud800'; set data.resp"
)(lambda p: p.run(p.put('{"q": "x", "\\ud800": "y"}\n')))
case(
    "a long row",
    "line 25 holds 1,000,004 characters in its named columns, and data.max_row_characters = "
    "1,000,000 allows 1,000,000; shorten that row, or raise it",
)(lambda p: p.run(p.rows({**ROWS[0], "q": "x" * 1_000_001})))
case("a long line", "line 25 holds 1,0", " characters in all, and data.max_row_characters = 100 ")(
    lambda p: p.run(p.rows({**ROWS[0], "more": "x" * 1000}), max_row_characters=100)
)
case("a long chat", "line 1 holds 107 characters in its named columns, and data.max_row_char")(
    lambda p: p.run(
        p.put(json.dumps({"m": [{"role": "user", "content": "x" * 100}]}) + "\n"),
        prompt=None,
        response=None,
        messages="m",
        max_row_characters=50,
    )
)
case(
    "a large file", "d.jsonl comes to ", "as it is read, above data.max_table_gb = 1e-06; raise it"
)(lambda p: p.run(p.rows(), max_table_gb=1e-6))
case("a file that unpacks without end", "d.jsonl.gz, unpacked, comes to ", "= 0.001; raise it, or")(
    lambda p: p.run(p.put(gzip.compress(bytes(2_000_000)), "d.jsonl.gz"), max_table_gb=1e-3)
)
case("nested without end", "d.jsonl, line 1: nested too deep; write one whole object a line")(
    lambda p: p.run(p.put('{"q": ' + "[" * 100_000))
)
case(
    "half a character",
    "d.jsonl, line 25 holds half of a surrogate pair, which is no character; mend",
)(lambda p: p.run(p.put(p.rows().read_text() + '{"q": "a\\ud83d", "a": "b"}')))
case("a key twice", "d.jsonl, line 1: key 'q' comes twice; keep one")(
    lambda p: p.run(p.put('{"q": "a", "q": "b", "a": "c"}'))
)
case("ragged CSV", "d.csv, line 4: 3 fields, but the header names 2 columns; mend that line")(
    lambda p: p.run(p.put('q,a\n"x\ny",b\nc,d,e\n', "d.csv"), "csv")
)
case("CSV quotes", "d.csv, line 2: ", "; mend the quotes there")(
    lambda p: p.run(p.put('q,a\n"x"y,b\n', "d.csv"), "csv")
)
case("CSV quotes that never close", "d.csv, line 3: a quote opens there that never closes; mend")(
    lambda p: p.run(p.put('q,a\nx,y\n"x,b\nc,d\n', "d.csv"), "csv")
)
case("CSV columns twice", "d.csv, line 1: column 'q' comes 2 times; rename them")(
    lambda p: p.run(p.put("q,a,q\n1,2,3\n", "d.csv"), "csv")
)
case("CSV column without a name", "d.csv, line 1: column 3 of 3 has no name; name it, or take out")(
    lambda p: p.run(p.put("q,a,\n1,2,\n", "d.csv"), "csv")
)
case("CSV column of blanks", "d.csv, line 1: column 2 of 3 has no name")(
    lambda p: p.run(p.put("q, ,a\n1,2,3\n", "d.csv"), "csv")
)
case("a number without end", "d.jsonl, line 25 holds a whole number of more digits than can be")(
    lambda p: p.run(p.put(p.rows().read_text() + '{"q": "x", "a": ' + "9" * 5000 + "}\n"))
)
case("a long number where text is expected", "key is a whole number (1111", "…), but text in")(
    lambda p: p.run(p.rows({**ROWS[0], "key": int("1" * 4000)}), id="key")
)
case(
    "choices nested without end",
    "24 problems in ",
    "d.jsonl, the first 10 of which are: (1) line 1: c: nested too deep; write the choices as",
    "(10) line 10: c: nested too deep",
)(
    lambda p: p.run(
        p.put("".join(json.dumps({**row, "c": "[" * 50_000}) + "\n" for row in ROWS)), choices="c"
    )
)
case("somebody else's home", "begins with no user of this machine; correct it")(
    lambda p: p.run(Path("~nosuchuser/d.jsonl"))
)
case("CSV without rows", "d.csv holds no rows")(lambda p: p.run(p.put("q,a\n", "d.csv"), "csv"))
case("parquet truncated", "d.parquet is missing, truncated or no parquet file", "copy the file")(
    lambda p: p.run(p.put(b"PAR1 no", "d.parquet"), "parquet")
)


@case(
    "parquet that unpacks without end", "d.parquet comes to 0.00", "above data.max_table_gb = 0.005"
)
def _(place: Place) -> Sequence[object]:
    long = pyarrow.array(["x" * 10_000]).dictionary_encode()
    table = pyarrow.table({"q": pyarrow.concat_arrays([long] * 900), "a": ["y"] * 900})
    pyarrow.parquet.write_table(table, place.folder / "d.parquet")
    assert (place.folder / "d.parquet").stat().st_size < 100_000
    return place.run(place.folder / "d.parquet", "parquet", max_table_gb=0.005)


@case("parquet of times", "d.parquet: column 'q' is of type timestamp[ns]; write it as text")
def _(place: Place) -> Sequence[object]:
    path = place.folder / "d.parquet"
    times = pyarrow.array([1], type=pyarrow.timestamp("ns"))
    pyarrow.parquet.write_table(pyarrow.table({"q": times, "a": ["x"]}), path)
    return place.run(path, "parquet")


@case(
    "parquet of times inside",
    "2 problems in ",
    "d.parquet: (1) row 0: a, item 1, is of type time, expected text; mend that row (2) row 1: a",
)
def _(place: Place) -> Sequence[object]:
    path = place.folder / "d.parquet"
    kind = pyarrow.list_(pyarrow.time64("ns"))
    times = pyarrow.array([[1000], [1]], type=kind)
    pyarrow.parquet.write_table(pyarrow.table({"q": ["x", "y"], "a": times}), path)
    return place.run(path, "parquet")


@case(
    "parquet that is no UTF-8",
    "d.parquet, row 1: it cannot be read ('utf-8' codec",
    "mend that row",
)
def _(place: Place) -> Sequence[object]:
    path = place.folder / "d.parquet"
    texts = pyarrow.array([b"x", b"\xff"]).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"q": texts, "a": ["x", "y"]}), path)
    return place.run(path, "parquet")


@case("parquet columns twice", "d.parquet: column 'q' comes 2 times; rename them")
def _(place: Place) -> Sequence[object]:
    path = place.folder / "d.parquet"
    table = pyarrow.Table.from_arrays([pyarrow.array(["x"])] * 3, names=["q", "a", "q"])
    pyarrow.parquet.write_table(table, path)
    return place.run(path, "parquet")


@case("parquet of another kind", "d.parquet, row 0: q is a number with a decimal point (0.5)")
def _(place: Place) -> Sequence[object]:
    path = place.folder / "d.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"q": [0.5], "a": ["x"]}), path)
    return place.run(path, "parquet")


case("dataset missing", "does not exist; set data.path to a folder or a hub name")(
    lambda p: p.run(p.folder / "gone", "huggingface")
)
case("Dolly without its columns", "column 'context' is not in", "which has q, a, who, kind, key")(
    lambda p: p.run(p.rows(), "dolly", prompt=["q", "context"], response="a", category="kind")
)

# --- columns -------------------------------------------------------------------------------------

case("a column that is not there", "column 'answer' is not in", "which has q, a, who, kind, key;")(
    lambda p: p.run(p.rows(), response="answer")
)
case("no prompt named", "data.prompt names no column of", "or data.messages to a chat's")(
    lambda p: p.run(p.rows(), prompt=None)
)
case(
    "prompt of a wrong type",
    "data.prompt is 3, expected text in quotes or a list of text (columns of the prompt",
)(lambda p: p.run(p.rows(), "jsonl", "data.prompt=3"))
case("mixed types", "d.jsonl, line 25: a is a whole number (1), but text in", "line 1; write the")(
    lambda p: p.run(p.rows({**ROWS[0], "a": 1}))
)
case("null response", "d.jsonl, line 25: a is null, expected text")(
    lambda p: p.run(p.rows({**ROWS[0], "a": None}))
)
case("a row without the column", "d.jsonl, line 25: a is missing; mend that row")(
    lambda p: p.run(p.rows({"q": "x"}))
)
case("blank response", "d.jsonl, line 25: a is blank; 2 rows have nothing there")(
    lambda p: p.run(p.rows({**ROWS[0], "a": ""}, {**ROWS[0], "a": " "}))
)
case(
    "blank instruction, whatever stands beside it",
    "d.jsonl, line 25: q is blank; 1 row has nothing there",
)(lambda p: p.run(p.rows({**ROWS[0], "q": " "}), prompt=["q", "kind"]))
case("blank choice", "d.jsonl, line 1: c is blank; 2 rows have nothing there")(
    lambda p: p.run(p.put(2 * '{"q": "x", "a": "y", "c": ["y", "z", ""]}\n'), choices="c")
)
case("a number that may be a choice or its place", "a is 1, which may be the choice '1' or the pl")(
    lambda p: p.run(p.put('{"q": "x", "a": 1, "c": ["1", "2", "3"]}\n'), choices="c")
)
case("the answer in its prompt", "data.response is 'a', which is a column of data.prompt, too")(
    lambda p: p.run(p.rows(), prompt=["q", "a"])
)
case(
    "CSV of another separator",
    "d.csv has one column, q;a, which seems to be several parted by semicolons; part",
)(lambda p: p.run(p.put("q;a\nx;y\n", "d.csv"), "csv"))


@case(
    "a folder named as a file", "west.jsonl in ", "is a folder; put a file there, or take it away"
)
def _(p: Place) -> list[object]:
    (p.rows().parent / "west.jsonl").mkdir()
    return p.run(p.folder)


@case(
    "a link to nothing", "west.jsonl in ", "is no file (a link to what is not there?); put a file"
)
def _(p: Place) -> list[object]:
    (p.rows().parent / "west.jsonl").symlink_to("gone")
    return p.run(p.folder)


case("ids twice", "line 25: id '0' is that of", "line 1 too; give each row its own")(
    lambda p: p.run(p.rows(ROWS[0]), id="key")
)
case("a client that is null", "d.jsonl, line 25: who is null")(
    lambda p: p.run(p.rows({**ROWS[0], "who": None}), client="who")
)
for column in ("who", "kind", "key"):
    named = {"who": "client", "kind": "category", "key": "id"}[column]
    case(f"a {named} that is half a character", "line 1 holds half of a surrogate pair, which is")(
        lambda p, c=column, n=named: p.run(  # type: ignore[misc]
            p.put("".join(json.dumps({**row, c: f"\ud800{row[c]}"}) + "\n" for row in ROWS)),
            **{n: c},
        )
    )
    case(f"a {named} that is blank", f"d.jsonl, line 25: {column} is blank; 2 rows have nothing")(
        lambda p, c=column, n=named: p.run(  # type: ignore[misc]
            p.rows({**ROWS[0], c: ""}, {**ROWS[0], c: " "}), **{n: c}
        )
    )
case("no chat", "24 problems in ", "are: (1) line 1: q is text, expected a list of messages")(
    lambda p: p.run(p.rows(), prompt=None, response=None, messages="q")
)
case("chat and columns", "data.messages and data.prompt are both given")(
    lambda p: p.run(p.rows(), messages="q")
)
case("chat style without a template", "has no chat template; use the prompt style 'alpaca'")(
    lambda p: p.run(p.rows(), "jsonl", "model.prompt=chat")
)
for source in ("jsonl", "csv", "natural_instructions"):
    case(f"no path of {source}", "data.path is empty; give a file or a folder")(
        lambda p, s=source: p.run(  # type: ignore[misc]
            Path("x"), s, 'data.path=""', **(NO_COLUMNS if s == "natural_instructions" else {})
        )
    )
case("unknown prompt style", "model.prompt is 'alpacca'; did you mean 'alpaca'?")(
    lambda p: p.run(p.rows(), "jsonl", "model.prompt=alpacca")
)
case("unknown prompt style to score", "--prompt is 'alpacca'; did you mean 'alpaca'?")(
    lambda _: ["eval", "tiny", "--data", "embedded", "--prompt", "alpacca"]
)
case("no day", "model.date: 'today' is no day; write it as 2026-11-28")(
    lambda p: p.run(p.rows(), "jsonl", "model.date=today")
)
case(
    "an option of another source",
    "data.subset is not an option of 'jsonl'",
    "or set data.source to 'huggingface'",
)(lambda p: p.run(p.rows(), subset="x"))

# --- what is kept unseen -------------------------------------------------------------------------

case("nothing kept unseen", "source 'jsonl' keeps nothing apart", "set evaluation.unseen to false")(
    lambda p: p.run(p.rows(), test_share=None)
)
case("two ways", "data.test_share and data.unseen_tasks both say what is kept unseen")(
    lambda p: p.run(p.rows(), unseen_tasks=1)
)
case(
    "a share of 1",
    "data.test_share is 1.0, expected a number above 0 and below 1 (share of every category",
)(lambda p: p.run(p.rows(), "jsonl", "data.test_share=1.0"))
case("the same file to train and test", "is both what trains and what is kept unseen; name")(
    lambda p: p.run(p.rows(), test_share=None, test_path=str(p.rows()))
)
case("the same split to train and test", "(train) is both what trains and what is kept unseen")(
    lambda p: p.run(
        p.rows().parent, "huggingface", test_share=None, split="train", test_split="train"
    )
)
case("the same file by another name", "d.jsonl is both what trains and what is kept unseen; name")(
    lambda p: p.run(p.rows(), test_share=None, test_path=f"{p.rows().parent}/./d.jsonl")
)
case("a file of the folder that trains", "d.jsonl is both what trains and what is kept unseen")(
    lambda p: p.run(p.rows().parent, test_share=None, test_path=str(p.rows()))
)
case("the folder of the file that trains", "d.jsonl is both what trains and what is kept unseen")(
    lambda p: p.run(p.rows(), test_share=None, test_path=str(p.rows().parent))
)
case("a slice of the split that trains", "(train[:2]) is both what trains and what is kept unseen")(
    lambda p: p.run(p.rows().parent, "huggingface", test_share=None, test_split="train[:2]")
)
case("test file missing", "gone does not exist")(
    lambda p: p.run(p.rows(), test_share=None, test_path=str(p.folder / "gone"))
)
case("all kept unseen", "is left to train on; keep fewer apart")(
    lambda p: p.run(p.rows(), client="who", test_share=None, unseen_tasks=4)
)

# --- partitions ----------------------------------------------------------------------------------


def partition(name: str, *settings: str, **data: Any) -> Callable[[Place], Sequence[object]]:
    flags = [f"partition.by={name}", *(f"partition.{setting}" for setting in settings)]
    return lambda place: place.run(place.rows(), "jsonl", *flags, **data)


KIND = {"category": "kind"}
case("unknown partition", "partition.by is 'dirichlett'; did you mean 'dirichlet'?")(
    partition("dirichlett")
)
case("α = 0", "partition.alpha is 0.0, expected a number above 0 and at most 1,000,000")(
    partition("dirichlet", "clients=3", "alpha=0.0", **KIND)
)
case("α < 0", "partition.alpha is -1.0, expected a number above 0 and at most 1,000,000")(
    partition("dirichlet", "clients=3", "alpha=-1.0", **KIND)
)
case(
    "α beyond sense",
    "partition.alpha is 1000000000.0, expected a number above 0 and at most 1,000,000",
)(partition("dirichlet", "clients=3", "alpha=1e9", **KIND))
case("no α", "partition.by is 'dirichlet', which needs partition.alpha; give it")(
    partition("dirichlet", "clients=3", **KIND)
)
case(
    "α without Dirichlet",
    "partition.alpha is not an option of 'iid'",
    "or set partition.by to 'dirichlet'",
)(partition("iid", "clients=3", "alpha=1.0"))
case("more clients than examples", "99 clients with an example", "19 training", "clients to 19 or")(
    partition("iid", "clients=99")
)
case("more examples a client than there are", "partition.min_examples to 6 or less")(
    partition("dirichlet", "clients=3", "alpha=1.0", "min_examples=9", **KIND)
)
case("Dirichlet without a label", "training examples have no category", "name its column in data.")(
    partition("dirichlet", "clients=3", "alpha=1.0")
)
case("unknown label", "partition.label is 'categories'; did you mean 'category'?")(
    partition("dirichlet", "clients=3", "alpha=1.0", "label=categories", **KIND)
)
case("a label that never comes again", "'response' has 19 values in 19 training examples")(
    lambda p: p.run(
        p.put("".join(json.dumps({**row, "a": row["key"]}) + "\n" for row in ROWS)),
        "jsonl",
        *("partition.by=dirichlet", "partition.clients=2", "partition.alpha=1.0"),
        "partition.label=response",
    )
)
case("by client without a column", "partition.by is 'client', but data.client names no column")(
    partition("client")
)
case(
    "fewer clients than categories", "clients is 2, but there are 3 categories", "leave partition"
)(partition("category", "clients=2", **KIND))
case(
    "small clients",
    "fewer than partition.min_examples = 8 examples (client",
    "leave their examples out of the data",
)(partition("client", "min_examples=8", client="who"))


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What the datasets library prepares goes to no user's cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("name", CASES)
def test_wrong_data(
    flexlora: Flexlora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    CASES.assert_refused(name, Place(tmp_path), flexlora, untouched=[tmp_path])


def test_a_chat_under_the_wrong_style_is_found_before_anything_is_written(
    flexlora: Flexlora, tmp_path: Path
) -> None:
    chats = (
        [{"role": role, "content": f"hm {i}"} for role in ("user", "assistant") * 2]
        for i in range(30)
    )
    path = Place(tmp_path).put("".join(f"{json.dumps({'m': turns})}\n" for turns in chats))
    arguments = Place(tmp_path).run(path, prompt=None, response=None, messages="m")
    done = flexlora(*arguments)
    assert_one_sentence(done, "is a chat with 2 messages", "'alpaca' cannot show")
    assert not (tmp_path / "out").exists()


def test_the_embedded_model_has_no_template() -> None:
    assert load_model("tiny").tokenizer.chat_template is None
