"""Code that a run names is run by the word of who goes on with it, or where that user ran it."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands import Flexlora, assert_one_sentence
from comparing.comparisons import comparison
from flexlora.cli.trust import _remembered, remember
from flexlora.config.settings import rule_fingerprint
from flexlora.formats.user_file import UserFile
from flexlora.runs.run_directory import Run
from peft_folders import pair, write_folder
from small import SMALL, small, write

# It leaves a trace, and then ends what is tried.
FOREIGN = "open('ran', 'w').close()\nraise SystemExit('ran')\n"
RULE = {"name": "theirs.py:Mine"}


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that came with its code, unpacked in the working directory."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    Path("theirs.py").write_text(FOREIGN)
    return made(Path("foreign"))


def made(folder: Path, **evaluation: object) -> Path:
    rule = {} if evaluation else RULE
    resolved = {"threads": 1, "device": "cpu", "layers": 8, "clients_per_round": 2}
    config = small(rule=rule, evaluation=evaluation)
    data = {"rule_fingerprint": rule_fingerprint(config.rule)}
    return Run.create(config, folder, resolved=resolved, data=data).folder


def ran() -> bool:
    """Whether the code was run since this was asked last."""
    trace = Path("ran")
    found = trace.exists()
    trace.unlink(missing_ok=True)
    return found


COMMANDS = {
    "resume": ("resume", "foreign"),
    "export": ("export", "foreign", "--rank", 2, "--out", "out"),
    "run from it": ("run", "c.toml", "--out", "out"),
    "compare from it": ("compare", "compare.toml", "--out", "out"),
}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.usefixtures("foreign")
def test_foreign_code_needs_a_word(flexlora: Flexlora, name: str) -> None:
    write(small(model={"init_from": "foreign"}), Path("c.toml"))
    compared = comparison(tables={"model": {"init_from": "foreign"}}, rules=["flexlora"])
    Path("compare.toml").write_text(compared.to_toml())
    asked = COMMANDS[name]
    assert_one_sentence(flexlora(*asked), "names a rule in theirs.py", "add --trust theirs.py")
    Path("other.py").touch()
    words = "--trust other.py is no file that foreign runs (it runs: theirs.py)"
    assert_one_sentence(flexlora(*asked, "--trust", "other.py"), words)
    assert not ran()
    assert_one_sentence(flexlora(*asked, "--trust", "./theirs.py"), "theirs.py fails with SystemE")
    assert ran()
    assert_one_sentence(flexlora(*asked), "theirs.py fails with")  # The word holds from now on,
    assert ran()
    Path("theirs.py").write_text(FOREIGN + "#")  # but not for another file.
    assert_one_sentence(flexlora(*asked), "add --trust theirs.py")
    assert not ran()


@pytest.mark.usefixtures("foreign")
def test_arms_that_begin_from_several_runs_need_a_word_for_each(flexlora: Flexlora) -> None:
    Path("others.py").write_text(FOREIGN)
    other = small(rule={"name": "others.py:Other"})
    resolved = {"threads": 1, "device": "cpu", "layers": 8, "clients_per_round": 2}
    Run.create(other, Path("second"), resolved=resolved)
    Path("others.py").write_text(FOREIGN + "#")
    arms = {
        name: {"model": {**SMALL["model"], "init_from": name}} for name in ("foreign", "second")
    }
    Path("compare.toml").write_text(comparison(arms, rules=["flexlora"]).to_toml())
    asked = ("compare", "compare.toml", "--out", "out")
    done = flexlora(*asked, "--trust", "compare.toml")
    words = "compare.toml is no file that foreign and second run (they run: theirs.py, others.py)"
    assert_one_sentence(done, words)
    assert_one_sentence(
        flexlora(*asked, "--trust", "theirs.py"), "second names a rule in others.py"
    )
    assert not ran()


@pytest.mark.parametrize("begin", [None, "adapter"])
@pytest.mark.usefixtures("foreign")
def test_a_word_for_what_nothing_names_is_refused(flexlora: Flexlora, begin: str | None) -> None:
    """As where a run names other code: who gives it thinks that it holds of something."""
    write_folder(Path("adapter"), pair("x", 3, 4, 1), r=1)
    write(small(model={} if begin is None else {"init_from": begin}), Path("c.toml"))
    done = flexlora("run", "c.toml", "--out", "out", "--trust", "theirs.py")
    words = ("--trust theirs.py is for code that another run names", "names none; leave it out")
    assert_one_sentence(done, *words)
    assert not ran()
    assert not Path("out").exists()


@pytest.mark.usefixtures("foreign")
def test_continuing_needs_it_too(flexlora: Flexlora) -> None:
    asked = ("continue", "foreign", "--set", "federation.rounds=9")
    assert_one_sentence(flexlora(*asked), "add --trust theirs.py")
    assert_one_sentence(flexlora(*asked, "--trust", "theirs.py"), "has no checkpoint")


@pytest.mark.usefixtures("foreign")
def test_what_one_s_own_config_has_named_needs_none(flexlora: Flexlora) -> None:
    config = write(small(rule=RULE), Path("c.toml"))
    assert_one_sentence(flexlora("run", config), "theirs.py fails with")
    assert ran()
    assert_one_sentence(flexlora("resume", "foreign"), "theirs.py fails with")
    assert ran()


@pytest.mark.usefixtures("foreign")
def test_metrics_are_code_too(flexlora: Flexlora) -> None:
    made(Path("scored"), metrics=["loss", "theirs.py:score"])
    assert_one_sentence(flexlora("resume", "scored"), "a metric in theirs.py", "--trust theirs.py")
    done = flexlora("export", "scored", "--rank", 2, "--out", "out")  # It scores nothing.
    assert_one_sentence(done, "has no checkpoint")


@pytest.mark.usefixtures("foreign")
def test_reading_a_run_runs_nothing(flexlora: Flexlora) -> None:
    assert flexlora("inspect", "foreign").code == 0
    assert flexlora("report", "foreign").code == 0
    assert not ran()


def test_a_user_without_a_home_is_asked_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", home)
    (tmp_path / "own.py").write_text("x = 1")
    file = UserFile.read(f"{tmp_path}/own.py:x", "rule", "Class")
    remember([])
    remember([file])
    assert _remembered() == set()


@pytest.mark.usefixtures("foreign")
def test_where_nothing_can_be_remembered_a_word_is_needed_each_time(
    flexlora: Flexlora, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", "file")
    asked = ("resume", "foreign")
    assert_one_sentence(flexlora(*asked, "--trust", "theirs.py"), "theirs.py fails with")
    assert_one_sentence(flexlora(*asked), "add --trust theirs.py")
