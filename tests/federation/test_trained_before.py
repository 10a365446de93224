"""What a run begins from was trained on, too: nothing of it is scored as if nobody had seen it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from commands import Flexlora, caller
from flexlora.config.config import Config
from flexlora.config.config_file import parse_config
from flexlora.errors import RunError
from flexlora.federation import Session
from flexlora.runs.run_directory import Run
from resealed import reseal
from small import SMALL, write


def row(number: int) -> str:
    kind = f"kind {number % 2}"
    return json.dumps({"q": f"ask {number}", "a": "yes", "k": kind, "who": str(number % 3)}) + "\n"


def asked(data: Path, seed: int = 0, **tables: Any) -> Config:
    given = {
        **SMALL,
        "data": {
            "source": "jsonl",
            "path": str(data),
            "prompt": "q",
            "response": "a",
            "category": "k",
            "client": "who",
            "test_share": 0.4,
            "max_tokens": 200,
        },
        "partition": {"by": "client"},
        "federation": {"rounds": 1, "clients_per_round": 2, "seed": seed},
        "evaluation": {**SMALL["evaluation"], "every": 0, "on_clients": "off"},
    }
    return parse_config({**given, **{name: {**given[name], **x} for name, x in tables.items()}})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the rows and a run of them."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "d.jsonl").write_text("".join(map(row, range(40))))
    Session.of(asked(folder / "d.jsonl")).play(folder / "run")
    return folder


@pytest.fixture
def rows(made: Path, tmp_path: Path) -> Path:
    """The same rows, whatever becomes of them."""
    return Path(shutil.copy(made / "d.jsonl", tmp_path / "d.jsonl"))


def prompts(session: Session, part: str) -> set[str]:
    tokenizer, examples = session.setup.model.tokenizer, session.setup.examples
    if part == "train":
        of = [x for found in examples.train.values() for x in found]
    else:
        of = [x for c in getattr(examples, part) for x in c.examples]
    return {tokenizer.decode(x.prompt) for x in of}


@pytest.mark.parametrize("door", ["continue", "init_from"])
@pytest.mark.parametrize("change", ["more rows", "another seed"])
def test_nothing_that_the_parent_trained_on_is_scored(
    made: Path, rows: Path, door: str, change: str
) -> None:
    """Rows that are kept apart are drawn anew, where there are more of them and by another seed."""
    if change == "more rows":
        rows.write_text(rows.read_text() + "".join(map(row, range(40, 50))))
    seed = int(change == "another seed")
    before = prompts(Session.of(asked(made / "d.jsonl")), "train")
    fresh = Session.of(asked(rows, seed))
    assert prompts(fresh, "unseen") & before  # Else nothing would be shown here.
    if door == "continue":
        tables: dict[str, dict[str, Any]]
        tables = {"data": {"path": str(rows)}, "federation": {"rounds": 2, "seed": seed}}
        session = Session.continuing(made / "run", tables)
    else:
        session = Session.of(asked(rows, seed, model={"init_from": str(made / "run")}))
    for part in ("unseen", "own"):
        assert not prompts(session, part) & before
    assert prompts(session, "unseen") == prompts(fresh, "unseen") - before
    assert prompts(session, "train") == prompts(fresh, "train")
    many = len(prompts(fresh, "unseen") & before)
    assert any(
        f"{many} of {len(prompts(fresh, 'unseen'))} unseen examples were trained on before" in note
        for note in session.setup.notes
    )


def test_more_rounds_alone_score_the_same(made: Path) -> None:
    session = Session.continuing(made / "run", {"federation": {"rounds": 2}})
    whole = Session.of(asked(made / "d.jsonl", federation={"rounds": 2}))
    assert prompts(session, "unseen") == prompts(whole, "unseen")
    assert session.setup.notes == whole.setup.notes


def test_it_is_handed_on_and_held_to_on_resume(made: Path, rows: Path, tmp_path: Path) -> None:
    tables: dict[str, dict[str, Any]]
    tables = {"data": {"path": str(rows)}, "federation": {"rounds": 3, "seed": 1}}
    session = Session.continuing(made / "run", tables)
    scored = prompts(session, "unseen")
    folder = session.play(tmp_path / "more").folder
    was, now = Run.open(made / "run").trained(), Run.open(folder).trained()
    assert was.digests < now.digests
    assert was.whole
    assert now.whole
    shutil.rmtree(folder / "checkpoints" / "round-0003")
    (folder / "results.json").unlink()
    assert prompts(Session.resuming(folder), "unseen") == scored
    again = Session.continuing(folder, {"federation": {"rounds": 4, "seed": 2}})
    first = prompts(Session.of(asked(made / "d.jsonl")), "train")
    assert not prompts(again, "unseen") & (first | prompts(session, "train"))


def test_of_an_adapter_and_of_a_run_without_the_file_nothing_is_known(
    made: Path,
    rows: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flexlora: Flexlora = caller(monkeypatch, capsys)
    flexlora("export", made / "run", "--rank", 2, "--out", tmp_path / "adapter")
    old = shutil.copytree(made / "run", tmp_path / "old")
    (old / "trained.json").unlink()
    reseal(old)
    for begin in (tmp_path / "adapter", old):
        path = write(asked(rows, model={"init_from": str(begin)}), tmp_path / "c.toml")
        told = flexlora("run", path, "--dry-run").out
        assert "what was trained on before this run begins is not all known here" in told


@pytest.mark.parametrize("text", ["{", "{}", '{"whole": 1, "digests": []}', '{"digests": ["x"]}'])
def test_a_damaged_file_is_told(made: Path, tmp_path: Path, text: str) -> None:
    run = shutil.copytree(made / "run", tmp_path / "run")
    (run / "trained.json").write_text(text)
    with pytest.raises(RunError, match=r"trained.json is damaged: it is not as it was written"):
        Run.open(run)
    with pytest.raises(RunError, match=r"trained.json is missing or damaged"):
        Run.open(reseal(run)).trained()
