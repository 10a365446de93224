"""Wrong metrics: exit code 2, one sentence, and nothing written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from commands import Flexlora
from flexlora.evaluation import METRICS
from small import small, write
from wrong_input import Arguments, Cases

FEW = ("--tasks", 2, "--examples", 1, "--max-new-tokens", 1, "--max-tokens", 250)

SOURCE = """
import json

from flexlora.evaluation import Metric

def raises(prediction, references):
    return json.loads("{")

def nan(prediction, references):
    return float("nan")

def words(prediction, references):
    return "good"

def nothing(prediction, references):
    pass

def one_argument(prediction):
    return 1.0

def rouge_l(prediction, references):
    return 1.0

LIMIT = 3
"""


@dataclass(frozen=True)
class Place:
    """An empty folder, and what may be put there."""

    folder: Path

    def metrics(self, source: str = SOURCE) -> None:
        (self.folder / "my.py").write_text(source)

    def run(self, **evaluation: Any) -> Arguments:
        config = write(small(evaluation=evaluation), self.folder / "c.toml")
        return ["run", config, "--out", self.folder / "out"]

    def eval(self, *metrics: str, source: str = SOURCE) -> Arguments:
        self.metrics(source)
        flags = [flag for metric in metrics for flag in ("--metric", metric)]
        return ["eval", "tiny", "--data", "embedded", *FEW, *flags]


CASES: Cases[Place] = Cases()
case = CASES.add


# --- names ---------------------------------------------------------------------------------------

case("unknown metric", "metric 'rouge' is unknown", "path/to/file.py:function", "mean 'rouge_l'?")(
    lambda p: p.run(metrics=["loss", "rouge"])
)
case("unknown metric that decides", "metric 'los' is unknown", "did you mean 'loss'?")(
    lambda p: p.run(metric="los")
)
case("unknown metric of eval", "metric 'exact' is unknown")(lambda p: p.eval("loss", "exact"))
case("no metrics", "evaluation.metrics is [], expected a list that is not empty")(
    lambda p: [*p.run(), "--set", "evaluation.metrics=[]"]
)
case("one metric without brackets", 'evaluation.metrics is "loss", expected a list')(
    lambda p: [*p.run(), "--set", "evaluation.metrics=loss"]
)
case("fewer than no predictions", "evaluation.predictions is -1, expected 0 or more")(
    lambda p: [*p.run(), "--set", "evaluation.predictions=-1"]
)

# --- files ---------------------------------------------------------------------------------------

case("metric file missing", "metric file gone.py cannot be read", "relative to the working dir")(
    lambda p: p.run(metrics=["gone.py:f"])
)
case("metric file without a function", "'my.py:' names no function; give path/to/file.py:fun")(
    lambda p: p.eval("my.py:")
)
case("metric file without that function", "my.py has no 'raise'; did you mean 'raises'?")(
    lambda p: p.eval("my.py:raise")
)
case("a value in place of a function", "'LIMIT' of metric file my.py is no function of")(
    lambda p: p.eval("my.py:LIMIT")
)
case("a function of one argument", "'one_argument' of metric file my.py is no function of (pred")(
    lambda p: p.eval("my.py:one_argument")
)
case("a name that is taken", "metric 'rouge_l' is registered already; choose another name")(
    lambda p: p.eval("my.py:rouge_l")
)
case("broken metric file", "metric file my.py fails with SyntaxError", "line 2", "correct it")(
    lambda p: p.eval("my.py:f", source="\ndef f(:\n")
)
case("metric file that fails", "metric file my.py fails with ZeroDivisionError")(
    lambda p: p.eval("my.py:f", source="1 / 0\n")
)
case("a metric of unknown needs", "fails with ConfigError: metric 'm' needs 'words'; give one of")(
    lambda p: p.eval(
        "my.py:m",
        source="from flexlora.evaluation import Metric\nm = Metric('m', 'words', True, print)\n",
    )
)

# --- on some example -----------------------------------------------------------------------------

WHERE = (", client '", "', example '")
case("a metric that raises", "metric 'raises'", *WHERE, "it fails with JSONDecodeError")(
    lambda p: p.eval("loss", "my.py:raises")
)
case("a metric that gives NaN", "metric 'nan'", *WHERE, "it gives nan, no finite number; correct")(
    lambda p: p.eval("my.py:nan")
)
case("a metric that gives a text", "metric 'words'", *WHERE, "it gives 'good', no finite number")(
    lambda p: p.eval("my.py:words")
)
case("a metric that gives nothing", "metric 'nothing'", *WHERE, "it gives None, no finite number")(
    lambda p: p.eval("my.py:nothing")
)

NONE = ("has no choices, which the metric 'choice' needs", "examples have none", "leave 'choice'")
case("choices that are not there", *WHERE[1:], *NONE)(lambda p: p.eval("choice"))
case("choices that are not there at the end", *NONE)(lambda p: p.run(metrics=["choice"]))
case("choices that are not there to decide", *NONE)(lambda p: p.run(metric="choice"))


@pytest.fixture
def flexlora(flexlora: Flexlora) -> Iterator[Flexlora]:
    """Metrics that a case registers are forgotten."""
    before = dict(METRICS)
    yield flexlora
    METRICS.clear()
    METRICS.update(before)


@pytest.mark.parametrize("name", CASES)
def test_wrong_metrics(
    flexlora: Flexlora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    CASES.assert_refused(name, Place(tmp_path), flexlora, untouched=[tmp_path])


def test_eval_shows_the_metrics_that_were_asked_for(
    flexlora: Flexlora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = "def letters(prediction, references):\n    return len(prediction)\n"
    done = flexlora(*Place(tmp_path).eval("perplexity", "my.py:letters", source=source))
    assert done.code == 0, done
    assert "perplexity ↓" in done.out
    assert "letters ↑" in done.out
    assert "ROUGE" not in done.out
