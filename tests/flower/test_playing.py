"""`flwr run` makes a run or goes on with one, as its run config says; what is wrong is told."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from flexlora.config.config import Config
from flexlora.config.config_file import load_config
from flexlora.errors import ConfigError, RunError
from flexlora.federation.ground import Ground
from flexlora.flower.app_folder import write_app
from flexlora.flower.playing import Saying, play
from flexlora.flower.server_settings import ServerSettings, read_settings
from flexlora.runs.events import Failed
from flexlora.runs.run_directory import Run
from flower.links import FakeLink
from flower.test_network_run import NONE, linked
from flower.trainers import networked

CONFIG = networked(
    data={"train_tasks": 2},
    federation={"rounds": 1, "clients_per_round": 2},
    evaluation=NONE,
)


@pytest.fixture(scope="module")
def link(tmp_path_factory: pytest.TempPathFactory) -> FakeLink:
    names = sorted(Ground.of(CONFIG).examples.train)
    folder = tmp_path_factory.mktemp("clients")
    return linked(names, folder, dict.fromkeys(names, 2), {"train_tasks": 2})


@pytest.fixture
def app(tmp_path: Path) -> Path:
    return write_app(tmp_path / "app", CONFIG, ServerSettings(clients=2))


def asked(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    return {"run": str(tmp_path / "run"), "clients": 2, "wait": 5, "deadline": 60.0, **changes}


def test_a_run_is_made_and_left_as_it_is_once_it_has_ended(
    link: FakeLink, app: Path, tmp_path: Path
) -> None:
    told: list[str] = []
    folder = play(link, asked(tmp_path), app, told.append)
    assert folder == tmp_path / "run"
    assert Run.open(folder).checkpoints() == [1]
    assert any(words.startswith("round 1: 2 clients, train loss ") for words in told)
    sent = len(link.sent)
    told.clear()
    assert play(link, asked(tmp_path), app, told.append) == folder
    assert told == [f"the run in {folder} has ended; name another one for a new run"]
    assert len(link.sent) == sent


def test_a_run_that_was_stopped_is_gone_on_with(link: FakeLink, tmp_path: Path) -> None:
    app = write_app(tmp_path / "app", with_rounds(2), ServerSettings())

    def stop(words: str) -> None:
        if words.startswith("round 1"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play(link, asked(tmp_path), app, stop)
    known = Run.open(tmp_path / "run").resolved["network"]
    told: list[str] = []
    play(link, asked(tmp_path), app, told.append)
    run = Run.open(tmp_path / "run")
    assert told[0].startswith(f"goes on with the run in {run.folder}; waits for arithmetic")
    assert [record.round for record in run.records()] == [1, 2]
    assert run.resolved["network"] == known
    assert {packet.address.run for _, packet in link.sent[-2:]} == {known}


def test_a_run_of_another_config_is_refused_with_what_differs(
    link: FakeLink, app: Path, tmp_path: Path
) -> None:
    play(link, asked(tmp_path), app, lambda _: None)
    other = write_app(tmp_path / "other", with_rounds(1, seed=7), ServerSettings())
    with pytest.raises(RunError, match=r"was begun with federation\.seed 0, the app has 7"):
        play(link, asked(tmp_path), other, lambda _: None)


def with_rounds(rounds: int, seed: int = 0) -> Config:
    changes = {"rounds": rounds, "seed": seed}
    federation = CONFIG.federation.model_copy(update=changes)
    return CONFIG.model_copy(update={"federation": federation})


def test_an_app_has_the_config_and_names_both_sides(app: Path) -> None:
    assert load_config(app / "config.toml") == CONFIG
    made = tomllib.loads((app / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert made["components"] == {
        "serverapp": "flexlora.flower.server_app:app",
        "clientapp": "flexlora.flower.client_app:app",
    }
    assert read_settings(made["config"]) == ServerSettings(clients=2)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"client": 3}, "run config key client is unknown; did you mean 'clients'?"),
        ({"clients": 0}, "run config clients is 0"),
        ({"clients": "two"}, 'run config clients is "two"'),
        ({"deadline": 0.0}, "run config deadline is 0.0"),
        ({"config": ""}, 'run config config is ""'),
    ],
)
def test_a_wrong_run_config_is_told(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_settings(given)
    assert str(error.value).startswith(told)


def test_whole_seconds_are_seconds() -> None:
    assert read_settings({"wait": 3}).wait == 3.0


def test_what_a_client_wrote_makes_no_line_of_its_own() -> None:
    told: list[str] = []
    reason = "out of memory\nround 9: 10 clients, train loss 0.0001, 5 bytes down, 5 up\x1b[2J"
    Saying(told.append).told(Failed(1, "a", reason))
    (words,) = told
    assert words.startswith("round 1: client a failed: out of memory round 9: 10 clients")
    assert words.endswith("5 up\\x1b[2J")
