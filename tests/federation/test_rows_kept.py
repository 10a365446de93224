"""A run made of rows in memory goes on without them: they are in its folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexlora import hold_rows
from flexlora.config.config import Config
from flexlora.config.config_file import parse_config
from flexlora.errors import RunError
from flexlora.federation import Session, continue_run, resume
from flexlora.tasks import held_rows
from small import SMALL
from stops import StopsAfter

ROWS = [
    {"q": f"Name the number {i} in words.", "a": f"number {i}", "who": f"c{i % 3}"}
    for i in range(24)
]
TEST = [{"q": "Name the number 99.", "a": "number 99", "who": "c1"}]


def config() -> Config:
    data = {
        "source": "rows",
        "path": hold_rows(ROWS),
        "test_path": hold_rows(TEST),
        "prompt": "q",
        "response": "a",
        "client": "who",
        "max_tokens": 250,
    }
    return parse_config(
        {**SMALL, "data": data, "partition": {"by": "client"}, "federation": {"rounds": 2}}
        | {"evaluation": {"max_new_tokens": 2, "own_examples": 2}}
    )


def test_it_is_resumed_and_continued_from_its_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Session.of(config()).play(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        Session.of(config()).play(tmp_path / "run", observer=StopsAfter(1))
    assert len(list((tmp_path / "run" / "rows").iterdir())) == 2
    monkeypatch.setattr(held_rows, "_HELD", {})  # As in another process.
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    resumed = resume(moved)
    assert [row.unseen.mean() for row in resumed.rows] == [r.unseen.mean() for r in whole.rows]

    monkeypatch.setattr(held_rows, "_HELD", {})
    more = continue_run(moved, {"federation": {"rounds": 3}}, tmp_path / "more")
    assert more.rounds == 1
    names = [sorted(p.name for p in (f / "rows").iterdir()) for f in (moved, more.folder)]
    assert names[0] == names[1]


def test_rows_that_changed_or_are_gone_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        Session.of(config()).play(tmp_path / "run", observer=StopsAfter(1))
    asked = config().data.options["path"]
    file = tmp_path / "run" / "rows" / f"{asked.removeprefix('rows:')}.jsonl"
    text = file.read_text()
    file.write_text(text.replace("number 7", "number 8"))
    monkeypatch.setattr(held_rows, "_HELD", {})
    with pytest.raises(RunError, match=r"rows in .* are not those that the run was made of"):
        resume(tmp_path / "run")
    file.unlink()
    words = r"is missing, which has the rows .* hold the same rows again with flexlora\.hold_rows"
    monkeypatch.setattr(held_rows, "_HELD", {})
    with pytest.raises(RunError, match=words):
        resume(tmp_path / "run")
    hold_rows(ROWS[1:])
    with pytest.raises(RunError, match=words):
        resume(tmp_path / "run")
    hold_rows(ROWS)
    assert resume(tmp_path / "run").rounds == 2
