from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flexlora.errors import ConfigError, DataError
from flexlora.tasks.natural_instructions import NaturalInstructions
from flexlora.tasks.source import Corpus

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

Tasks = Mapping[str, dict[str, Any] | str]
Build = Callable[..., Path]


def document(count: int = 3, **changes: Any) -> dict[str, Any]:
    return {
        "Definition": ["Say it. "],
        "Categories": ["Saying", "Other"],
        "Instances": [{"input": f"in {i}", "output": [f"out {i}"]} for i in range(count)],
        **changes,
    }


@pytest.fixture
def official(tmp_path: Path) -> Build:
    """Build the official layout: name → document, or text to be written as it is."""

    def build(train: Tasks, test: Tasks | None = None, absent: tuple[str, ...] = ()) -> Path:
        (tmp_path / "tasks").mkdir()
        (tmp_path / "splits" / "default").mkdir(parents=True)
        for split, tasks in (("train", {**train}), ("test", test or {"task9_z": document()})):
            listed = [*tasks, *(absent if split == "train" else ())]
            (tmp_path / "splits" / "default" / f"{split}_tasks.txt").write_text("\n".join(listed))
            for name, content in tasks.items():
                text = content if isinstance(content, str) else json.dumps(content, indent=1)
                (tmp_path / "tasks" / f"{name}.json").write_text(text)
        return tmp_path

    return build


