"""Tokens that a tokenizer has and a model has no embedding for: padding is harmless, others are
named before anything trains."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from flexlora.config.config import Config
from flexlora.config.config_file import parse_config
from flexlora.errors import DataError
from flexlora.federation import Session, run, score_model
from flexlora.models import load_model
from small import SMALL, small

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)


def folder_with(folder: Path, **tokens: object) -> Path:
    """The embedded model, whose tokenizer has these special tokens besides; not resized."""
    base = load_model("tiny")
    base.tokenizer.add_special_tokens(tokens)
    base.tokenizer.chat_template = TEMPLATE
    model: Any = base.model
    model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return folder


def config(name: str, **model: str) -> Config:
    return small(
        model={"name": name, **model}, federation={"rounds": 1}, training={"batch_size": 4}
    )


def test_a_pad_token_without_an_embedding_changes_nothing(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "model", pad_token="[PAD]")
    assert load_model(folder).tokenizer.pad_token_id == load_model("tiny").tokenizer.eos_token_id
    Session.of(config(str(folder))).preview()
    padded = run(config(str(folder)), tmp_path / "padded").to_json()
    plain = run(config("tiny"), tmp_path / "plain").to_json()
    assert padded["rows"] == plain["rows"]


@pytest.mark.parametrize("tokens", [["<|im_start|>", "<|im_end|>"], ["<|im_end|>", "<|im_start|>"]])
def test_a_template_token_without_an_embedding_is_named(tmp_path: Path, tokens: list[str]) -> None:
    """By the dry run, by the run before it trains, and by an evaluation."""
    folder = folder_with(tmp_path / "model", additional_special_tokens=tokens)
    model: Any = load_model("tiny").model
    known = model.config.vocab_size
    asked = config(str(folder), prompt="chat")
    said = (
        rf"client '.+', example '.+' has the token '<\|im_start\|>', which is number "
        rf"{known + tokens.index('<|im_start|>')} in the tokenizer of {re.escape(str(folder))}, "
        rf"but the model has {known} embeddings, numbers 0 to {known - 1}; enlarge them"
    )
    with pytest.raises(DataError, match=said):
        Session.of(asked).preview()
    with pytest.raises(DataError, match=said):
        run(asked, tmp_path / "run")
    with pytest.raises(DataError, match=said):
        score_model(asked)
    assert not (tmp_path / "run").exists()
    # Where no text has them, they are not in the way.
    Session.of(config(str(folder))).preview()


def test_a_choice_without_an_embedding_is_named(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "model", additional_special_tokens=["<yes>"])
    rows = [{"q": f"ask {i}", "a": "no", "c": ["no", "<yes>"]} for i in range(12)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = {"source": "jsonl", "path": str(tmp_path / "rows.jsonl"), "test_share": 0.3}
    data |= {"prompt": "q", "response": "a", "choices": "c", "max_tokens": 250}
    partition = {"by": "iid", "clients": 2}
    tables = {**SMALL, "model": {"name": str(folder)}, "data": data, "partition": partition}
    with pytest.raises(DataError, match="has the token '<yes>'"):
        Session.of(parse_config(tables)).preview()
