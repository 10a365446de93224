"""A response stands in tokens as it does inside a text, whatever the tokenizer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flexlora.tasks.boundary import Boundary
from flexlora.tasks.prompts import Encoded, encode
from flexlora.tasks.styles import STYLES, Style
from flexlora.tasks.task import Example
from made_tokenizers import KINDS, bytes_bpe

ASKED = Example("e", "Add the numbers.", "1 and 2", ("nine",))
ANSWERS = ["nine", "Yes, no?", "1", "", " ten", "\nred", "\n\n- a\n- b", "巴黎", "é", "▁x"]


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return KINDS[request.param]()


def whole(tokenizer: Any, answer: str) -> tuple[int, ...]:
    """The text as it is written, read at once, without what is added behind it; and EOS."""
    style = STYLES["alpaca"]
    assert isinstance(style, Style)
    ids = tokenizer(style.render(tokenizer, ASKED) + answer)["input_ids"]
    ids = ids[:-1] if ids[-1] == tokenizer.eos_token_id else ids
    return (*ids, tokenizer.eos_token_id)


@pytest.mark.parametrize("answer", ANSWERS)
def test_prompt_and_response_are_the_whole_text(tokenizer: Any, answer: str) -> None:
    encoded = encode(tokenizer, replace(ASKED, references=(answer,)), max_tokens=900)
    assert encoded.prompt + encoded.response == whole(tokenizer, answer)
    assert encoded.response[-1] == tokenizer.eos_token_id


def test_the_prompt_is_what_an_unanswered_text_is(tokenizer: Any) -> None:
    """So that what is generated from does not tell of the answer."""
    found = {
        encode(tokenizer, replace(ASKED, references=(answer,)), max_tokens=900).prompt
        for answer in ANSWERS
        if answer[:1].isalnum()
    }
    (prompt,) = found
    unanswered = whole(tokenizer, "")[:-1]
    assert prompt == unanswered[: len(prompt)]
    assert len(unanswered) - len(prompt) <= 1
    assert tokenizer.decode(prompt).rstrip().endswith(("Response:", "response :", "Response :"))


def test_a_response_has_no_blank_that_was_not_written() -> None:
    for name in ("sentencepiece", "llama"):
        tokenizer = KINDS[name]()
        encoded = encode(tokenizer, ASKED, max_tokens=900)
        apart = tokenizer("nine", add_special_tokens=False)["input_ids"]
        assert tokenizer.convert_ids_to_tokens(apart)[0].startswith("▁")
        assert not tokenizer.convert_ids_to_tokens(encoded.response)[0].startswith("▁")


def test_choices_share_their_prompt(tokenizer: Any) -> None:
    choices = ("\n\n- a", "nine", "1")
    asked = replace(ASKED, references=("nine",), choices=choices)
    encoded = encode(tokenizer, asked, max_tokens=900)
    assert encoded.choices[encoded.answer] == encoded.response
    for choice, ids in zip(choices, encoded.choices, strict=True):
        assert encoded.prompt + ids == whole(tokenizer, choice)


def test_what_is_cut_still_is_the_tokenizers_own(tokenizer: Any) -> None:
    long = replace(ASKED, input="Yes, no? " * 300)
    bare = len(encode(tokenizer, replace(ASKED, input="Yes"), max_tokens=900).prompt)
    for limit in range(bare + 20, bare + 60, 7):
        encoded = encode(tokenizer, long, max_tokens=limit)
        assert limit - 8 <= _tokens(encoded) <= limit
        assert encoded.truncated
        assert encoded.response == encode(tokenizer, ASKED, max_tokens=900).response


def test_a_prompt_that_ends_in_a_blank_leaves_it_to_the_word() -> None:
    try:
        STYLES.add("blank", Style(lambda _, x: f"{x.instruction} ", special_tokens=True))
        llama, by_bytes = KINDS["llama"](), KINDS["bytes"]()
        for tokenizer in (llama, by_bytes):
            joined = tokenizer("Add the numbers. nine")["input_ids"]
            encoded = encode(tokenizer, ASKED, style="blank", max_tokens=900)
            assert encoded.prompt + encoded.response == (*joined, tokenizer.eos_token_id)
            assert encoded.prompt == tuple(tokenizer("Add the numbers.")["input_ids"])
    finally:
        del STYLES["blank"]


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2)])
def test_what_a_prompt_gives_up_is_its_own(order: tuple[int, ...]) -> None:
    """Whatever else is read with it or was before: a client's rows are not its neighbours'."""
    tokenizer = bytes_bpe(["Add the numbers. a The 1 red"] * 20)
    texts = ["Add the numbers. ", "Add the numbers.", "The numbers", "red\n"]
    kept = [text.rstrip(" ") for text in texts]  # Blanks alone are joined with " a", " The", " 1".
    boundary = Boundary(tokenizer, special=True)
    found = boundary.prompts([texts[i] for i in order])
    assert found == [tuple(tokenizer(kept[i])["input_ids"]) for i in order]
    assert boundary.prompts(texts) == [tuple(tokenizer(text)["input_ids"]) for text in kept]


def _tokens(encoded: Encoded) -> int:
    return len(encoded.prompt) + len(encoded.response)