@pytest.fixture
def parquet(tmp_path: Path) -> Build:
    """Build the parquet layout with small row groups, tasks that straddle them and null ids."""

    def build(
        counts: Sequence[tuple[str, int]] = (("task1_a", 5), ("task2_b", 4)), **columns: Any
    ) -> Path:
        rows = [(name, i) for name, count in counts for i in range(count)]
        table = {
            "task": [name for name, _ in rows],
            "src_index": pa.array([2 * i for _, i in rows], pa.int32()),
            "id": [None if i % 2 else f"{name}#{i}" for name, i in rows],
            "input": [f"in {i}" for _, i in rows],
            "output": [[f"out {i}", "more"] for _, i in rows],
        } | columns
        for split in ("train", "test"):
            pq.write_table(pa.table(table), tmp_path / f"{split}.parquet", row_group_size=3)
        lines = [{"task": n, "definition": "Do. ", "category": "Doing"} for n, _ in counts]
        (tmp_path / "tasks.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
        return tmp_path

    return build


def load(path: Path, **options: Any) -> Corpus:
    return NaturalInstructions(str(path), **options).load()


def test_the_official_layout(official: Build) -> None:
    corpus = load(official({"task1_a": document(), "task2_b": document(2, Definition="As text")}))
    assert [task.name for task in corpus.train] == ["task1_a", "task2_b"]
    assert [task.name for task in corpus.unseen] == ["task9_z"]
    first, second = corpus.train
    assert (first.examples[0].instruction, first.examples[0].category) == ("Say it.", "Saying")
    assert second.examples[0].instruction == "As text"
    example = first.examples[1]
    assert (example.id, example.input, example.references) == ("task1-1", "in 1", ("out 1",))
    assert corpus.notes == ()


def test_absent_tasks_are_noted_and_none_left_is_an_error(official: Build) -> None:
    folder = official({"task1_a": document()}, absent=("task5_x", "task6_y"))
    assert load(folder).notes == (
        "2 of the 3 tasks listed in the train split are not on disk (such as task5_x)",
    )
    (folder / "tasks" / "task1_a.json").unlink()
    with pytest.raises(DataError, match="lists 3 tasks, and none is in"):
        load(folder)


def test_the_parquet_layout(parquet: Build) -> None:
    corpus = load(parquet())
    assert [(task.name, len(task.examples)) for task in corpus.train] == [
        ("task1_a", 5),
        ("task2_b", 4),
    ]
    task = corpus.train[0]
    assert (task.examples[0].instruction, task.examples[0].category) == ("Do.", "Doing")
    assert [example.id for example in task.examples[:2]] == ["task1_a#0", "task1-2"]
    assert task.examples[4].input == "in 4"
    assert task.examples[4].references == ("out 4", "more")


def test_choices_are_made_by_the_seed_and_by_name_alone(parquet: Build) -> None:
    counts = tuple((f"task{i}_x", 20) for i in range(8))
    folder = parquet(counts)
    options = {"train_tasks": 3, "unseen_tasks": 2, "examples_per_task": 6}
    corpus = load(folder, **options)
    assert corpus == load(folder, **options)
    assert [len(corpus.train), len(corpus.unseen)] == [3, 2]
    assert {len(task.examples) for task in corpus.train} == {6}
    assert {len(task.examples) for task in corpus.unseen} == {20}
    assert {tuple(t.name for t in load(folder, **options, seed=s).train) for s in range(9)} != {
        tuple(task.name for task in corpus.train)
    }
    more = load(folder, **options | {"train_tasks": 5})
    assert set(corpus.train) <= set(more.train)
    small = load(folder, share=0.1, unseen_examples_per_task=1)
    assert {len(task.examples) for task in small.train} == {2}
    assert {len(task.examples) for task in small.unseen} == {1}


def test_both_layouts_choose_alike(parquet: Build, official: Build, tmp_path: Path) -> None:
    instances = [{"id": f"i{i}", "input": f"in {i}", "output": [f"out {i}"]} for i in range(9)]
    tasks = {f"task{n}_x": document(Instances=instances) for n in range(6)}
    options = {"train_tasks": 3, "unseen_tasks": 0, "examples_per_task": 4}
    one = load(official(tasks), **options)
    for folder in ("tasks", "splits"):
        (tmp_path / folder).rename(tmp_path / f"old-{folder}")
    rows = [(name, i) for name in tasks for i in range(9)]
    path = parquet(
        tuple((name, 9) for name in tasks),
        id=[f"i{i}" for _, i in rows],
        output=[[f"out {i}"] for _, i in rows],
    )
    text = (path / "tasks.jsonl").read_text().replace("Do. ", "Say it.").replace("Doing", "Saying")
    (path / "tasks.jsonl").write_text(text)
    assert load(path, **options) == one


def test_small_tasks_are_left_out_on_request_and_noted(official: Build) -> None:
    folder = official({"task1_a": document(0), "task2_b": document(9), "task3_c": document(2)})
    corpus = load(folder, min_examples=3)
    assert [task.name for task in corpus.train] == ["task2_b"]
    assert corpus.notes[0].startswith("2 train tasks with fewer than 3 examples were left out")
    with pytest.raises(DataError, match="'task1_a' has no examples; set min_examples = 1"):
        load(folder)
    with pytest.raises(DataError, match=r"train_tasks is 2, .* holds 1 train tasks of at least 3"):
        load(folder, min_examples=3, train_tasks=2)


BROKEN: list[tuple[Any, str]] = [
    ('{"Definition": "x",\n "Instances": [\n', r"task1_a\.json, line \d+: broken JSON"),
    ("[]", "holds a list, expected an object"),
    (document(Definition=7), "Definition is a whole number, expected text"),
    (document(Definition=[]), "Definition is a list, expected text"),
    (document(Categories=None), "Categories is null, expected text"),
    (document(Instances={"a": 1}), "Instances is an object, expected a list"),
    ({"hello": 1}, "Instances is null, .* is this a task file"),
    (document(Instances=["x"]), "instance 0 is text, expected an object"),
    (document(Instances=[{"input": 5, "output": ["x"]}]), "instance 0: input is a whole number"),
    (document(Instances=[{"input": "a", "output": []}]), r"instance 0: output is \[\], expected"),
    (document(Instances=[{"input": "a", "output": [1]}]), r"instance 0: output is \[1\]"),
    (document(Instances=[{"input": "a"}]), "instance 0: output is null"),
    (
        document(Instances=[{"input": "a", "output": [1] * 99}]),
        "output is .*1, 1…, expected one",
    ),
    (document(Instances=[{"input": "\ud800", "output": ["x"]}]), "instance 0 holds half of a surr"),
    (
        document(Definition="x" * 1_000_001),
        r"task1_a\.json: instance 0 holds 1,000,0\d\d characters in",
    ),
    (document(Definition="\udfff"), "instance 0 holds half of a surrogate pair"),
    (document(Categories="\udfff"), "instance 0 holds half of a surrogate pair"),
    ('{"Definition": ' + "[" * 100_000, r"task1_a\.json: nested too deep; copy the file anew"),
    ('{"Definition": ' + "9" * 5000 + "}", "holds a whole number of more digits than can be read"),
]


@pytest.mark.parametrize(("content", "message"), BROKEN)
def test_broken_task_files(official: Build, content: str | dict[str, Any], message: str) -> None:
    folder = official({"task1_a": content})
    with pytest.raises(DataError, match=message) as caught:
        load(folder)
    assert "task1_a" in str(caught.value)
    assert "\n" not in str(caught.value)


def told(folder: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(folder, **options)
    return str(caught.value)


def test_all_problems_of_the_official_layout_are_told_together(official: Build) -> None:
    """Of both splits; of an example, or of a task where it is the task's, the first."""
    wrong = document(Instances=[{"input": 5}, {"input": "a", "output": "b"}, {"input": "a"}])
    folder = official(
        {"task1_a": wrong, "task2_b": "[", "task3_c": document(), "task4_d": document(0)},
        {"task9_z": document(Definition=7)},
    )
    words = told(folder)
    assert words.startswith(f"5 problems in {folder}: (1) ")
    for one in (
        "task1_a.json: instance 0: input is a whole number",
        "task1_a.json: instance 2: output is null",
        "task2_b.json, line 1: broken JSON",
        "task 'task4_d' has no examples",
        "task9_z.json: Definition is a whole number",
    ):
        assert words.count(one) == 1, words
    assert told(folder, train_tasks=3, min_examples=1).startswith("4 problems in ")
    assert "train_tasks is 4, but " in (words := told(folder, train_tasks=4, min_examples=1))
    assert "holds 3 train tasks of at least 1 examples" in words
    assert told(folder, unseen_tasks=0).startswith("4 problems in ")


def test_all_problems_of_the_parquet_layout_are_told_together(parquet: Build) -> None:
    texts = ["in 0", None, "in 2", None, "in 4", "in 0", "in 1", "in 2", "in 3"]
    folder = parquet(input=texts)
    (folder / "tasks.jsonl").write_text('{"task": "task1_a", "definition": "Do.", "category": "D"}')
    words = told(folder, unseen_tasks=0)
    assert words.startswith("3 problems in ")
    assert "tasks.jsonl does not describe task 'task2_b'" in words
    assert "row 1 (task task1_a): input or output is empty" in words
    assert "row 3 (task task1_a): input or output is empty" in words
    # Of a task that a broken line may describe, nothing is said but that.
    (folder / "tasks.jsonl").write_text('{"task": "task1_a"\n[]\n')
    words = told(folder)
    assert words.startswith("2 problems in ")
    assert "line 2 is a list, expected an object" in words


def test_a_mark_at_the_beginning_is_no_part_of_it(official: Build, tmp_path: Path) -> None:
    folder = official({"task1_a": document(), "task2_b": document(2)})
    plain = load(folder)
    for file in (*tmp_path.rglob("*.json"), *tmp_path.rglob("*.txt")):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert load(folder).fingerprint == plain.fingerprint


def test_an_unreadable_encoding(official: Build) -> None:
    folder = official({"task1_a": document()})
    (folder / "tasks" / "task1_a.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(
        DataError, match=r"task1_a\.json, line 1: byte 0xff at offset 0 is not UTF-8"
    ):
        load(folder)


def test_a_missing_split_file(official: Build) -> None:
    folder = official({"task1_a": document()})
    (folder / "splits" / "default" / "test_tasks.txt").unlink()
    with pytest.raises(DataError, match=r"test_tasks\.txt cannot be read"):
        load(folder)
    assert load(folder, unseen_tasks=0).unseen == ()


@pytest.mark.parametrize("file", ["tasks/task1_a.json", "splits/default/train_tasks.txt"])
def test_a_file_that_is_too_large_is_not_read(official: Build, file: str) -> None:
    folder = official({"task1_a": document()})
    with (folder / file).open("ab") as grown:
        grown.truncate(10**6)
    words = rf"{Path(file).name} comes to 0\.001 GB .* above data\.max_table_gb = 0\.0001; raise it"
    with pytest.raises(DataError, match=words):
        load(folder, max_table_gb=1e-4)


def test_what_is_large_in_parquet_is_refused_before_it_is_kept(parquet: Build) -> None:
    folder = parquet()
    rows = ["short", "x" * 2000, *"abcdefg"]
    parquet(input=rows)
    with pytest.raises(DataError, match=r"train\.parquet, row 1 holds 2,0\d\d characters in its"):
        load(folder, max_row_characters=1000)
    with pytest.raises(DataError, match=r"train\.parquet, row group 0, comes to .*\.max_table_gb"):
        load(folder, max_table_gb=2e-6)
    assert len(load(folder, max_table_gb=3e-6).train) == 2  # Each of its row groups is smaller.
    lines = (folder / "tasks.jsonl").read_text()
    (folder / "tasks.jsonl").write_text(lines + " " * 11_000 + "{}")
    with pytest.raises(DataError, match=r"tasks\.jsonl, line 3 holds 11,002 characters in all"):
        load(folder, max_row_characters=1000, train_tasks=0, unseen_examples_per_task=1)
    with pytest.raises(DataError, match=r"tasks\.jsonl comes to .* above data\.max_table_gb"):
        load(folder, max_table_gb=9e-6)


def test_no_folder_and_a_folder_without_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere is no folder; set path"):
        load(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"holds no Natural .* tasks/\*\.json .*tasks\.jsonl") as e:
        load(tmp_path)
    assert str(tmp_path) in str(e.value)


def test_a_truncated_parquet(parquet: Build) -> None:
    folder = parquet()
    data = (folder / "train.parquet").read_bytes()
    for damaged in (data[: len(data) // 2], b"", data[:40] + bytes(400) + data[440:]):
        (folder / "train.parquet").write_bytes(damaged)
        with pytest.raises(DataError, match=r"train\.parquet is missing, truncated or no parquet"):
            load(folder)
    (folder / "train.parquet").unlink()
    with pytest.raises(DataError, match=r"train\.parquet is missing"):
        load(folder)


def test_a_foreign_parquet_names_its_columns(parquet: Build) -> None:
    folder = parquet()
    pq.write_table(pa.table({"text": ["a"], "id": ["b"]}), folder / "train.parquet")
    with pytest.raises(
        DataError, match="no column task, src_index, input, output; its columns are text, id"
    ):
        load(folder)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"output": ["x"] * 9}, "column output: type string, expected list"),
        ({"input": list(range(9))}, "column input: type int64, expected string"),
        ({"task": [None] * 9}, "row 0: task is null"),
        ({"input": ["x", None, *"abcdefg"]}, r"row 1 \(task task1_a\): input or output is empty"),
        ({"output": [["x"], [], *([["y"]] * 7)]}, r"row 1 \(task task1_a\): input or output"),
        ({"output": [["x"], [None], *([["y"]] * 7)]}, r"row 1 \(task task1_a\): input or output"),
    ],
)
def test_wrong_types_and_nulls(parquet: Build, columns: dict[str, Any], message: str) -> None:
    if "task" in columns:
        columns = {"task": pa.array([None] * 9, pa.string())}
    with pytest.raises(DataError, match=message):
        load(parquet(**columns))


