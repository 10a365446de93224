"""Runs of one comparison share their data, base model and code; what has changed is not pooled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from commands import Flexlora, assert_one_sentence, caller
from comparing.comparisons import Heard, comparison, document, played
from flexlora.comparing.cells import finished
from flexlora.comparing.comparison import parse_comparison
from flexlora.comparing.failures import Failures
from flexlora.comparing.folder import begin
from flexlora.comparing.whole import play
from resealed import reseal
from small import SMALL

RULE = """
from flexlora.rules.flexlora import FlexLoRA


class Mine(FlexLoRA):
    name = "mine"
"""


@pytest.fixture
def flexlora(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Flexlora:
    return caller(monkeypatch, capsys)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with rows and a rule of one's own, as the working directory."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    rows = [{"q": f"ask {i}", "a": "yes", "k": f"kind {i % 2}"} for i in range(16)]
    Path("d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("mine.py").write_text(RULE)
    return tmp_path


def write(**compare: Any) -> Path:
    data: dict[str, Any] = {"source": "jsonl", "path": "d.jsonl", "prompt": "q", "response": "a"}
    data |= {"category": "k", "test_share": 0.5, "max_tokens": 200}
    arms = {"own": {"rule": {"name": "mine.py:Mine"}}}
    tables = document(arms, **{"rules": ["flexlora"], "seeds": [0], **compare})
    path = Path("c.toml")
    path.write_text(parse_comparison({**tables, "data": data}).to_toml())
    return path


@pytest.mark.parametrize("more", [{"seeds": [0, 1]}, {"rules": ["flexlora", "fedit"]}])
@pytest.mark.usefixtures("here")
def test_changed_data_or_code_ends_it_before_anything_is_played(
    flexlora: Flexlora, more: dict[str, Any]
) -> None:
    assert flexlora("compare", write(), "--out", "out").code == 0
    begun = Path("out/compare.toml").read_text()
    was = {path: Path(path).read_text() for path in ("d.jsonl", "mine.py")}
    words = {
        "d.jsonl": "the data at seed 0 is not what out/cells/",
        "mine.py": "the file of rule mine.py:Mine is not what out/cells/own/0 was played on",
    }
    for path, text in was.items():
        Path(path).write_text(text.replace("ask", "tell").replace("mine", "ours"))
        for look in (["--dry-run"], []):
            done = flexlora("compare", write(**more), "--out", "out", *look)
            assert_one_sentence(done, words[path], "restore it, or play the comparison anew")
        assert Path("out/compare.toml").read_text() == begun  # Nothing came to it.
        assert len(list(Path("out/cells").glob("*/*"))) == 2
        Path(path).write_text(text)
    done = flexlora("compare", write(**more), "--out", "out")
    assert done.code == 0, done.err
    assert len(finished(Path("out"))) == (4 if "seeds" in more else 3)


def test_a_run_of_changed_inputs_fails_and_the_others_stand(tmp_path: Path) -> None:
    """Where it changes while a comparison is played, or what a look ahead does not read."""
    asked, out = comparison(seeds=[0]), tmp_path / "out"
    played(asked, out)
    data = out / "cells" / "fedit" / "0" / "data.json"
    data.write_text(json.dumps(json.loads(data.read_text()) | {"model_fingerprint": "f" * 64}))
    reseal(data.parent)
    (out / "cells" / "flexlora" / "0").rename(tmp_path / "elsewhere")
    begin(asked, out)
    heard = Heard()
    failed = play(asked, out, heard, failures=Failures(out))
    assert list(failed) == ["cells/flexlora/0"]
    (told,) = heard.all("fails")
    assert "the base model tiny is not what" in told
    assert str(data.parent) in told
    assert not (out / "cells" / "flexlora" / "0").exists()


def test_arms_may_differ_in_what_their_configs_say(tmp_path: Path) -> None:
    """Other data, another prompt: other questions, of which each has one answer."""
    more = {
        "more": {"data": {**SMALL["data"], "examples_per_task": 5}},
        "plain": {"model": {**SMALL["model"], "prompt": "plain"}},
    }
    _, failed = played(comparison(more, rules=["flexlora"], seeds=[0]), tmp_path / "out")
    assert failed == {}
