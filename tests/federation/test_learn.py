"""`data.learn`: the last answer of a chat is learnt, or each; scored is the last alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flexlora.config.config import Config
from flexlora.config.config_file import parse_config
from flexlora.errors import ConfigError
from flexlora.federation import prepare, run
from flexlora.models import load_model
from flexlora.runs.run_directory import Run
from small import SMALL

TEMPLATE = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] }}"
    "{{ eos_token if m['role'] == 'assistant' else '' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Twenty chats of two answers and one of each other kind of turn, and a model that chats."""
    folder = tmp_path_factory.mktemp("chats")
    base = load_model("tiny")
    base.tokenizer.chat_template = TEMPLATE
    base.model.save_pretrained(folder / "model")  # type: ignore[operator]
    base.tokenizer.save_pretrained(folder / "model")
    rows = [
        [
            {"from": "system", "value": "Be brief."},
            {"from": "human", "value": f"One and {i}?"},
            {"from": "gpt", "value": f"first {i}"},
            {"from": "human", "value": "And now?"},
            {"from": "gpt", "value": f"last {i}"},
        ]
        for i in range(20)
    ]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps({"chat": row}) + "\n" for row in rows))
    return {
        "model": {**SMALL["model"], "name": str(folder / "model"), "prompt": "chat"},
        "data": {"source": "jsonl", "path": str(path), "messages": "chat", "test_share": 0.2},
        "partition": {"by": "iid", "clients": 2},
    }


def config(data: dict[str, dict[str, Any]], **options: Any) -> Config:
    tables = {**SMALL, **data, "data": {**data["data"], **options}}
    return parse_config({**tables, "federation": {"rounds": 1, "clients_per_round": 2}})


def test_each_answer_is_learnt_behind_what_stood_there(data: dict[str, dict[str, Any]]) -> None:
    last, all_ = (prepare(config(data, learn=kind), outline=True) for kind in ("last", "all"))
    text = last.model.tokenizer.decode
    for client, examples in last.examples.train.items():
        twice = all_.examples.train[client]
        assert list(twice[1::2]) == list(examples)
        assert [x.id for x in twice[::2]] == [f"{x.id}, message 3" for x in examples]
        for first, final in zip(twice[::2], twice[1::2], strict=True):
            number = text(first.response).removeprefix("first ").removesuffix("</s>")
            assert text(first.prompt) == f"<system>Be brief.<user>One and {number}?<assistant>"
            assert text(final.prompt + final.response) == (
                f"{text(first.prompt + first.response)}<user>And now?<assistant>last {number}</s>"
            )
    for part in ("validation", "own_validation", "own", "unseen"):
        kept = getattr(all_.examples, part)
        assert kept == getattr(last.examples, part)
        for client in kept:
            assert all(text(x.response).startswith("last ") for x in client.examples)
    told = all_.describe()
    assert told["training_examples"] == 2 * last.describe()["training_examples"]
    assert (told["training_examples_left_out"], told["clients_left_out"]) == (0, 0)
    assert told["encoding_fingerprint"] != last.describe()["encoding_fingerprint"]


def test_what_is_trained_on_as_an_earlier_answer_is_not_scored(
    data: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """A chat whose whole stands at the beginning of a longer one is the same example twice."""
    path = Path(data["data"]["path"])
    rows = [json.loads(line)["chat"] for line in path.read_text().splitlines()]
    both = tmp_path / "both.jsonl"
    both.write_text("".join(json.dumps({"chat": x}) + "\n" for r in rows for x in (r, r[:3])))
    asked = {kind: config(data, learn=kind, path=str(both)) for kind in ("last", "all")}
    scored = {}
    for kind, wanted in asked.items():
        examples = prepare(wanted, outline=True).examples
        learnt = {x.prompt + x.response for part in examples.train.values() for x in part}
        scored[kind] = [x.prompt + x.response for c in examples.own for x in c.examples]
        assert not learnt & set(scored[kind])
        assert scored[kind]
    assert len(scored["all"]) < len(scored["last"])


def test_a_run_learns_from_all(data: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    asked = config(data, learn="all")
    folder = run(asked, tmp_path / "r").folder
    examples = prepare(asked, outline=True).examples.train
    (record,) = Run.open(folder).read_metrics()
    assert record["examples"] == sum(map(len, examples.values()))


def test_what_is_too_long_of_all_answers_is_left_out_one_by_one(
    data: dict[str, dict[str, Any]],
) -> None:
    whole = prepare(config(data, learn="all"), outline=True).examples
    longest = max(len(x.prompt + x.response) for part in whole.train.values() for x in part[::2])
    asked = config(data, learn="all", max_tokens=longest, skip_too_long=True)
    tables = asked.document()
    tables["evaluation"] |= {"every": 0, "unseen": False, "on_clients": "off"}
    setup = prepare(parse_config(tables), outline=True)
    kept = setup.describe()
    assert kept["training_examples_left_out"] == kept["training_examples"] > 0
    assert all("message 3" in x.id for part in setup.examples.train.values() for x in part)
    assert any("left out as too long" in note for note in setup.notes)


def test_all_is_of_chats_alone(data: dict[str, dict[str, Any]]) -> None:
    with pytest.raises(ConfigError, match=r"data.learn is 'all', but data.messages names no col"):
        config(data, learn="all", messages="", prompt="q", response="a")
    with pytest.raises(ConfigError, match=r"data.learn"):
        config(data, learn="first")
