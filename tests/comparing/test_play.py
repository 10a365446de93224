"""Comparisons that are really played: to their ends, again, with more, and with what fails."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from comparing.comparisons import Heard, comparison, played
from flexlora.comparing import plan
from flexlora.comparing.cells import finished
from flexlora.comparing.failures import Failures
from flexlora.comparing.folder import begin
from flexlora.comparing.play import Player
from flexlora.comparing.tuned import read_tuned
from flexlora.config.config import Config
from flexlora.config.config_file import load_config
from flexlora.errors import ModelError, RunError
from flexlora.federation import run
from flexlora.federation.setup import Setup
from flexlora.runs.readout import load_state
from flexlora.runs.run_directory import Run
from same_run import assert_same_run

ASKED = comparison(controls=["base"])


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Heard]:
    """A folder in which everything is finished; tests copy it."""
    out = tmp_path_factory.mktemp("comparison") / "out"
    heard, failed = played(ASKED, out)
    assert failed == {}
    return out, heard


@pytest.fixture
def copied(once: tuple[Path, Heard], tmp_path: Path) -> Path:
    return Path(shutil.copytree(once[0], tmp_path / "out"))


def test_all_arms_of_a_seed_come_before_the_next_seed(once: tuple[Path, Heard]) -> None:
    titles = ["flexlora, seed 0", "fedit, seed 0", "flexlora, seed 1", "fedit, seed 1"]
    assert once[1].all("begins") == once[1].all("ends") == titles


def test_finished_cells_are_read_off_the_folder_alone(once: tuple[Path, Heard]) -> None:
    cells = finished(once[0])
    assert [(cell.arm, cell.seed) for cell in cells] == [
        ("flexlora", 0),
        ("flexlora", 1),
        ("fedit", 0),
        ("fedit", 1),
        ("base", 0),
        ("base", 1),
    ]
    for cell in cells[:4]:
        assert cell.config == load_config(cell.folder / "config.toml")
        assert cell.config == ASKED.arm(cell.arm).config(cell.seed)
        assert Run.open(cell.folder).read_results() is not None
    # The base model is scored in every run: its cells are those of another arm.
    assert [cell.config for cell in cells[4:]] == [None, None]
    assert [cell.folder for cell in cells[4:]] == [cells[0].folder, cells[1].folder]


def test_a_cell_is_the_run_that_its_config_is_by_itself(
    once: tuple[Path, Heard], tmp_path: Path
) -> None:
    """Sharing the model and the data changes no bit."""
    run(ASKED.arm("fedit").config(0), tmp_path / "run")
    assert_same_run(tmp_path / "run", once[0] / "cells" / "fedit" / "0")


def test_the_model_is_loaded_once_and_the_data_once_a_seed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from flexlora.federation import examples, ground

    asked: Counter[str] = Counter()

    def counted(name: str, what: Any) -> Any:
        def call(*given: Any) -> Any:
            asked[name] += 1
            return what(*given)

        return call

    for module, name in ((ground, "_load"), (examples, "read_corpus")):
        monkeypatch.setattr(module, name, counted(name, vars(module)[name]))
    played(ASKED, tmp_path / "out")
    assert asked == {"_load": 1, "read_corpus": 2}


def test_what_is_finished_is_not_played_again(copied: Path) -> None:
    heard, failed = played(ASKED, copied)
    assert heard.told == []
    assert failed == {}


def test_a_seed_that_comes_later_is_all_that_is_played(copied: Path) -> None:
    heard, _ = played(comparison(controls=["base"], seeds=[0, 1, 2]), copied)
    assert heard.all("begins") == ["flexlora, seed 2", "fedit, seed 2"]
    assert len(finished(copied)) == 9


def test_an_arm_that_comes_later_is_all_that_is_played(copied: Path) -> None:
    asked = comparison({"mine": {"rule": {"name": "flora"}}}, controls=["base"])
    heard, _ = played(asked, copied)
    assert heard.all("begins") == ["mine, seed 0", "mine, seed 1"]


def test_an_unfinished_cell_is_none_and_goes_on_where_it_stands(
    copied: Path, once: tuple[Path, Heard]
) -> None:
    cell = copied / "cells" / "flexlora" / "1"
    (cell / "results.json").unlink()
    assert ("flexlora", 1) not in [(x.arm, x.seed) for x in finished(copied)]
    heard, _ = played(ASKED, copied)
    assert heard.all("begins") == ["flexlora, seed 1"]
    assert_same_run(cell, once[0] / "cells" / "flexlora" / "1")


BROKEN = """
from flexlora.rules.fedit import FedIT

