"""[data], [partition] and [rule] take the options of what they name, and no others."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from flexlora.config.config import DataConfig, PartitionConfig
from flexlora.config.config_file import load_config, parse_config
from flexlora.errors import ConfigError
from flexlora.options import arguments_of
from flexlora.partition.registry import SCHEMES
from flexlora.tasks.source import SEED, SOURCES

CSV = {"source": "csv", "path": "x.csv"}


def test_options_stand_in_the_table_and_apart_in_the_config() -> None:
    data = {**CSV, "max_tokens": 99, "prompt": ("a", "b"), "share": 0.5}
    partition = {"by": "dirichlet", "clients": 3, "alpha": 1, "min_examples": 2}
    config = parse_config({"data": data, "partition": partition})
    assert config.data.options == {"path": "x.csv", "prompt": ["a", "b"], "share": 0.5}
    assert config.partition.options == {"clients": 3, "alpha": 1}
    assert config.document()["data"] == {
        **data,
        "prompt": ["a", "b"],
        "skip_too_long": False,
        "duplicates": "drop",
        "learn": "last",
    }
    back = parse_config(tomllib.loads(config.to_toml()))
    assert back == config
    assert config.partition.build().options == (("clients", 3), ("alpha", 1))


def test_they_can_be_overridden(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('[data]\nsource = "embedded"\ntrain_tasks = 4\n')
    sets = ["data.train_tasks=5", "data.unseen=development", "partition.by=iid"]
    config = load_config(path, [*sets, "partition.clients=2"])
    assert config.data.options == {"train_tasks": 5, "unseen": "development"}
    assert config.partition.options == {"clients": 2}
    with pytest.raises(ConfigError, match=r"data\.train_tasks is -1, expected a whole number"):
        load_config(path, ["data.train_tasks=-1"])


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"data": {"source": "embeded"}}, "data.source is 'embeded'; did you mean 'embedded'?"),
    ({"data": {**CSV, "shar": 1}}, "data.shar is not an option of 'csv'; did you mean 'share'?"),
    ({"data": {**CSV, "max_token": 1}}, "not an option of 'csv'; did you mean 'max_tokens'?"),
    ({"data": {**CSV, "seed": 1}}, "data.seed is not an option of 'csv'; known: "),
    ({"data": {**CSV, "subset": "x"}}, "leave it out, or set data.source to 'huggingface'"),
    ({"data": {**CSV, "test_share": 1.5}}, "data.test_share is 1.5, expected a number above 0"),
    ({"data": {**CSV, "share": "all"}}, 'data.share is "all", expected a number above 0'),
    ({"data": {**CSV, "messages": "m", "response": "r"}}, "data.messages and data.response are"),
    ({"data": {**CSV, "test_share": 0.1, "unseen_tasks": 1}}, "both say what is kept unseen"),
    ({"data": {"source": "csv"}}, "data.source is 'csv', which needs data.path; give it"),
    ({"data": {**CSV, "id": {"x": 1}}}, "config table [data.id] is nested too deep"),
    ({"data": {**CSV, "options": {}}}, "config table [data.options] is nested too deep"),
    ({"data": {**CSV, "share": float("nan")}}, "[data]: option 'share' is no plain, finite"),
    ({"data": {"max_tokens": 0}}, "config data.max_tokens is 0, expected 1 or more"),
    ({"partition": {"by": "tusk"}}, "partition.by is 'tusk'; did you mean 'task'?"),
    ({"partition": {"min_example": 1}}, "option of 'task'; did you mean 'min_examples'?"),
    ({"partition": {"clients": 2}}, "set partition.by to 'category' or 'iid' or 'dirichlet'"),
    ({"partition": {"by": "iid"}}, "partition.by is 'iid', which needs partition.clients"),
    ({"partition": {"by": "iid", "clients": 0}}, "partition.clients is 0, expected a whole"),
    ({"partition": {"min_examples": 0}}, "config partition.min_examples is 0, expected 1 or more"),
    ({"partition": {"label": "clas"}}, "partition.label is 'clas'; known: category, response"),
]


@pytest.mark.parametrize(("tables", "message"), WRONG, ids=[m[:40] for _, m in WRONG])
def test_what_is_wrong_is_said_when_the_config_is_read(
    tables: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(tables)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_alone_is_held_to_them_too() -> None:
    with pytest.raises(ConfigError, match="not an option of 'embedded'"):
        DataConfig(options={"path": "x"})
    with pytest.raises(ConfigError, match="not an option of 'task'"):
        PartitionConfig(options={"alpha": 1.0})


def test_an_empty_path_is_an_option_as_any_other() -> None:
    with pytest.raises(ConfigError, match="not an option of 'embedded'"):
        parse_config({"data": {"source": "embedded", "path": ""}})


def test_training_is_left_out_where_the_source_can(monkeypatch: pytest.MonkeyPatch) -> None:
    assert DataConfig().without_training().options == {"train_tasks": 0}

    class Fixed:
        def __init__(self, seed: int = 0) -> None: ...

    monkeypatch.setitem(SOURCES, "fixed", Fixed)
    assert DataConfig(source="fixed").without_training().options == {}


def test_every_option_of_every_source_and_partition_says_what_it_is() -> None:
    for registry in (SOURCES, SCHEMES):
        for name, made in registry.items():
            for key, argument in arguments_of(made).items():
                assert argument.option.meaning or key == SEED, f"{name}.{key}"
