"""Chats: what a column may hold, and how earlier turns reach the prompt."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flexlora.errors import DataError
from flexlora.models import load_model
from flexlora.tasks.columns import Columns
from flexlora.tasks.messages import Conversation, conversation, every_answer
from flexlora.tasks.prompts import encode
from flexlora.tasks.rows import Row, Rows
from flexlora.tasks.task import Example, Turn

SYSTEM = {"role": "system", "content": "Be brief."}
ASK, SAY = ({"role": role, "content": f"{role} one"} for role in ("user", "assistant"))
AGAIN, LAST = ({"role": role, "content": f"{role} two"} for role in ("user", "assistant"))
CALLS = [{"function": {"name": "add", "arguments": '{"x": 1}'}}]
CALL = {"role": "assistant", "content": None, "tool_calls": CALLS}
RESULT = {"role": "tool", "content": "3"}
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_the_last_answer_is_learnt_and_all_before_is_the_prompt() -> None:
    chat = conversation([SYSTEM, ASK, SAY, AGAIN, LAST], "here")
    assert chat.history == (
        Turn("system", "Be brief."),
        Turn("user", "user one"),
        Turn("assistant", "assistant one"),
    )
    assert (chat.prompt, chat.response) == ("user two", "assistant two")
    assert conversation([ASK, SAY], "here").history == ()


def test_every_answer_is_an_example_but_for_calls() -> None:
    chat = conversation([SYSTEM, ASK, SAY, AGAIN, CALL, RESULT, LAST, ASK, SAY], "here")
    whole = Example("d:7", chat.prompt, "", (chat.response,), "c", history=chat.history, type="t")
    first, second, last = every_answer(whole)
    assert last is whole
    assert first == replace(
        whole,
        id="d:7, message 3",
        instruction="user one",
        references=("assistant one",),
        history=chat.history[:1],
    )
    assert (second.id, second.instruction) == ("d:7, message 7", "")
    assert second.references == ("assistant two",)
    assert second.history == chat.history[:6]
    assert second.history[-1].role == "tool"
    single = replace(whole, history=())
    assert every_answer(single) == (single,)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("hello", 'here is text, expected a list of messages {"role": …, "content": …}; convert'),
        ([], "here ends with no message after 0 others; end it with a question"),
        ([ASK], "here ends with 'user' after 0 others"),
        ([ASK, SAY, AGAIN], "here ends with 'user' after 2 others"),
        ([SYSTEM, SAY], "here ends with 'assistant' after 1 others"),
        ([SAY, ASK, LAST], "here, message 1, is of role 'assistant', expected 'user'"),
        ([SYSTEM, ASK, AGAIN, SAY, LAST], "message 3, is of role 'user', expected 'assistant'"),
        ([ASK, SAY, SYSTEM, LAST], "message 3, is of role 'system', expected 'user'"),
        (
            [{"speaker": "human", "says": "x"}, SAY],
            "message 1, has speaker, says; give it the keys",
        ),
        ([{"role": "user"}, SAY], "message 1, has role; give it the keys role and content"),
        ([{"role": "tool", "content": "x"}, SAY], "message 1, is of role 'tool', expected 'user'"),
        ([{"role": "judge", "content": "x"}, SAY], "message 1, has role 'judge'; give one of sys"),
        ([{"from": 7, "value": "x"}, SAY], "message 1, has from 7; give one of system"),
        ([{"role": ["user"], "content": "x"}, SAY], "message 1, has role ['user']; give one of"),
        ([{**ASK, "content": ""}, SAY], "message 1, of 'user', is blank; fill or remove it"),
        ([{"from": "human", "value": " \n"}, SAY], "message 1, of 'human', is blank"),
        ([ASK, {**SAY, "content": ""}, AGAIN, LAST], "message 2, of 'assistant', is blank"),
        ([ASK, SAY, AGAIN, {**LAST, "content": " "}], "message 4, of 'assistant', is blank"),
        ([{**SYSTEM, "content": ""}, ASK, SAY], "message 1, of 'system', is blank"),
        ([ASK, CALL, {**RESULT, "content": ""}, LAST], "message 3, of 'tool', is blank"),
        ([{**ASK, "content": []}, SAY], "message 1, of 'user', is blank"),
        ([{**ASK, "content": [{"type": "image"}]}, SAY], "message 1, has a part of type 'image'"),
        (
            [{**ASK, "content": [{"text": 3}]}, SAY],
            "message 1: content is a whole number, expected text",
        ),
        ([{**ASK, "content": [None]}, SAY], "message 1: content is null, expected text"),
        ([ASK, CALL], "message 2, calls a tool, but what is learnt is the last message's text"),
        ([ASK, CALL, RESULT], "here ends with 'tool' after 2 others"),
        ([ASK, RESULT, LAST], "message 2, is of role 'tool', expected 'assistant'"),
        ([{**ASK, "tool_calls": [{}]}, SAY], "message 1, of 'user', calls tools; only the assis"),
        ([ASK, {**CALL, "tool_calls": ["x"]}, RESULT, LAST], "message 2: tool_calls is no list of"),
        ([ASK, {**CALL, "tool_calls": [{"x": {1}}]}, RESULT, LAST], "tool_calls cannot be written"),
        ([{"role": "user", "content": None}, SAY], "message 1: content is null, expected"),
        ([ASK, "yes"], "message 2, has no object; give it the keys role and content"),
    ],
)
def test_other_chats_are_refused(value: Any, words: str) -> None:
    with pytest.raises(DataError) as caught:
        conversation(value, "here")
    assert words in str(caught.value)


def test_sharegpt_parts_and_tools_are_chats() -> None:
    sharegpt = [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "user one"},
        {"from": "gpt", "value": "assistant one"},
        {"from": "human", "value": "user two"},
        {"from": "gpt", "value": "assistant two"},
    ]
    plain = conversation([SYSTEM, ASK, SAY, AGAIN, LAST], "here")
    assert conversation(sharegpt, "here") == plain
    # The keys that a row does not use may be there and null, as parquet has them.
    assert conversation([{**turn, "role": None} for turn in sharegpt], "here") == plain
    parts = [{"type": "text", "text": "user "}, "one"]
    assert conversation([{**ASK, "content": parts}, SAY], "here").prompt == "user one"
    read = '[{"function": {"name": "add", "arguments": {"x": 1}}}]'
    assert conversation([ASK, CALL, RESULT, RESULT, LAST], "here") == Conversation(
        (
            Turn("user", "user one"),
            Turn("assistant", "", read),
            Turn("tool", "3"),
            Turn("tool", "3"),
        ),
        "",
        "assistant two",
    )
    called = [
        {"from": "human", "value": "user one"},
        {"from": "function_call", "value": "add(1, 2)"},
        {"from": "observation", "value": "3"},
        {"from": "gpt", "value": "three"},
        {"from": "human", "value": "user two"},
        {"from": "gpt", "value": "assistant two"},
    ]
    chat = conversation(called, "here")
    assert [turn.role for turn in chat.history] == ["user", "assistant", "tool", "assistant"]
    assert (chat.history[1].text, chat.prompt) == ("add(1, 2)", "user two")


def test_a_column_of_chats() -> None:
    rows = [Row("t, line 1", "t:1", {"m": [ASK, SAY], "kind": "c"})]
    (record,) = Columns(messages="m", category="kind").read(Rows("t", ("m", "kind"), rows))
    assert record.example == Example("t:1", "user one", "", ("assistant one",), "c")
    blank = [Row("t, line 1", "t:1", {"m": [ASK, {**SAY, "content": " "}]})]
    with pytest.raises(DataError, match="t, line 1: m, message 2, of 'assistant', is blank"):
        Columns(messages="m").read(Rows("t", ("m",), blank))


@pytest.fixture
def tokenizer() -> Any:
    """The embedded model's own, with a chat template that shows every turn."""
    tokenizer = load_model("tiny").tokenizer
    tokenizer.chat_template = TEMPLATE
    return tokenizer


CHAT = Example("e", "and now?", "", ("fine",), history=(Turn("system", "S"), Turn("user", "U")))


def test_a_template_sees_the_turns_in_order(tokenizer: Any) -> None:
    encoded = encode(tokenizer, CHAT, style="chat", max_tokens=200)
    shown = "<system>S<user>U<user>and now?<assistant>"
    assert encoded.prompt == tuple(tokenizer(shown, add_special_tokens=False)["input_ids"])


def test_alpaca_and_templates_that_refuse_say_so(tokenizer: Any) -> None:
    with pytest.raises(
        DataError, match=r"example 'e' is a chat with 2 messages .* 'alpaca' cannot"
    ):
        encode(tokenizer, CHAT, style="alpaca", max_tokens=200)
    tokenizer.chat_template = "{{ raise_exception('No system here') }}"
    with pytest.raises(DataError, match=r"refuses example 'e' \(No system here\); mend that chat"):
        encode(tokenizer, CHAT, style="chat", max_tokens=200)
    tokenizer.chat_template = None
    with pytest.raises(DataError, match="has no chat template; use the prompt style 'alpaca'"):
        encode(tokenizer, CHAT, style="chat", max_tokens=200)