class Broken(FedIT):
    name = "broken"

    def combine_layer(self, layer, state, contributions):
        raise RuntimeError("on purpose")
"""


def test_a_cell_that_fails_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    asked = comparison({"bad": {"rule": {"name": f"{tmp_path}/broken.py:Broken"}}}, rules=["fedit"])
    out = tmp_path / "out"
    heard, failed = played(asked, out)
    assert list(failed) == ["cells/bad/0", "cells/bad/1"]
    assert heard.all("ends") == ["fedit, seed 0", "fedit, seed 1"]
    reason = failed["cells/bad/0"].reason
    words = (
        r"combine_layer of rule broken, layer \S+: RuntimeError: on purpose \(broken\.py, line 8\)"
    )
    assert re.fullmatch(words, reason)
    assert heard.all("fails") == [
        f"bad, seed 0: {reason}",
        f"bad, seed 1: {reason}",
    ]
    told = json.loads((out / "failed.json").read_text())
    assert told["cells/bad/0"]["reason"] == reason
    assert [cell.arm for cell in finished(out)] == ["fedit", "fedit"]
    heard, failed = played(asked, out)  # They are tried again, and nothing else is.
    assert heard.all("begins") == ["bad, seed 0", "bad, seed 1"]
    assert len(failed) == 2


def test_what_failed_once_and_goes_well_later_has_not_failed(
    monkeypatch: pytest.MonkeyPatch, copied: Path
) -> None:
    shutil.rmtree(copied / "cells" / "fedit" / "0")

    def lost(*_: object, **__: object) -> Setup:
        raise ModelError("the disk of the model is away; mount it")

    with monkeypatch.context() as without:
        without.setattr("flexlora.federation.place.prepare", lost)
        _, failed = played(ASKED, copied)
        assert list(failed) == ["cells/fedit/0"]
    _, failed = played(ASKED, copied)
    assert failed == {}
    assert json.loads((copied / "failed.json").read_text()) == {}


def test_a_stop_that_a_library_took_for_an_error_is_no_failure(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(copied / "cells" / "fedit" / "0")

    class Stopped(Heard):
        def ends_all(self, error: Exception) -> bool:
            return isinstance(error, ModelError)

    def cut_short(*_: object, **__: object) -> Setup:
        raise ModelError("the model is broken")

    monkeypatch.setattr("flexlora.federation.place.prepare", cut_short)
    player = Player(ASKED, copied, Stopped(), Failures(copied))
    with pytest.raises(ModelError):
        player.play(plan.cells(ASKED, copied, {"fedit": None}))
    assert not (copied / "failed.json").exists()


TUNED = {"rates": [1e-3, 1e-2], "tuning_seeds": [7], "tuning_rounds": 1, "rules": ["fedit"]}


def test_rates_are_tuned_on_validation_alone_then_the_cells_are_played_at_them(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    asked = comparison(**{**TUNED, "seeds": [0]})
    heard, failed = played(asked, out)
    assert failed == {}
    tuned = read_tuned(out)
    assert tuned is not None
    assert heard.all("ends")[0] == "fedit, seed 7, learning rate 0.001"
    rate = tuned.rates["fedit"]
    losses = {rate: values[0] or 0.0 for rate, values in tuned.seen["fedit"].items()}
    assert rate == min(losses, key=losses.__getitem__)
    for folder in sorted((out / "tuning" / "fedit").glob("*/7")):
        opened = Run.open(folder)
        assert float(folder.parent.name) == opened.config.training.learning_rate
        assert opened.read_results()["rows"] == []  # type: ignore[index]  # Nothing is tested.
        assert opened.data["unseen_examples"] == 0
        (record,) = opened.records()
        assert tuned.seen["fedit"][opened.config.training.learning_rate] == (record.scores["loss"],)
        # Of many rates nobody asks for the adapters: they would fill the disk.
        assert not (folder / "checkpoints").exists()
        with pytest.raises(RunError, match=r"a comparison keeps none of its tuning runs"):
            load_state(opened)
    (cell,) = finished(out)
    assert load_state(Run.open(cell.folder), "last").round == 2
    assert isinstance(cell.config, Config)
    assert cell.config.training.learning_rate == rate
    # Another process finds the same, and nothing to do.
    heard, _ = played(asked, out)
    assert heard.all("begins") == []


def test_a_process_that_knows_of_fewer_arms_sets_nothing_aside(tmp_path: Path) -> None:
    """The arms that it does not know of may have extended the grid."""
    out = tmp_path / "out"
    before = comparison(rules=["fedit"], rates=[1e-2], seeds=[0])
    begin(before, out)
    played(comparison(rules=["fedit"], rates=[1e-3, 1e-2], tuning_seeds=[7], seeds=[0]), out)
    (cell,) = finished(out)
    old = before.arm("fedit").config(0, 0.5)
    job = plan.Job(before.arm("fedit"), 0, cell.folder, old)
    with pytest.raises(RunError, match=r"with more arms, seeds or rates by now, .* start this"):
        Player(before, out, Heard(), Failures(out)).play([job])
    assert finished(out) == [cell]
    assert not (out / "failed.json").exists()


def test_a_cell_at_a_rate_that_is_not_its_arms_any_more_is_set_aside_and_played_again(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    played(comparison(rules=["fedit"], rates=[0.5], seeds=[0]), out)
    assert [cell.arm for cell in finished(out)] == ["fedit"]
    heard, _ = played(comparison(**{**TUNED, "rates": [1e-2, 0.5], "seeds": [0]}), out)
    assert heard.all("ends")[-1] == "fedit, seed 0"
    (cell,) = finished(out)
    assert cell.config is not None
    assert cell.config.training.learning_rate < 0.5
    (aside,) = (out / "set-aside" / "cells" / "fedit").iterdir()
    assert load_config(aside / "config.toml").training.learning_rate == 0.5
    words = f"fedit, seed 0: the run at another learning rate is now {aside}"
    assert heard.all("notes")[-1] == words
    rate = cell.config.training.learning_rate
    assert heard.all("notes")[-2] == f"learning rates: fedit {rate:g}"
    assert "a best rate lies at the edge: " in heard.all("notes")[0]


def test_an_arm_without_a_rate_that_trains_to_the_end_fails_and_says_so(tmp_path: Path) -> None:
    out = tmp_path / "out"
    diverging = BROKEN.replace("RuntimeError", "__import__('flexlora.errors').errors.RoundError")
    (tmp_path / "broken.py").write_text(diverging)
    bad = {"rule": {"name": f"{tmp_path}/broken.py:Broken"}}
    asked = comparison({"bad": bad}, **{**TUNED, "rates": [1e-3, 1e-2], "seeds": [0]})
    heard, failed = played(asked, out)
    assert list(failed) == ["cells/bad/0"]  # That a rate is too high is no failure by itself.
    assert failed["cells/bad/0"].reason.startswith("no learning rate of arm 'bad' in ")
    assert [cell.arm for cell in finished(out)] == ["fedit"]
    assert "bad, seed 7, learning rate 0.001: on purpose" in heard.all("fails")


def test_hosts_are_compared_like_rules(tmp_path: Path) -> None:
    """Sparse rounds are those of slora alone, and their bytes are its own."""
    sparse = {"training": {"sparse_rounds": 1}}
    asked = comparison(None, sparse, rules=["flexlora"], hosts=["fedit", "slora"], seeds=[0])
    assert played(asked, tmp_path / "out")[1] == {}
    by_arm = {cell.arm: Run.open(cell.folder).records() for cell in finished(tmp_path / "out")}
    told = {arm: [record.sparse for record in records] for arm, records in by_arm.items()}
    assert told == {"flexlora · fedit": [False, False], "flexlora · slora": [True, False]}
