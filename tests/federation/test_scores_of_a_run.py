"""Which metrics a run scores by, when, and what it keeps of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flexlora.errors import RunError
from flexlora.evaluation import METRICS
from flexlora.federation import resume, run
from flexlora.report.write import write_report
from flexlora.runs.deciding import decide
from flexlora.runs.run_directory import Run
from flexlora.runs.standing import Standing
from resealed import reseal
from small import small

OWN = """
from flexlora.evaluation import text_metric

surplus = text_metric(
    lambda prediction, references: len(prediction) - len(references[0]),
    name="surplus",
    higher_is_better=False,
)
"""


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("scores")
    (folder / "own.py").write_text(OWN)
    before = dict(METRICS)
    scoring = {
        "metrics": ["perplexity", "exact_match"],
        "metric": f"{folder}/own.py:surplus",
        "predictions": 3,
        "validation_examples": 2,
        "own_examples": 2,
        "max_new_tokens": 2,
    }
    yield Run.open(run(small(federation={"rounds": 1}, evaluation=scoring), folder / "r").folder)
    METRICS.clear()
    METRICS.update(before)


def test_a_round_is_scored_by_loss_and_by_what_decides(opened: Run) -> None:
    (record,) = opened.records()
    assert set(record.scores) == {"loss", "surplus"}
    assert decide("surplus", False, "server", record) == record.scores["surplus"]
    assert decide("surplus", True, "server", record) == -record.scores["surplus"]


def test_the_end_is_scored_by_all_of_them(opened: Run) -> None:
    names = {"perplexity", "surplus", "exact_match"}
    results = opened.read_results()
    assert results is not None
    for row in results["rows"]:
        for part in ("unseen", "own"):
            scores = row[part]
            assert set(scores["mean"]) == {"clients", "examples", *names}
            assert all(set(table) == set(scores["mean"]) for table in scores["categories"].values())
            assert set(scores["clients"][0]) == {"client", "category", "examples", *names}
            told = {"client", "example", "text", "reference", "surplus", "exact_match"}
            kept = min(3, scores["mean"]["examples"])
            assert [set(told_) for told_ in scores["predictions"]] == [told] * kept


def test_a_reader_of_the_run_knows_which_way_is_better(opened: Run) -> None:
    directions = {"perplexity": False, "surplus": False, "exact_match": True}
    assert opened.resolved["higher_is_better"] == directions


def test_a_resume_with_a_metric_that_changed_is_refused(opened: Run) -> None:
    """Best round and patience would mix two scales."""
    file = Path(opened.config.evaluation.metric.rpartition(":")[0])
    file.write_text(OWN.replace("len(prediction)", "2 * len(prediction)"))
    words = r"the file of metric .*own\.py:surplus of .* has changed since the run began"
    with pytest.raises(RunError, match=words):
        resume(opened.folder)
    file.write_text(OWN)
    data = opened.folder / "data.json"
    text = data.read_text()
    data.write_text(text.replace("metric_fingerprints", "gone"))
    reseal(opened.folder)
    with pytest.raises(RunError, match=r"data\.json is missing or damaged"):
        resume(opened.folder)
    data.write_text(text)
    reseal(opened.folder)


def test_a_run_reads_without_the_files_of_its_metrics(opened: Run) -> None:
    file = Path(opened.config.evaluation.metric.rpartition(":")[0])
    file.unlink()
    METRICS.pop("surplus")
    assert Run.open(opened.folder).read_results() == opened.read_results()
    best = Standing.of(Run.open(opened.folder)).best
    assert best is not None
    assert best.round == (opened.read_results() or {})["scored_round"]
    write_report([opened.folder], opened.folder / "page.html")
    assert "surplus" not in METRICS
