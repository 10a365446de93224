"""Data whose clients are scored on what they are trained on: all of it, and nothing else."""

from __future__ import annotations

import pytest

from flexlora.errors import ConfigError
from flexlora.federation import prepare, score_model
from flexlora.tasks.facts import NOBODY
from small import facts


@pytest.mark.parametrize("duplicates", ["drop", "keep", "refuse"])
def test_all_that_is_trained_on_is_scored_and_nothing_else(duplicates: str) -> None:
    setup = prepare(facts(data={"duplicates": duplicates}))
    examples = setup.examples
    assert {client: len(part) for client, part in examples.train.items()} == {
        f"owner-{k}": 3 for k in range(1, 5)
    }
    trained = {(client, x.id) for client, part in examples.train.items() for x in part}
    for scored in (examples.own, examples.validation):
        assert {(client.id, x.id) for client in scored for x in client.examples} == trained
    assert [(client.id, len(client.examples)) for client in examples.unseen] == [(NOBODY, 3)]
    holdings = setup.census.clients
    assert [(h.train, h.validation, h.test, h.examples) for h in holdings] == [(3, 0, 0, 3)] * 4
    assert "that is recall, not generalisation" in examples.notes[0]


@pytest.mark.parametrize(
    ("evaluation", "words"),
    [
        ({"own_examples": 11}, r"own_examples is 11, .* all 12 examples; raise it to 12"),
        ({"validation_clients": 1}, r"validation_clients is 1, .*trained on; set it to 0"),
    ],
)
def test_a_part_of_the_facts_is_never_scored(evaluation: dict[str, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        prepare(facts(evaluation=evaluation))
    prepare(facts(evaluation={"own_examples": 11, "unseen": False}))


@pytest.mark.parametrize("duplicates", ["drop", "keep"])
def test_a_model_is_scored_on_what_is_taught(duplicates: str) -> None:
    scores = score_model(facts(data={"duplicates": duplicates}))
    assert [row.client for row in scores.clients] == [f"owner-{k}" for k in range(1, 5)]
    assert scores.mean().examples == 12
    assert "that is recall" in scores.notes[0]
