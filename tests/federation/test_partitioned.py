"""Any source's examples through a partition into a federation, the same on every preparation."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from flexlora.config.config_file import parse_config
from flexlora.errors import ConfigError, DataError
from flexlora.federation import prepare, resume, run
from flexlora.runs.run_directory import Run
from small import SMALL, small


@pytest.mark.parametrize(
    ("partition", "clients"),
    [
        ({"by": "task"}, 4),
        ({"by": "category", "clients": 5}, 5),
        ({"by": "iid", "clients": 3}, 3),
        ({"by": "dirichlet", "clients": 3, "alpha": 0.1, "min_examples": 4}, 3),
        ({"by": "dirichlet", "clients": 2, "alpha": 5.0, "label": "category"}, 2),
    ],
)
def test_embedded_tasks_are_dealt_anew(partition: dict[str, object], clients: int) -> None:
    config = small(partition=partition)
    setup = prepare(config)
    assert len(setup.census.clients) == len(setup.examples.train) == clients
    assert sum(held.examples for held in setup.census.clients) == 4 * 6
    assert sum(setup.census.labels().values()) == 4 * 6
    again = prepare(config)
    assert again.describe() == setup.describe()
    assert again.roster.types == setup.roster.types


def test_what_was_moved_to_small_clients_is_noted() -> None:
    partition = {"by": "dirichlet", "clients": 8, "alpha": 0.01, "min_examples": 3}
    setup = prepare(small(partition=partition))
    (note,) = setup.describe()["notes"]
    assert "examples were moved from the largest clients" in note
    assert {held.examples for held in setup.census.clients} == {3}


def test_references_that_a_metric_passes_over_are_noted(tmp_path: Path) -> None:
    """Before anything is trained, and in data.json; only where such a metric scores."""
    rows = [{"question": f"Which town is number {i}?", "answer": "巴黎"} for i in range(20)]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = {
        "source": "jsonl",
        "path": str(tmp_path / "q.jsonl"),
        "prompt": "question",
        "response": "answer",
        "test_share": 0.3,
        "max_tokens": 200,
    }
    tables = {**SMALL, "data": data, "partition": {"by": "iid", "clients": 2}}

    def notes(*metrics: str) -> list[str]:
        evaluation = {**SMALL["evaluation"], "metrics": list(metrics)}
        setup = prepare(parse_config({**tables, "evaluation": evaluation}), outline=True)
        found: list[str] = setup.describe()["notes"]
        assert found == list(setup.notes)
        return found

    (note,) = notes("loss", "rouge_l")
    assert note.startswith("rouge_l passes over some of a reference in ")
    assert "(rouge_l_unicode keeps the letters of any script), and nothing is left" in note
    assert notes("loss", "rouge_l_unicode", "exact_match") == []


def test_clients_kept_out_of_training_are_counted_apart() -> None:
    setup = prepare(small(evaluation={"validation_clients": 1}))
    (kept,) = setup.census.validators
    assert (kept.type, kept.train, kept.test) == ("", 0, 6)
    assert kept.id not in {held.id for held in setup.census.clients}
    assert setup.describe()["partition"]["validators"] == [
        {"id": kept.id, "test": 6, "labels": kept.labels}
    ]


def test_a_partitioned_run_goes_on_after_a_stop(tmp_path: Path) -> None:
    partition = {"by": "dirichlet", "clients": 4, "alpha": 1.0, "min_examples": 4}
    config = small(partition=partition, evaluation={"unseen": False}, federation={"rounds": 1})
    whole = run(config, tmp_path / "a").folder
    part = Run.create(
        config, tmp_path / "b", resolved=Run.open(whole).resolved, data=Run.open(whole).data
    )
    resume(part.folder)
    one, other = (Run.open(folder).read_metrics() for folder in (whole, part.folder))
    assert one[0]["clients"] == other[0]["clients"]
    assert one[0]["train_loss"] == other[0]["train_loss"]


def test_no_unseen_examples_is_told_before_the_model_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"q": "a", "a": "b"}\n' * 20)
    data = {"source": "jsonl", "path": str(path), "prompt": "q", "response": "a"}
    tables = {**SMALL, "data": data, "model": {"name": "/no/model"}}
    with pytest.raises(DataError, match=r"keeps nothing apart to score on; set data.test_path"):
        prepare(parse_config(tables))


def test_a_share_that_keeps_nothing_apart_is_named(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    rows = [{"q": f"ask {i}", "a": "b", "k": f"kind {i}"} for i in range(9)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"source": "jsonl", "path": str(path), "prompt": "q", "response": "a", "category": "k"}
    tables = {**SMALL, "data": {**data, "test_share": 0.5}, "model": {"name": "/no/model"}}
    with pytest.raises(DataError, match=r"data.test_share is 0.5, but no category holds two rows"):
        prepare(parse_config(tables))


def test_a_partition_that_cannot_be_is_refused_with_its_config() -> None:
    with pytest.raises(ConfigError, match=r"partition\.clients is not an option of .task."):
        small(partition={"by": "task", "clients": 3})
    with pytest.raises(ConfigError, match="name the column that says whose a row is"):
        prepare(small(partition={"by": "client"}))


def test_the_config_survives_the_way_to_a_file() -> None:
    data = {"source": "csv", "path": "x", "prompt": ["a", "b"], "test_share": 0.25}
    partition = {"by": "dirichlet", "clients": 3, "alpha": 0.5, "label": "response"}
    config = parse_config({**SMALL, "data": data, "partition": partition})
    assert parse_config(tomllib.loads(config.to_toml())) == config
