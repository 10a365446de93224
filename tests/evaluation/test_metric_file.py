"""A user's own metric out of a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from flexlora.errors import ConfigError
from flexlora.evaluation import METRICS, get_metric
from flexlora.tasks.prompts import Encoded

SOURCE = '''
"""Metrics of answers' lengths."""
from __future__ import annotations

from dataclasses import dataclass

from flexlora.evaluation import Metric, text_metric

RUNS = []
RUNS.append(1)


@dataclass
class Words:
    text: str

    def count(self) -> int:
        return len(self.text.split())


def as_long(prediction, references):
    return float(Words(prediction).count() == Words(references[0]).count())


def words_off(prediction: str, references: tuple[str, ...]) -> float:
    return abs(Words(prediction).count() - Words(references[0]).count())


fewer = text_metric(words_off, name="words_off_by", higher_is_better=False)
loss = text_metric(words_off, name="loss")
tokens = Metric("tokens", "loss", False, lambda example, loss: loss.tokens)
number = 3


def needs_three(a, b, c):
    return 0.0
'''

EXAMPLE = Encoded("e", "x", (1,), (2,), ("two words",))


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my.py"
    path.write_text(SOURCE)
    before = dict(METRICS)
    yield path
    METRICS.clear()
    METRICS.update(before)


def test_a_function_becomes_a_text_metric_of_its_name(file: Path) -> None:
    metric = get_metric("my.py:as_long")
    assert (metric.name, metric.needs, metric.higher_is_better) == ("as_long", "text", True)
    assert metric.score(EXAMPLE, "any two") == 1.0
    assert metric.score(EXAMPLE, "one") == 0.0
    assert get_metric("as_long") is metric  # Known by its name from now on.
    assert get_metric("./my.py:as_long") is metric
    assert [p.name for p in file.parent.iterdir()] == ["my.py"]  # Nothing compiled beside it.


def test_a_file_may_hold_whole_metrics(file: Path) -> None:
    metric = get_metric(f"{file}:fewer")
    assert (metric.name, metric.higher_is_better) == ("words_off_by", False)
    assert metric.score(EXAMPLE, "one") == 1
    assert get_metric("my.py:tokens").needs == "loss"


def test_a_file_that_changes_is_read_again_and_only_then(file: Path) -> None:
    first = get_metric("my.py:as_long")
    assert get_metric("my.py:as_long") is first
    file.write_text("def as_long(prediction, references):\n    return 7.0\n")
    os.utime(file, (1, 1))
    assert get_metric("my.py:as_long").score(EXAMPLE, "") == 7.0


def test_another_file_cannot_take_the_name(file: Path) -> None:
    get_metric("my.py:as_long")
    file.with_name("other.py").write_text(SOURCE)
    with pytest.raises(ConfigError, match="'as_long' is registered already; choose another name"):
        get_metric("other.py:as_long")


@pytest.mark.usefixtures("file")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rouge", "metric 'rouge' is unknown .*path/to/file.py:function.; did you mean 'rouge_l'"),
        ("my.py", "metric 'my.py' is unknown .one of your own is path/to/file.py:function"),
        ("my.py:", "'my.py:' names no function; give path/to/file.py:function"),
        ("my:as_long", "names no function"),
        ("gone.py:as_long", "metric file gone.py cannot be read .*relative to the working dir"),
        ("my.py:as_lon", "my.py has no 'as_lon'; did you mean 'as_long'?"),
        ("my.py:number", "'number' of metric file my.py is no function of .*cannot be called"),
        ("my.py:needs_three", "no function of .prediction, references.: missing a required"),
        ("my.py:loss", "metric 'loss' is registered already; choose another name"),
    ],
)
def test_wrong_names(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        get_metric(name)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def f(:\n", "my.py fails with SyntaxError: .*line 1"),
        ("import no_such_module\n", "fails with ModuleNotFoundError: No module named"),
        ("raise SystemExit('stop')\n", "fails with SystemExit: stop; correct it"),
        ("x = 1\n", "my.py has no 'f'; it holds no metric"),
    ],
)
def test_files_that_fail(file: Path, source: str, message: str) -> None:
    file.write_text(source)
    os.utime(file, (2, 2))
    with pytest.raises(ConfigError, match=message):
        get_metric("my.py:f")
