"""What no network can play: code that another run names, beside what its own config asks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands import Flexlora, assert_one_sentence
from flexlora.errors import ConfigError
from flexlora.federation import Session
from flexlora.flower.network import Network
from flexlora.flower.networked import require_no_code_begun_from
from flexlora.runs.run_directory import Run
from flower.links import FakeLink
from flower.trainers import networked
from peft_folders import pair, write_folder
from small import small, write

TOLD = "model.init_from is foreign, a run of theirs.py:Mine, which is code in a file"


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run of a rule in a file, which leaves a trace when it is run."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    Path("theirs.py").write_text("open('ran', 'w').close()\nraise SystemExit('ran')\n")
    Run.create(small(rule={"name": "theirs.py:Mine"}), "foreign")
    return "foreign"


def test_a_server_runs_no_code_of_the_run_that_it_begins_from(foreign: str) -> None:
    config = networked(model={"init_from": foreign})
    session = Session.of(config, place=Network(FakeLink(), "r", 1, wait=1.0, deadline=1.0))
    with pytest.raises(ConfigError, match=TOLD):
        _ = session.setup
    assert not Path("ran").exists()


def test_a_try_out_tells_it_before_anything_begins(flexlora: Flexlora, foreign: str) -> None:
    path = write(networked(model={"init_from": foreign}), Path("c.toml"))
    done = flexlora("flower", "up", path, "--out", "out")
    assert_one_sentence(done, TOLD, "flexlora export foreign --rank full --out FOLDER")
    assert not Path("ran").exists()
    assert not Path("out").exists()


def test_adapters_and_rules_of_flexlora_itself_are_begun_from(tmp_path: Path) -> None:
    write_folder(tmp_path / "adapter", pair("x", 3, 4, 1), r=1)
    Run.create(small(), tmp_path / "run")
    for begin in (None, "adapter", "run"):
        model = {} if begin is None else {"init_from": str(tmp_path / begin)}
        require_no_code_begun_from(networked(model=model))
