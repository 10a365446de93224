"""A file of the user's own is run once for each content, and what is wrong with it is said."""

from __future__ import annotations

import hashlib
import inspect
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flexlora.errors import ConfigError
from flexlora.formats.user_file import UserFile

SOURCE = """
from __future__ import annotations

import json
from dataclasses import dataclass, field
from math import sqrt

RUNS = []


@dataclass
class Point:
    x: int = 1
    tags: list[str] = field(default_factory=list)


def middle(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.py").write_text(SOURCE)
    return tmp_path


def named(spec: str) -> Any:
    return UserFile.read(spec, "metric", "function").named(inspect.isfunction)


@pytest.mark.usefixtures("folder")
def test_what_is_named_is_found() -> None:
    assert named("my.py:middle")([3, 1, 2]) == 2
    assert named("my.py:Point")().tags == []


def test_the_same_content_runs_once_however_it_is_named(folder: Path) -> None:
    assert named("my.py:RUNS") is named(f"{folder}/my.py:RUNS") is named("./my.py:RUNS")
    before = named("my.py:RUNS")
    (folder / "my.py").touch()
    assert named("my.py:RUNS") is before
    (folder / "my.py").write_text(SOURCE + "\nRUNS.append(2)\n")
    assert named("my.py:RUNS") == [2]
    (folder / "my.py").write_text(SOURCE)
    assert named("my.py:RUNS") is before
    assert [path.name for path in folder.iterdir()] == ["my.py"]  # nothing compiled beside it


def test_files_of_one_name_are_kept_apart(folder: Path) -> None:
    (folder / "a:b").mkdir()
    (folder / "a:b" / "my.py").write_text(SOURCE)
    here, there = named("my.py:Point"), named(f"{folder}/a:b/my.py:Point")
    assert here is not there
    assert here.__module__ != there.__module__
    assert named("a:b/my.py:Point") is there


def test_the_fingerprint_is_that_of_the_bytes(folder: Path) -> None:
    file = UserFile.read("my.py:middle", "rule", "Class")
    assert file.fingerprint == hashlib.sha256((folder / "my.py").read_bytes()).hexdigest()


def test_what_is_sent_is_run_as_it_was(folder: Path) -> None:
    sent = pickle.dumps(UserFile.read("my.py:middle", "metric", "function"))
    (folder / "my.py").unlink()
    file = pickle.loads(sent)
    assert file.named(inspect.isfunction)([1]) == 1
    other = replace(file, source=b"def middle(values): return 7")
    assert other.named(inspect.isfunction)([1]) == 7


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("my.py:", "metric 'my.py:' names no function; give path/to/file.py:function"),
        ("my:middle", "names no function"),
        ("my.py:a b", "names no function"),
        ("gone.py:f", "metric file gone.py cannot be read (No such file"),
        ("~nobody_is_called_that/x.py:f", "names no place of a file (Could not determine home"),
        ("a\0b.py:f", "names no place of a file (embedded null"),
        ("my.py:midle", "metric file my.py has no 'midle'; did you mean 'middle'?"),
        ("my.py:sqr", "my.py has no 'sqr'; known: middle"),  # what it imports is not its own
    ],
)
def test_what_cannot_be_found_is_said(spec: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        named(spec)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pipe_is_refused_and_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "pipe.py")
    with pytest.raises(ConfigError, match=r"metric file pipe\.py is no plain file; give a Python"):
        named("pipe.py:f")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def f(:\n", "metric file my.py fails with SyntaxError: "),
        ("\0", "fails with "),
        ("import no_such_module\n", "fails with ModuleNotFoundError: No module named"),
        ("raise SystemExit('stop')\n", "fails with SystemExit: stop; correct it"),
        ("x = 1\n", "my.py has no 'f'; it holds no metric"),
    ],
)
def test_what_fails_is_said_each_time(folder: Path, source: str, message: str) -> None:
    (folder / "my.py").write_text(source)
    for _ in range(2):
        with pytest.raises(ConfigError) as caught:
            named("my.py:f")
        assert message in str(caught.value)
