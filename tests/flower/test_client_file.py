"""A client's file says its own things alone, and every slip is told in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flexlora.errors import ConfigError
from flexlora.flower.client_file import load_client, parse_client
from flower.trainers import client_file, networked, plan_of

WHOLE = """
[client]
name = "north"
rank = 4
labels = true
[model]
name = "/models/base"
device = "cpu"
[data]
source = "jsonl"
path = "rows.jsonl"
[run]
threads = 3
"""


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "client.toml").write_text(WHOLE)
    found = load_client(tmp_path / "client.toml")
    assert (found.client.name, found.client.rows) == ("north", "all")
    assert found.client.rank == 4
    assert found.data.options == {"path": "rows.jsonl"}


@pytest.mark.parametrize(
    ("tables", "told"),
    [
        ({}, "says no name; write one into [client]"),
        ({"client": {"name": "a"}, "rule": {}}, "[rule], which the server's config says for all"),
        ({"client": {"name": "a"}, "modle": {}}, "'modle', unknown; did you mean 'model'?"),
        ({"client": {"name": "a"}, "model": 3}, "model is 3, expected [model]"),
        ({"client": {"name": "a", "rnak": 3}}, "client.rnak is unknown; did you mean 'rank'?"),
        ({"client": {"name": "a", "rank": 0}}, "client.rank is "),
        ({"client": {"name": ""}}, "client.name is "),
        ({"client": {"name": "a", "owners": ["b"]}}, "client.rows is 'named'; write that too"),
        ({"client": {"name": "a", "rows": "some"}}, "client.rows is "),
        ({"client": {"name": "a"}, "data": {"max_tokens": 9}}, "data.max_tokens is the server's"),
        ({"client": {"name": "a"}, "data": {"pth": "x"}}, "pth"),
        ({"client": {"name": "a"}, "run": {"threads": 0}}, "run.threads is "),
    ],
)
def test_what_is_wrong_is_told(tables: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_client(tables)
    assert told in str(error.value)


def test_a_client_plays_by_the_servers_config_with_what_is_its_own(tmp_path: Path) -> None:
    config = networked(
        rule={"name": "hetlora"},
        federation={"seed": 7},
        model={"init_force": False, "prompt": "plain"},
        run={"threads": 2},
    )
    found = plan_of(config).config_for(client_file("north", tmp_path))
    assert (found.rule, found.training, found.federation) == (
        config.rule,
        config.training,
        config.federation,
    )
    assert found.data.max_tokens == config.data.max_tokens
    assert found.model == config.model
    assert (found.run.threads, found.run.workers, found.run.clients_at_once) == (2, 1, 1)
    assert not found.evaluation.unseen


def test_no_path_of_the_server_reaches_a_client() -> None:
    config = networked(
        model={"name": "/server/model", "init_from": "/server/adapter"},
        data={"examples_per_task": 5},
        run={"out": "/server/runs"},
    )
    assert "/server" not in str(plan_of(config).to_facts())