def test_an_empty_parquet(parquet: Build) -> None:
    folder = parquet()
    pq.write_table(pq.read_table(folder / "train.parquet").slice(0, 0), folder / "train.parquet")
    with pytest.raises(DataError, match=r"train\.parquet holds no rows"):
        load(folder)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", r"tasks\.jsonl, line 3: broken JSON"),
        ("[1]", "line 3 is a list, expected an object"),
        ("[" * 100_000, "line 3: nested too deep; copy the file anew"),
        ("9" * 5000, "line 3 holds a whole number of more digits than can be read"),
        ('{"task": "x", "definition": "\\ud800", "category": ""}', "line 3 holds half of a surr"),
        (
            '{"task": "task3_c", "definition": 3, "category": "x"}',
            "line 3: definition is a whole number",
        ),
        ('{"task": "task3_c", "definition": "d"}', "line 3: category is null"),
        ('{"task": "task1_a", "definition": "d", "category": "c"}', "line 3: .* described twice"),
    ],
)
def test_broken_descriptions(parquet: Build, line: str, message: str) -> None:
    folder = parquet()
    with (folder / "tasks.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=message):
        load(folder)


def test_missing_descriptions(parquet: Build) -> None:
    folder = parquet()
    (folder / "tasks.jsonl").write_text('{"task": "other", "definition": "", "category": ""}')
    with pytest.raises(DataError, match=r"does not describe task 'task[12]_"):
        load(folder)
    (folder / "tasks.jsonl").unlink()
    with pytest.raises(DataError, match=r"tasks\.jsonl cannot be read"):
        load(folder)


@pytest.mark.parametrize(
    "wrong", [{"train_tasks": -1}, {"examples_per_task": 0}, {"share": 0.0}, {"share": 1.1}]
)
def test_wrong_options(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        NaturalInstructions("x", **wrong)


def test_the_real_collection_in_both_layouts(shared: Path) -> None:
    folder = shared / "data" / "natural_instructions"
    rows = load(folder, train_tasks=20, examples_per_task=5, unseen_examples_per_task=2)
    assert [len(rows.train), len(rows.unseen)] == [20, 60]
    assert {len(task.examples) for task in rows.train} == {5}
    files = load(folder / "official_layout")
    assert [len(files.train), len(files.unseen)] == [14, 6]
    # What both layouts hold is the same: ids, inputs and references of every kept row.
    whole = {task.name: task for task in load(folder, train_tasks=0).unseen}
    both = [task for task in files.unseen if task.name in whole]
    assert both
    for task in both:
        other = whole[task.name]
        # Not the category: tasks.jsonl has the later names, the files of 2021 the earlier ones.
        unnamed = {replace(example, category="") for example in task.examples}
        assert {replace(example, category="") for example in other.examples} <= unnamed


def test_parquet_without_pyarrow_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pyarrow is not installed; install the extra flexlora\["):
        NaturalInstructions(path=str(tmp_path), unseen_tasks=0).load()
