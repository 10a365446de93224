"""Runs that lack things or have rare ones: the page shows what is there and says what is not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flexlora.federation import run
from flexlora.report import write_report
from flexlora.report.charts import lines
from report.pages import figures, words
from report.synthetic import synthetic_run
from resealed import reseal
from small import small

TINY: dict[str, Any] = {"rounds": 3, "clients": 8, "unseen": 4, "labels": 3, "layers": 1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return synthetic_run(tmp_path / "r", **TINY)


def change_rounds(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    log = folder / "metrics.jsonl"
    records = [json.loads(line) for line in log.read_text().splitlines()]
    for record in records:
        change(record)
    log.write_text("".join(json.dumps(record) + "\n" for record in records))
    reseal(folder)


def change_results(folder: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    path = folder / "results.json"
    results = json.loads(path.read_text())
    change(results["rows"])
    path.write_text(json.dumps(results))
    reseal(folder)


def test_where_a_run_began(folder: Path) -> None:
    parent = {"path": "runs/<old>", "kind": "run", "rule": "fedit", "round": 7, "start": 0}
    (folder / "parent.json").write_text(json.dumps(parent))
    reseal(folder)
    change_results(folder, lambda rows: rows.insert(1, {**rows[1], "state": "start"}))
    text = words(write_report([folder]))
    assert "r began from the run runs/<old>, played by fedit up to round 7" in text
    assert "starting state" in text.split("Scores on unseen examples", 1)[1]


def test_answers_stand_beside_the_base_model_s(folder: Path) -> None:
    text = words(write_report([folder]))
    assert "what unseen 0000 should say (empty) unseen 0000 answers in two lines" in text


def test_no_answers_were_kept(folder: Path) -> None:
    def drop(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["unseen"]["predictions"] = row["own"]["predictions"] = []

    change_results(folder, drop)
    assert "No generated answers were kept" in words(write_report([folder]))


def test_no_unseen_examples(tmp_path: Path) -> None:
    text = words(write_report([synthetic_run(tmp_path / "r", **{**TINY, "unseen": 0})]))
    assert "Scores on unseen examples" not in text
    assert "Scores on the training clients' own test parts" in text
    assert "none stay unseen" in text


def test_no_validation(folder: Path) -> None:
    change_rounds(folder, lambda record: [record.pop(k) for k in ("validation", "on_clients")])
    page = write_report([folder])
    assert "No round was validated by the server." in words(page)
    assert "Training loss by round" in words(page)


def test_values_that_json_cannot_hold_are_gaps(folder: Path) -> None:
    change_rounds(folder, lambda record: record.update(train_loss=None))
    change_results(folder, lambda rows: rows[1]["unseen"]["mean"].update(loss=None))
    log = folder / "spectra.jsonl"
    log.write_text(re.sub(r'"effective_rank": ?[^,]*', '"effective_rank": null', log.read_text()))
    reseal(folder)
    page = write_report([folder])
    assert "Training loss: no round has a finite value." in words(page)
    assert "No run has records of its singular values." in words(page)
    assert all(figure["data"]["values"] for figure in figures(page))


def test_equal_scores_have_no_best(tmp_path: Path) -> None:
    runs = [synthetic_run(tmp_path / name, **TINY) for name in "ab"]
    assert "best:" not in words(write_report(runs, tmp_path / "page.html"))


def test_no_failures(tmp_path: Path) -> None:
    page = write_report([synthetic_run(tmp_path / "r", **TINY, failing=0.0)])
    assert "No client failed." in words(page)


def test_a_real_run_whose_clients_score(tmp_path: Path) -> None:
    evaluation = {"metrics": ["loss", "rouge_l"], "on_clients": "tuned", "predictions": 2}
    folder = run(small(federation={"rounds": 1}, evaluation=evaluation), tmp_path / "r").folder
    text = words(write_report([folder]))
    for part in ("loss on clients, tuned adapter, by round", "answers on unseen examples"):
        assert part in text


def test_one_value_has_an_axis_around_it() -> None:
    spec = lines([{"x": 1, "y": 4.0, "series": "a", "run": "a"}], x="round", y="y", series=["a"])
    low, high = spec["layer"][0]["encoding"]["y"]["scale"]["domain"]
    assert low < 4.0 < high


def test_few_rounds_have_a_tick_each() -> None:
    rows = [{"x": x, "y": float(x), "series": "a", "run": "a"} for x in (1, 2, 3)]
    spec = lines(rows, x="round", y="y", series=["a"])
    assert spec["layer"][0]["encoding"]["x"]["axis"]["values"] == [1, 2, 3]
