"""flexlora eval on a config's own unseen examples."""

from __future__ import annotations

import json
from pathlib import Path

from commands import Flexlora, assert_one_sentence

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


def test_an_option_beats_the_config(flexlora: Flexlora, tmp_path: Path) -> None:
    done = flexlora("eval", "tiny", "--data", config(tmp_path), "--metric", "loss", "--json")
    assert set(json.loads(done.out)["mean"]) == {"clients", "examples", "loss"}


def test_a_config_that_keeps_nothing_apart_is_refused(flexlora: Flexlora, tmp_path: Path) -> None:
    path = config(tmp_path)
    path.write_text(path.read_text().replace("test_share = 0.75", "") + "unseen = false\n")
    done = flexlora("eval", "tiny", "--data", path)
    assert_one_sentence(done, "source 'jsonl' keeps nothing apart to score on", "data.test_share")
