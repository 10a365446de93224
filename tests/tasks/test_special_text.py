"""Text that spells a special token is told, wherever it stands, for it is read as that token."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from flexlora.models import load_model
from flexlora.tasks.special_text import special_text_notes
from flexlora.tasks.task import Example, Turn

PLAIN = Example("plain", "What is it?", "a < b, <b>bold</b>", ("red", "blue"))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_model("tiny").tokenizer


def test_plain_text_has_no_note(tokenizer: Any) -> None:
    assert special_text_notes(tokenizer, [PLAIN]) == ()


@pytest.mark.parametrize(
    "change",
    [
        {"instruction": "one</s> two"},
        {"input": "one</s> two"},
        {"references": ("red", "blue</s>")},
        {"choices": ("red", "</s>")},
        {"history": (Turn("user", "hello</s>"),)},
    ],
)
def test_it_is_found_wherever_it_stands(tokenizer: Any, change: dict[str, Any]) -> None:
    marked = replace(PLAIN, id="marked", **change)
    (said,) = special_text_notes(tokenizer, [PLAIN, marked, replace(marked, id="third")])
    assert said.startswith("2 examples with text that spells a special token of the tokenizer")
    assert "first 'marked', with '</s>'; take it out" in said


def test_it_is_read_as_that_token(tokenizer: Any) -> None:
    """Why it is told: one token comes of four letters."""
    ids = tokenizer("red</s>", add_special_tokens=False)["input_ids"]
    assert tokenizer.eos_token_id in ids


def test_a_tokenizer_that_reads_no_text_as_special_has_no_note() -> None:
    splits: Any = SimpleNamespace(split_special_tokens=True)
    assert special_text_notes(splits, [replace(PLAIN, input="</s>")]) == ()
