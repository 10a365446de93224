"""What is scored and trained on: counted, and left out, kept or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from commands import Flexlora, caller
from flexlora.config.config import Config
from flexlora.config.config_file import parse_config
from flexlora.errors import DataError
from flexlora.federation import prepare, score_model
from flexlora.tasks.clients import Client
from flexlora.tasks.duplicates import near, parted
from flexlora.tasks.task import Example, Turn
from flexlora.tasks.trained import Trained, digest
from small import SMALL, write


def example(name: str, prompt: str, response: str = "yes", **more: Any) -> Example:
    return Example(name, prompt, "", (response,), **more)


SAID = example("t1", "Is it  raining?")
CLIENTS = (
    Client("a", (SAID, example("t2", "one")), (example("v1", "is it raining?"),), ()),
    Client("b", (example("t3", "one"),), (), (example("o1", "new"), example("o2", "one"))),
)
UNSEEN = (
    Client("u", (), (), (example("u1", "Is it  raining?"), example("u2", "IS IT RAINING? "))),
    Client("w", (), (), (example("u3", "Is it  raining?", "no"), example("u4", "two"))),
)


def test_what_is_trained_on_is_not_scored_and_said() -> None:
    found = parted(CLIENTS, (), UNSEEN, "drop")
    assert [c.train for c in found.clients] == [c.train for c in CLIENTS]
    assert [c.validation for c in found.clients] == [(), ()]
    assert [[x.id for x in c.test] for c in found.clients] == [[], ["o1"]]
    # Another answer to the same question is another example.
    assert {c.id: [x.id for x in c.test] for c in found.unseen} == {"w": ["u3", "u4"]}
    assert found.notes == (
        "1 of 3 training examples say what another one says; they train, too",
        "1 of 1 validation examples are trained on, too (0 of them word for word): not scored "
        "(data.duplicates)",
        "1 of 2 own test examples are trained on, too: not scored (data.duplicates)",
        "2 of 4 unseen examples are trained on, too (1 of them word for word): not scored "
        "(data.duplicates)",
    )


def test_all_are_kept_where_that_is_asked_for() -> None:
    found = parted(CLIENTS, (), UNSEEN, "keep")
    assert (found.clients, found.unseen) == (CLIENTS, UNSEEN)
    assert found.notes[-1].endswith("scored all the same (data.duplicates)")


def test_a_refusal_names_the_first_two() -> None:
    with pytest.raises(DataError, match=r"'v1' is 't1' of client 'a'; take them out, or set data"):
        parted(CLIENTS, (), UNSEEN, "refuse")
    clean = (Client("a", (SAID,), (), ()),)
    assert parted(clean, (), (UNSEEN[1],), "refuse").notes == ()


BEFORE = Trained.of([near(example("x", "TWO ")), near(example("x", "new")), near(SAID)])


def test_what_was_trained_on_before_is_not_scored_either() -> None:
    found = parted(CLIENTS, (), UNSEEN, "drop", BEFORE)
    assert [[x.id for x in c.test] for c in found.clients] == [[], []]
    assert {c.id: [x.id for x in c.test] for c in found.unseen} == {"w": ["u3"]}
    assert found.notes[-2:] == (
        "1 of 2 own test examples are trained on, too and 1 of 2 own test examples were trained on "
        "before this run begins: not scored (data.duplicates)",
        "2 of 4 unseen examples are trained on, too (1 of them word for word) and 1 of 4 unseen "
        "examples were trained on before this run begins: not scored (data.duplicates)",
    )
    assert found.trained.digests >= BEFORE.digests
    assert found.trained.digests == BEFORE.digests | {
        digest(near(x)) for c in CLIENTS for x in c.train
    }
    assert parted(CLIENTS, (), UNSEEN, "keep", BEFORE).unseen == UNSEEN
    clean = (Client("a", (SAID,), (), ()),)
    with pytest.raises(DataError, match=r"1 of 2 unseen .* begins: 'u4' is the first of them"):
        parted(clean, (), (UNSEEN[1],), "refuse", BEFORE)


def test_what_is_not_known_of_what_was_trained_on_before_is_said() -> None:
    clean = (Client("a", (SAID,), (), ()),)
    found = parted(clean, (), (UNSEEN[1],), "drop", Trained(whole=False))
    assert found.notes == (
        "what was trained on before this run begins is not all known here: some of what is scored "
        "may be among it",
    )
    assert not found.trained.whole
    assert parted(clean, (), (), "drop", Trained(whole=False)).notes == ()


def test_nothing_left_to_score_is_an_error() -> None:
    with pytest.raises(DataError, match=r"every unseen example is .* before .*; keep others"):
        parted(CLIENTS, (), (UNSEEN[0],), "drop")


def test_a_chat_is_the_same_only_with_its_history() -> None:
    one = example("t", "and now?", history=(Turn("user", "red"), Turn("assistant", "blue")))
    other = example("u", "and now?", history=(Turn("user", "green"), Turn("assistant", "blue")))
    found = parted((Client("a", (one,), (), ()),), (), (Client("u", (), (), (other, one)),), "drop")
    assert [x.history[0].text for x in found.unseen[0].test] == ["green"]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Thirty rows of ten, each three times."""
    rows = [{"q": f"ask {i % 10}", "a": "yes", "k": f"kind {i % 2}"} for i in range(30)]
    rows += [{"q": f"once {i}", "a": "no", "k": "kind 0"} for i in range(10)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data: dict[str, Any] = {
        "source": "jsonl",
        "path": str(tmp_path / "d.jsonl"),
        "prompt": "q",
        "response": "a",
    }
    data |= {"category": "k", "test_share": 0.5, "max_tokens": 200}
    evaluation = {**SMALL["evaluation"], "every": 0, "on_clients": "off"}
    tables = {**SMALL, "data": data, "partition": {"by": "iid", "clients": 2}}
    return parse_config({**tables, "evaluation": evaluation})


def test_dry_run_and_eval_see_the_same_unseen_examples(
    config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flexlora: Flexlora = caller(monkeypatch, capsys)
    setup = prepare(config, outline=True)
    trained = {x.prompt for part in setup.examples.train.values() for x in part}
    unseen = [x for client in setup.examples.unseen for x in client.examples]
    assert unseen
    assert not any(x.prompt in trained for x in unseen)
    note = next(note for note in setup.notes if "unseen examples are trained on, too" in note)
    told = flexlora("run", write(config, tmp_path / "c.toml"), "--dry-run").out
    assert f"note: {note}" in told
    assert score_model(config).mean().examples == len(unseen)
    kept = config.model_copy(update={"data": config.data.model_copy(update={"duplicates": "keep"})})
    assert score_model(kept).mean().examples == 20
