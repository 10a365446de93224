"""`flexlora run --dry-run --show-example`: what is read, what is learnt, where it stops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from commands import Flexlora, assert_one_sentence
from flexlora.config.config import Config
from flexlora.config.config_file import parse_config
from flexlora.federation import prepare
from small import SMALL, write


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    path = tmp_path_factory.mktemp("data") / "d.jsonl"
    rows = [{"q": f"ask\t{i}\nnow\u202e", "a": f"yes\n {i}"} for i in range(30)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data: dict[str, Any] = {"source": "jsonl", "path": str(path), "prompt": "q", "response": "a"}
    data |= {"test_share": 0.1}
    return parse_config({**SMALL, "data": data, "partition": {"by": "iid", "clients": 2}})


def test_it_is_shown_line_by_line_with_what_is_not_seen(
    flexlora: Flexlora, config: Config, tmp_path: Path
) -> None:
    path = write(config, tmp_path / "c.toml")
    plain = flexlora("run", path, "--dry-run")
    done = flexlora("run", path, "--dry-run", "--show-example")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(plain.out)
    client, (first, *_) = next(iter(prepare(config, outline=True).examples.train.items()))
    number = first.references[0].removeprefix("yes\n ")
    lines = done.out.removeprefix(plain.out).splitlines()
    assert lines[:2] == [
        "",
        f"example {first.id} of client {client}",
    ]
    assert lines[2] == f"prompt, {len(first.prompt)} tokens that are read:"
    response = lines.index(f"response, {len(first.response)} tokens that are learnt:")
    asked = lines.index(f"  ask\\t{number}\\n")
    assert lines[asked + 1].startswith("  now")
    assert lines[response - 1] == "  ### Response:\\n"
    assert lines[response + 1 : response + 3] == ["  yes\\n", f"   {number}</s>"]
    assert lines[response + 3].startswith("token by token: 'y")
    assert lines[response + 3].endswith(" '</s>'")
    assert lines[response + 4 :] == ["an answer ends with '</s>'"]
    assert "\u202e" not in done.out
    assert "\t" not in done.out


def test_it_is_part_of_the_plan(flexlora: Flexlora, config: Config, tmp_path: Path) -> None:
    path = write(config, tmp_path / "c.toml")
    done = flexlora("run", path, "--dry-run", "--show-example", "--json")
    plan = json.loads(done.out)
    shown = plan.pop("example")
    assert plan == json.loads(flexlora("run", path, "--dry-run", "--json").out)
    _, (first, *_) = next(iter(prepare(config, outline=True).examples.train.items()))
    assert shown["prompt"].endswith("### Response:\n")
    assert shown["learnt"] == first.references[0] + "</s>"
    assert (shown["prompt_tokens"], shown["stop"]) == (len(first.prompt), "</s>")
    assert "".join(shown["learnt_tokens"]).endswith("</s>")
    assert len(shown["learnt_tokens"]) == len(first.response)
    assert shown["cut"] is False


def test_it_belongs_to_a_dry_run(flexlora: Flexlora, config: Config, tmp_path: Path) -> None:
    done = flexlora("run", write(config, tmp_path / "c.toml"), "--show-example")
    assert_one_sentence(done, "--show-example is for looking ahead; add --dry-run")
