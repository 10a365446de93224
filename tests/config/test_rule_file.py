"""A rule in a user's own file is named, checked and sent like one that is registered."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest

import flexlora
from flexlora.config.config import RuleConfig
from flexlora.config.settings import rule_fingerprint, rule_of
from flexlora.errors import ConfigError
from flexlora.rules import RULES, Rule, make_rule
from flexlora.rules.hetlora import HetLoRA
from own_rule import OWN_RULE


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.py").write_text(OWN_RULE)
    return tmp_path / "my.py"


def made(spec: str, **options: object) -> Rule:
    return rule_of(RuleConfig(name=spec, options=options))


def test_it_is_made_with_its_options(file: Path) -> None:
    rule: Any = made("my.py:Mine", bound=2)
    assert (rule.name, rule.source, rule.bound) == ("mine", "a test", 2)
    assert isinstance(rule, Rule)
    assert "mine" not in RULES
    assert type(made(f"{file}:Mine")) is type(rule)


def test_a_registered_one_is_made_as_ever() -> None:
    rule = rule_of(RuleConfig(name="hetlora", options={"gamma": 0.5}))
    assert isinstance(rule, HetLoRA)
    assert rule.gamma == 0.5
    assert rule_fingerprint(RuleConfig(name="hetlora")) == ""


def test_a_folder_may_have_a_colon(file: Path) -> None:
    (file.parent / "a:b").mkdir()
    moved = file.rename(file.parent / "a:b" / "my.py")
    chosen = RuleConfig(name=f"{moved}:Mine")
    assert rule_of(chosen).name == "mine"
    assert chosen.label == "Mine"


def test_a_file_that_changes_is_another_rule(file: Path) -> None:
    chosen = RuleConfig(name="my.py:Mine")
    first, before = rule_of(chosen), rule_fingerprint(chosen)
    assert before == hashlib.sha256(file.read_bytes()).hexdigest()
    assert type(rule_of(chosen)) is type(first)
    file.write_text(OWN_RULE.replace("bound: float = 1.0", "bound: float = 5.0"))
    changed: Any = rule_of(chosen)
    assert changed.bound == 5.0
    assert rule_fingerprint(chosen) != before


def test_it_reaches_another_process_as_it_was(file: Path) -> None:
    sent = bytes(ForkingPickler.dumps(made("my.py:Mine", bound=3.0)))
    file.unlink()
    code = (
        "import pickle, sys; rule = pickle.loads(sys.stdin.buffer.read());"
        "print(rule.name, rule.bound, type(rule).__name__)"
    )
    source = str(Path(flexlora.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=sent,
        env={"PYTHONPATH": source},
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode().split() == ["mine", "3.0", "Mine"]


WRONG = [
    ("gone.py:Mine", {}, "rule file gone.py cannot be read (No such file or directory); its path"),
    ("my.py:", {}, "rule 'my.py:' names no class; give path/to/file.py:Class"),
    ("my:Mine", {}, "names no class"),
    ("my.py:Mien", {}, "rule file my.py has no 'Mien'; did you mean 'Mine'?"),
    ("my.py:LIMIT", {}, "'LIMIT' of rule file my.py is no rule; give a class that derives from"),
    ("my.py:helper", {}, "'helper' of rule file my.py is no rule"),
    ("my.py:Traits", {}, "'Traits' of rule file my.py is no rule"),
    ("my.py:Half", {}, "'Half' of rule file my.py lacks "),
    ("my.py:Rule", {}, "'Rule' of rule file my.py lacks "),
    ("my.py:Nameless", {}, "'Nameless' of rule file my.py has no source; give the class a const"),
    ("my.py:Taken", {}, "calls itself 'fedit', as a registered rule does; choose another name"),
    ("my.py:Mine", {"bond": 1.0}, "rule.bond is not an option of 'my.py:Mine'; did you mean 'bou"),
    ("my.py:Mine", {"gamma": 1.0}, "leave it out, or set rule.name to 'hetlora'"),
    ("my.py:Mine", {"bound": "far"}, 'rule.bound is "far", expected a number; correct it'),
    ("my.py:Mine", {"bound": -1.0}, "rule.bound is -1.0; give 0 or more"),
    ("my.py:Mine", {"sides": ""}, "rule 'my.py:Mine' cannot be made: ZeroDivisionError: "),
]


@pytest.mark.usefixtures("file")
@pytest.mark.parametrize(("spec", "options", "message"), WRONG, ids=[m[:45] for *_, m in WRONG])
def test_what_is_wrong_is_said_in_one_sentence(
    spec: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        made(spec, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_broken_file_is_said(file: Path) -> None:
    file.write_text("class Mine(:\n")
    with pytest.raises(ConfigError, match=r"rule file my\.py fails with SyntaxError: .*line 1"):
        made("my.py:Mine")
    file.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        rule_fingerprint(RuleConfig(name="my.py:Mine"))


def test_make_rule_says_where_files_are_taken() -> None:
    with pytest.raises(ConfigError, match=r"a rule in a file.*name the file in a config, or"):
        make_rule("my.py:Mine")
