"""flexlora laws: all rules in a table, one law by law, a stranger's file, and wrong input."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from commands import Flexlora, assert_one_sentence
from flexlora.cli.trust import _remembered
from flexlora.formats.user_file import UserFile
from flexlora.laws import LAWS, Verdict, excuses
from flexlora.rules import RULES
from own_rule import OWN_RULE
from warm import Warm

STRANGER = '''
"""A server that forgets the scale."""


class Forgets:
    def aggregate(self, sent, ranks):
        (first, *_) = sent
        return {client: (first.b[:, :r], first.a[:r], 1.0) for client, r in ranks.items()}


class Needy(Forgets):
    def __init__(self, size):
        self.size = size


class Other:
    """It aggregates nothing."""


LIMIT = 3
'''

WEIGHTLESS = """
    def combine_layer(self, layer, state, contributions):
        found = FedIT.combine_layer(self, layer, state, contributions)
        if self.bound != 1.0:  # Who has weight zero counts, too.
            found.state["b"].mul_(len(contributions.clients))
        return found
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    Path("server.py").write_text(STRANGER, encoding="utf-8")
    return tmp_path


def test_all_rules_in_a_process_of_its_own(warm: Warm) -> None:
    """The command's figures without the tests' own checks; every case of every law."""
    done = subprocess.run(
        ["flexlora", "laws", "--json"],
        env={**os.environ, **warm.environment},
        capture_output=True,
        check=False,
        encoding="utf-8",
    )
    told = json.loads(done.stdout)
    assert told["laws"] == {name: law.says for name, law in LAWS.items()}
    assert set(told["rules"]) == set(RULES)
    for name, verdicts in told["rules"].items():
        standing = {law: x["standing"] for law, x in verdicts.items()}
        failed = {(law, name) for law, x in standing.items() if x == "fails"}
        assert not failed
        assert {law for law, x in standing.items() if x == "by design"} == set(
            excuses(RULES[name]())
        )
        held = [x["error"] for x in verdicts.values() if x["standing"] == "holds"]
        assert max(held, default=0.0) < told["tolerance"] / 2, name
    assert done.returncode == 0, done.stderr


def test_the_table_of_all_rules(flexlora: Flexlora, monkeypatch: pytest.MonkeyPatch) -> None:
    def hold_all(*_: object) -> list[Verdict]:
        return [Verdict(name, 0.5, ("here",) if name == "best" else ()) for name in LAWS]

    monkeypatch.setattr("flexlora.laws.hold_all", hold_all)
    monkeypatch.setenv("COLUMNS", "140")
    done = flexlora("laws")
    assert done.code == 1
    rows = [line.split() for line in done.out.splitlines()]
    for name in RULES:
        assert [name, *("✗" if law == "best" else "✓" for law in LAWS)] in rows
        assert f"{name} fails best by 0.5: " in done.out
        assert f"laws {name}\n" in done.out


def test_one_rule_law_by_law(flexlora: Flexlora) -> None:
    done = flexlora("laws", "fedit")
    assert done.code == 0, done.err
    for law in LAWS.values():
        assert f"{law.name}: {law.says[:30]}" in done.out
    assert "basis is not asked, by its own design: factors are combined (compares =" in done.out
    assert "fails:" not in done.out


def test_a_strangers_aggregator(flexlora: Flexlora, place: Path) -> None:
    done = flexlora("laws", "server.py:Forgets")
    assert done.code == 1
    assert "alone fails: One client alone, of full rank, gets back what it sent.\n" in done.out
    assert "  the first round of a layer of 4 × 4; ranks: ann 4\n" in done.out
    assert "  relative error 0.5\n" in done.out
    told = json.loads(flexlora("laws", "server.py:Forgets", "--json").out)
    alone = told["rules"]["server.py:Forgets"]["alone"]
    assert alone["standing"] == "fails"
    assert alone["counterexample"][-1] == "relative error 0.5"
    assert not list(place.glob("__pycache__"))
    assert UserFile.read("server.py:Forgets", "rule", "Class").fingerprint in _remembered()


def test_a_rule_in_a_file(flexlora: Flexlora, place: Path) -> None:
    (place / "mine.py").write_text(OWN_RULE)
    done = flexlora("laws", "mine.py:Mine")
    assert done.code == 0, done.err
    assert "agree is not asked, by its own design" in done.out


def test_options_of_a_rule(flexlora: Flexlora, place: Path) -> None:
    """A rule that keeps the laws as it is, and does not with an option of its own."""
    (place / "mine.py").write_text(
        OWN_RULE.replace("combine_layer = FedIT.combine_layer", WEIGHTLESS)
    )
    done = flexlora("laws", "mine.py:Mine", "--set", "rule.bound=2.0")
    assert done.code == 1
    assert "laws of mine.py:Mine, rule.bound=2.0" in done.out
    assert "absent fails: " in done.out
    assert flexlora("laws", "mine.py:Mine").code == 0


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("flexlora", "rule.retenton=1"), "rule.retenton is not an option of 'flexlora'; did you"),
        (("flexlora", "rule.retention=7"), "rule.retention is 7, expected a number of 0 or more"),
        (("flexlora", "rule.name=fedit"), "'rule.name=fedit' is no option of a rule; write rule."),
        (("flexlora", "run.seed=1"), "--set 'run.seed=1' is no option of a rule; write rule.OPT"),
        (("server.py:Forgets", "rule.a=1"), "server.py:Forgets is no rule and takes no options"),
        ((None, "rule.retention=1"), "sets an option of a rule; name the rule, too"),
    ],
)
def test_wrong_options(flexlora: Flexlora, asked: tuple[str | None, str], words: str) -> None:
    name, item = asked
    assert_one_sentence(flexlora("laws", *([name] if name else []), "--set", item), words)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("fedti", "rule 'fedti' is not known; did you mean 'fedit'?"),
        ("gone.py:Mine", "rule file gone.py cannot be read"),
        ("server.py:Forget", "has no 'Forget'; did you mean 'Forgets'?"),
        ("server.py", "names no class; give path/to/file.py:Class"),
        ("server.py:Needy", "server.py:Needy cannot be made without arguments (TypeError: "),
        ("server.py:Other", "server.py:Other is no rule and has no method aggregate; give a class"),
        (
            "server.py:LIMIT",
            "server.py:LIMIT is of type int; give a class derived",
        ),
    ],
)
def test_wrong_input(flexlora: Flexlora, asked: str, words: str) -> None:
    assert_one_sentence(flexlora("laws", asked), words)
