"""Wrong rules in files: exit code 2, one sentence, and nothing written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from commands import Flexlora
from own_rule import OWN_RULE
from small import small, write
from wrong_input import Arguments, Cases


@dataclass(frozen=True)
class Place:
    """An empty folder, and what may be put there."""

    folder: Path

    def run(self, name: str, source: str = OWN_RULE, at: str = "my.py", **rule: Any) -> Arguments:
        file = self.folder / at
        file.parent.mkdir(exist_ok=True)
        file.write_text(source)
        config = write(small(rule={"name": name, **rule}), self.folder / "c.toml")
        return ["run", config, "--out", self.folder / "out"]


CASES: Cases[Place] = Cases()
case = CASES.add

case("no such file", "rule file gone.py cannot be read (No such file", "relative to the working")(
    lambda p: p.run("gone.py:Mine")
)
case("syntax error", "rule file my.py fails with SyntaxError", "line 1", "correct it")(
    lambda p: p.run("my.py:Mine", "class Mine(:\n")
)
case("a file that fails", "rule file my.py fails with ModuleNotFoundError: No module named")(
    lambda p: p.run("my.py:Mine", "import no_such_module\n")
)
case("a name that it lacks", "my.py has no 'Mein'; did you mean 'Mine'?")(
    lambda p: p.run("my.py:Mein")
)
case("no name", "rule 'my.py:' names no class; give path/to/file.py:Class")(
    lambda p: p.run("my.py:")
)
case("no rule", "'helper' of rule file my.py is no rule; give a class that derives from")(
    lambda p: p.run("my.py:helper")
)
case("an abstract rule", "'Half' of rule file my.py lacks ", "define what flexlora.Rule asks for")(
    lambda p: p.run("my.py:Half")
)
case("an unknown option", "rule.bond is not an option of 'my.py:Mine'; did you mean 'bound'?")(
    lambda p: p.run("my.py:Mine", bond=2.0)
)
case("an option of a wrong type", 'rule.bound is "far", expected a number')(
    lambda p: p.run("my.py:Mine", bound="far")
)
case("an option out of range", "rule.bound is -1.0; give 0 or more")(
    lambda p: p.run("my.py:Mine", bound=-1.0)
)
case("a name that is taken", "'Taken' of rule file my.py calls itself 'fedit'")(
    lambda p: p.run("my.py:Taken")
)
case("a folder with a colon", "a:b/my.py has no 'Mein'; did you mean 'Mine'?")(
    lambda p: p.run(f"{p.folder}/a:b/my.py:Mein", at="a:b/my.py")
)
case("no class named", "rule 'my.py' names no class; give path/to/file.py:Class")(
    lambda p: p.run("my.py")
)


@pytest.mark.parametrize("name", list(CASES))
def test_wrong_rules(
    flexlora: Flexlora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    CASES.assert_refused(name, Place(tmp_path), flexlora, untouched=[tmp_path])
