"""flexlora eval: on a config's own unseen examples, and what each of its options does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from commands import Flexlora, assert_one_sentence
from flexlora.config import Config
from flexlora.config.config_file import parse_config
from flexlora.evaluation import Scores
from flexlora.evaluation.aggregate import ClientScore
from flexlora.federation import prepare
from small import SMALL, write

ROWS = [
    {"q": "Which is a colour?", "a": "red", "c": ["red", "dog"]},
    {"q": "Which is an animal?", "a": "dog", "c": ["red", "dog"]},
    {"q": "Which is food?", "a": "bread", "c": ["bread", "wall"]},
    {"q": "Which is a number?", "a": "two", "c": ["two", "wall"]},
]


def config(folder: Path) -> Path:
    rows = folder / "rows.jsonl"
    rows.write_text("\n".join(map(json.dumps, ROWS)))
    path = folder / "c.toml"
    path.write_text(
        f"""
[data]
source = "jsonl"
path = {json.dumps(str(rows))}
prompt = "q"
response = "a"
choices = "c"
test_share = 0.75

[evaluation]
metrics = ["choice", "perplexity"]
"""
    )
    return path


def test_a_config_says_what_to_score_and_by_what(flexlora: Flexlora, tmp_path: Path) -> None:
    done = flexlora("eval", "tiny", "--data", config(tmp_path), "--json")
    mean = json.loads(done.out)["mean"]
    assert mean["examples"] == 3
    assert set(mean) == {"clients", "examples", "choice", "perplexity"}
    assert mean["perplexity"] > 1.0


def test_what_is_scored_is_what_a_run_would_score_under_any_partition(
    flexlora: Flexlora, tmp_path: Path
) -> None:
    """Rows that come again are trained on by whoever holds them; the partition says who does."""
    rows = [{"q": f"ask {i % 12}", "a": "yes", "k": f"kind {i % 3}"} for i in range(36)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data: dict[str, Any] = {"source": "jsonl", "path": str(tmp_path / "rows.jsonl"), "prompt": "q"}
    data |= {"response": "a", "category": "k", "test_share": 0.4, "max_tokens": 200}
    found = set()
    for partition in ({"by": "task"}, {"by": "iid", "clients": 2}, {"by": "iid", "clients": 9}):
        tables: dict[str, Any] = {**SMALL, "data": data, "partition": partition}
        tables["evaluation"] = {"every": 0, "on_clients": "off", "metrics": ["loss"]}
        asked = parse_config(tables)
        setup = prepare(asked, outline=True)
        done = flexlora("eval", "tiny", "--data", write(asked, tmp_path / "c.toml"), "--json")
        scores = json.loads(done.out)
        wanted = sum(len(client.examples) for client in setup.examples.unseen)
        assert scores["mean"]["examples"] == wanted
        assert scores["notes"] == [note for note in setup.notes if "unseen examples" in note]
        found.add(wanted)
    assert len(found) > 1


def test_an_option_beats_the_config(flexlora: Flexlora, tmp_path: Path) -> None:
    done = flexlora("eval", "tiny", "--data", config(tmp_path), "--metric", "loss", "--json")
    assert set(json.loads(done.out)["mean"]) == {"clients", "examples", "loss"}


def test_a_config_that_keeps_nothing_apart_is_refused(flexlora: Flexlora, tmp_path: Path) -> None:
    path = config(tmp_path)
    path.write_text(path.read_text().replace("test_share = 0.75", "") + "unseen = false\n")
    done = flexlora("eval", "tiny", "--data", path)
    assert_one_sentence(done, "source 'jsonl' keeps nothing apart to score on", "data.test_share")


def split(folder: Path) -> Path:
    """A config whose test examples, of four categories, are in a file of their own."""
    path = config(folder)
    rows = [{**row, "kind": f"kind {i}"} for i, row in enumerate(ROWS)]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    trained = [{**row, "kind": "k", "q": f"Say it: {row['q']}"} for row in ROWS]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, trained)))
    test = f'category = "kind"\ntest_path = {json.dumps(str(folder / "test.jsonl"))}'
    path.write_text(path.read_text().replace("test_share = 0.75", test))
    return path


def test_some_of_the_tasks_that_a_config_keeps_apart_in_its_own_way(
    flexlora: Flexlora, tmp_path: Path
) -> None:
    path = split(tmp_path)
    command = ("eval", "tiny", "--data", path, "--metric", "loss", "--json")
    every = json.loads(flexlora(*command).out)
    some = [json.loads(flexlora(*command, "--tasks", 2, "--seed", s).out) for s in (0, 0, 1, 2, 3)]
    assert every["mean"]["examples"] == 4
    assert {x["mean"]["examples"] for x in some} == {2}
    chosen = [tuple(x["categories"]) for x in some]
    assert chosen[0] == chosen[1]
    assert len(set(chosen)) > 1
    for name, values in some[0]["categories"].items():
        assert values == every["categories"][name]
    assert_one_sentence(
        flexlora(*command, "--tasks", 9), "--tasks is 9, but there are 4 test tasks; give 1 to 4"
    )
    assert_one_sentence(flexlora(*command, "--tasks", 0), "--tasks is 0, expected")


def test_each_option_arrives(
    flexlora: Flexlora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def scored(config: Config, adapter: object, **options: object) -> Scores:
        asked.update(options, config=config, adapter=adapter)
        return Scores((ClientScore("a", "b", 1, {"loss": 1.0}),))

    monkeypatch.setattr("flexlora.federation.score_model", scored)
    flags = {
        "--adapter": "some/where",
        "--tasks": 3,
        "--examples": 4,
        "--prompt": "chat",
        "--max-tokens": 99,
        "--max-new-tokens": 5,
        "--dtype": "bfloat16",
        "--device": "cuda:1",
        "--quantise": "8bit",
        "--metric": "perplexity",
        "--seed": 7,
    }
    given = [part for flag in flags.items() for part in flag]
    done = flexlora(
        "eval", "org/model", "--data", "embedded", *given, "--skip-too-long", "--force", "--json"
    )
    assert done.code == 0, done
    found: Config = asked["config"]
    model = found.model
    assert (model.name, model.prompt, model.dtype) == ("org/model", "chat", "bfloat16")
    assert (model.device, model.quantise) == ("cuda:1", "8bit")
    assert found.data.options == {"unseen_tasks": 3, "unseen_examples_per_task": 4}
    assert (found.data.max_tokens, found.data.skip_too_long) == (99, True)
    evaluation = found.evaluation
    assert (evaluation.max_new_tokens, evaluation.metrics) == (5, ("perplexity",))
    assert found.federation.seed == 7
    assert (asked["adapter"], asked["force"]) == (Path("some/where"), True)
    plain = flexlora("eval", "tiny", "--data", split(tmp_path), "--tasks", 2, "--json")
    assert plain.code == 0, plain
    assert (asked["force"], asked["tasks"], asked["adapter"]) == (False, 2, None)
    assert not asked["config"].data.skip_too_long


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--dtype", "float23"), "--dtype is \"float23\"; did you mean 'float32'?"),
        (("--max-tokens", -1), "--max-tokens is -1, expected 1 or more"),
        (("--seed", -1), "--seed is -1, expected"),
        (("--examples", 0), "--examples is 0, expected a whole number of 1 or more"),
        (("--quantise", "16bit"), '--quantise is "16bit"; '),
    ],
)
def test_errors_name_what_was_typed(
    flexlora: Flexlora, flags: tuple[object, ...], words: str
) -> None:
    done = flexlora("eval", "tiny", "--data", "embedded", *flags)
    assert_one_sentence(done, words)
    assert "config" not in done.err


def test_a_file_of_rows_needs_a_config(flexlora: Flexlora, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"q": "?", "a": "!"}\n')
    done = flexlora("eval", "tiny", "--data", tmp_path / "rows.jsonl")
    assert_one_sentence(done, "rows.jsonl is a file of rows", "give that: --data CONFIG.toml")
