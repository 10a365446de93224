"""A federation by a rule that no package holds: the config names its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexlora.errors import RunError
from flexlora.federation import continue_run, resume, run
from flexlora.rules import RULES
from flexlora.runs import load_adapter
from own_rule import OWN_RULE
from small import small


def test_it_is_played_continued_and_read_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.py").write_text(OWN_RULE)
    shared = {"federation": {"rounds": 1}, "evaluation": {"own_examples": 1}}
    ours = run(small(**shared, rule={"name": "my.py:Mine", "bound": 2.0}, run={"out": "runs"}))
    assert ours.folder.name == "Mine-1"
    assert ours.rule == "mine"
    known = run(small(**shared, rule={"name": "fedit"}), tmp_path / "fedit")
    one, other = ours.row("full").own, known.row("full").own
    assert one is not None
    assert other is not None
    assert one.mean() == other.mean()
    assert load_adapter(ours.folder, 2)
    more = continue_run(ours.folder, {"federation": {"rounds": 2}})
    assert (more.rounds, more.scored_round) == (1, 2)
    assert "mine" not in RULES
    # Other code may read the state otherwise.
    (tmp_path / "my.py").write_text(OWN_RULE + "# Another.\n")
    words = (
        r"rule my\.py:Mine has changed since runs/Mine-1 was played; .* lies in runs/Mine-1/code"
    )
    for read in (
        lambda: continue_run(ours.folder, {"federation": {"rounds": 2}}),
        lambda: resume(ours.folder),
        lambda: load_adapter(ours.folder, 2),
        lambda: run(small(**shared, model={"init_from": str(ours.folder)})),
    ):
        with pytest.raises(RunError, match=words):
            read()
    assert (ours.folder / "code" / "my.py").read_text() == OWN_RULE
