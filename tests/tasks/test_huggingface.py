"""A dataset of the library `datasets`: saved, as data files, or a name without a network."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import datasets
import pytest

from flexlora.errors import DataError
from flexlora.tasks.source import Corpus, open_source
from flexlora.tasks.task import Example

NAMED = {"prompt": "q", "response": "a", "category": "kind"}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def made(count: int = 8) -> Any:
    rows = {
        "q": [f"ask {i}" for i in range(count)],
        "a": [i % 2 for i in range(count)],
        "kind": [f"k{i % 2}" for i in range(count)],
        "chat": [
            [{"role": "user", "content": f"hi {i}"}, {"role": "assistant", "content": "yo"}]
            for i in range(count)
        ],
    }
    text, label = datasets.Value("string"), datasets.ClassLabel(names=["bad", "good"])
    chat = [{"role": text, "content": text}]
    features = {"q": text, "a": label, "kind": text, "chat": chat}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    both = datasets.DatasetDict({"train": made(), "test": made(4)})
    both.save_to_disk(str(tmp_path / "both"))
    made().save_to_disk(str(tmp_path / "one"))
    (tmp_path / "files").mkdir()
    for name, data in both.items():
        data.remove_columns("chat").to_csv(str(tmp_path / "files" / f"{name}.csv"))
    return tmp_path


def load(path: Path | str, **options: Any) -> Corpus:
    return open_source("huggingface", {"path": str(path), **NAMED, **options}).load()


def test_saved_splits_and_class_labels_by_name(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    corpus = load(folder / "both", test_split="test")
    assert capfd.readouterr() == ("", "")
    assert [(t.name, len(t.examples)) for t in (*corpus.train, *corpus.unseen)] == [
        ("k0", 4),
        ("k1", 4),
        ("test/k0", 2),
        ("test/k1", 2),
    ]
    assert corpus.train[1].examples[0] == Example("train:1", "ask 1", "", ("good",), "k1")
    assert corpus.unseen[0].examples[0].id == "test:0"
    shared = load(folder / "one", test_share=0.25)
    assert sum(len(task.examples) for task in shared.unseen) == 2


def test_data_files_and_chats(folder: Path) -> None:
    corpus = load(folder / "files", split="test")
    assert [e.references for t in corpus.train for e in t.examples] == [("0",)] * 2 + [("1",)] * 2
    chat = {"prompt": (), "response": "", "category": "kind", "messages": "chat"}
    assert load(folder / "both", **chat).train[0].examples[0].references == ("yo",)


@pytest.mark.parametrize(
    ("path", "options", "words"),
    [
        ("both", {"split": "tests"}, "has no split 'tests'; did you mean 'test'?"),
        ("one", {"test_split": "test"}, "was saved without splits, but split 'test'"),
        ("files", {"split": "dev"}, "split 'dev', cannot be loaded .*Unknown split"),
        (
            "both",
            {"response": "answer"},
            "column 'answer' is not in .*, which has q, a, kind, chat",
        ),
        ("gone", {}, "folder .*gone does not exist; set data.path to a folder or a hub name"),
        ("empty", {}, "folder .*empty is empty"),
        ("files/test.csv", {}, "is a file; give its folder, or set data.source to 'jsonl'"),
        ("junk", {}, "cannot be loaded"),
    ],
)
def test_what_cannot_be_read(folder: Path, path: str, options: dict[str, Any], words: str) -> None:
    (folder / "empty").mkdir()
    (folder / "junk").mkdir()
    (folder / "junk" / "train.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match=words):
        load(folder / path, **options)


def test_a_name_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    before = datasets.config.HF_UPDATE_DOWNLOAD_COUNTS
    with pytest.raises(
        DataError, match=r"dataset somebody/something, .*check the name, data.subset"
    ):
        load("somebody/something")
    assert before == datasets.config.HF_UPDATE_DOWNLOAD_COUNTS


def test_unlabelled_rows_are_null(tmp_path: Path) -> None:
    data = made(3).map(lambda row: {"a": -1 if row["q"] == "ask 1" else row["a"]})
    data.save_to_disk(str(tmp_path / "d"))
    with pytest.raises(DataError, match=r"\(train\), row 1: a is null, expected text"):
        load(tmp_path / "d")
