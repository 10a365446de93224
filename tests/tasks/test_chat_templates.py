"""What is learnt of a chat is what the template writes of it, and ends where the turn ends."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from flexlora.errors import DataError
from flexlora.tasks.chat import asks_for_the_date
from flexlora.tasks.prompts import Encoded, encode
from flexlora.tasks.task import Example, Turn
from made_tokenizers import KINDS

GEMMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == "
    "'assistant' else m['role']) + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PHI = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}"
    "{% endif %}"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# The last answer has the block of a model that could think, filled by what the answer says.
THINKS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and loop.last %}"
    "{% set parts = m['content'].split('</think>') %}"
    "{% set thought = parts[0].replace('<think>', '').strip() if parts | length > 1 else '' %}"
    "{{ '<think>\n' + thought + '\n</think>\n\n' + parts[-1].lstrip('\n') }}"
    "{% else %}{{ m['content'] }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'] + "
    "' [/INST]' }}{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
ENDLESS = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
# Template, the text that ends a turn, and what it writes behind that.
TEMPLATES = {
    "gemma": (GEMMA, "<end_of_turn>", "\n"),
    "phi": (PHI, "<|end|>", "\n</s>"),
    "chatml": (CHATML, "<|im_end|>", "\n"),
    "thinks": (THINKS, "<|im_end|>", "\n"),
    "llama": (LLAMA, "</s>", ""),
}
CHAT = Example(
    "x", "green?", "", ("nine",), history=(Turn("user", "red?"), Turn("assistant", "blue."))
)
ANSWERS = ["nine", " nine \n", "Yes, no?", "\n\nred", "巴黎", "model", "<end_of_turn> is it", "\n"]


def made(kind: str, template: Any) -> Any:
    tokenizer = KINDS[kind]()
    tokenizer.chat_template = template
    return tokenizer


def read(tokenizer: Any, answer: str, example: Example = CHAT, **more: Any) -> Encoded:
    asked = replace(example, references=(answer,))
    return encode(tokenizer, asked, style="chat", max_tokens=900, **more)


def whole(tokenizer: Any, answer: str) -> tuple[int, ...]:
    turns = (*CHAT.history, Turn("user", CHAT.instruction), Turn("assistant", answer))
    chat = [{"role": turn.role, "content": turn.text} for turn in turns]
    return tuple(tokenizer.apply_chat_template(chat, return_dict=False))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_token_by_token_what_the_template_writes_up_to_the_end_of_the_turn(
    kind: str, name: str
) -> None:
    template, end, behind = TEMPLATES[name]
    tokenizer = made(kind, template)
    for answer in ANSWERS[:-1]:
        encoded = read(tokenizer, answer)
        ours, theirs = encoded.prompt + encoded.response, whole(tokenizer, answer)
        assert ours == theirs[: len(ours)], answer
        assert ours[-1] == tokenizer.convert_tokens_to_ids(end)
        left = tokenizer(behind, add_special_tokens=False)["input_ids"] if behind else []
        assert len(theirs) - len(ours) <= len(left), answer


def test_the_prompt_ends_where_the_answer_begins() -> None:
    """Also where the template writes more before an answer than its generation prompt has."""
    shown = {
        "gemma": "<start_of_turn>model\n",
        "chatml": "<|im_start|>assistant\n",
        "thinks": "<|im_start|>assistant\n<think>\n\n</think>\n\n",
    }
    for name, words in shown.items():
        tokenizer = made("bytes", TEMPLATES[name][0])
        encoded = read(tokenizer, "nine")
        assert tokenizer.decode(encoded.prompt).endswith(words), name
        assert tokenizer.decode(encoded.response) == f"nine{TEMPLATES[name][1]}"
    tokenizer = made("llama", LLAMA)
    encoded = read(tokenizer, "nine")
    assert tokenizer.decode(encoded.prompt).endswith("[/INST]")  # The blank is the word's.
    assert tokenizer.convert_ids_to_tokens(encoded.response)[0].startswith("▁")


def test_thoughts_in_an_answer_are_learnt() -> None:
    tokenizer = made("bytes", THINKS)
    encoded = read(tokenizer, "<think>\none and one\n</think>\n\ntwo")
    assert tokenizer.decode(encoded.response) == "one and one\n</think>\n\ntwo<|im_end|>"
    assert tokenizer.decode(encoded.prompt).endswith("<|im_start|>assistant\n<think>\n")


def test_a_template_that_leaves_thoughts_out_is_told() -> None:
    """Nobody would learn them, and what is scored would not be what is learnt."""
    content = "m['content']"
    tokenizer = made("bytes", CHATML.replace(content, f"{content}.split('</think>')[-1]"))
    answer = "<think>one and one</think>\n\ntwo"
    with pytest.raises(DataError, match=r"leaves out of the answer of example 'x' what it begins"):
        read(tokenizer, answer)
    assert tokenizer.decode(read(tokenizer, "two").response) == "two<|im_end|>"


def test_a_template_without_an_end_of_the_turn_ends_with_eos() -> None:
    tokenizer = made("bytes", ENDLESS)
    encoded = read(tokenizer, "nine")
    assert tokenizer.decode(encoded.prompt + encoded.response) == (
        "user: red?\nassistant: blue.\nuser: green?\nassistant: nine</s>"
    )


def test_choices_end_with_the_turn_too() -> None:
    tokenizer = made("bytes", GEMMA)
    asked = replace(CHAT, choices=("nine", " ten "))
    encoded = encode(tokenizer, asked, style="chat", max_tokens=900)
    assert [tokenizer.decode(ids) for ids in encoded.choices] == [
        "nine<end_of_turn>",
        "ten<end_of_turn>",
    ]
    assert encoded.response == encoded.choices[0]


def test_what_is_cut_keeps_the_end_of_the_turn() -> None:
    tokenizer = made("bytes", CHATML)
    long = Example("x", "Add the numbers.", "1 and 2 " * 200, ("nine",))
    encoded = encode(tokenizer, long, style="chat", max_tokens=120)
    assert 115 <= len(encoded.prompt) + len(encoded.response) <= 120
    assert tokenizer.decode(encoded.prompt).endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer.decode(encoded.response) == "nine<|im_end|>"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (
            {"chat": "x", "rag": "y"},
            "has several chat templates ('chat', 'rag'), and none is named",
        ),
        ("{{ 1 + messages[0]['content'] }}", "refuses example 'x' (TypeError: unsupported operand"),
        ("{{ messages[9].content.x }}", "refuses example 'x' ("),
        ("{{ 1 // 0 }}", "refuses example 'x' (ZeroDivisionError: "),
        ("{% if %}", "refuses example 'x' ("),
        (
            "{{ raise_exception('No,\n\nnever') }}",
            "refuses example 'x' (No, never); mend that chat",
        ),
        ("{{ messages[0]['content'] }}", "writes an answer not at all; use the prompt style"),
        (CHATML + CHATML, "writes an answer twice; use the prompt style 'alpaca'"),
        (
            "{% for m in messages %}{{ m['content'] | replace('nine', 'ten') }}{% endfor %}",
            "changes the answer of example 'x'; mend that answer, or use",
        ),
    ],
)
def test_templates_that_cannot_be_used_are_named(template: Any, words: str) -> None:
    tokenizer = made("bytes", template)
    with pytest.raises(DataError) as caught:
        read(tokenizer, "nine")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_of_several_templates_the_default_is_taken() -> None:
    tokenizer = made("bytes", {"rag": "x", "default": CHATML})
    assert tokenizer.decode(read(tokenizer, "nine").response) == "nine<|im_end|>"


def test_a_blank_answer_leaves_nothing_to_learn() -> None:
    with pytest.raises(DataError, match="changes the answer of example 'x'"):
        read(made("bytes", GEMMA), ANSWERS[-1])


def test_what_tools_were_asked_and_said_reaches_the_template() -> None:
    template = (
        "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}"
        "{% for c in m['tool_calls'] or [] %}{{ c['function']['name'] }}={{ "
        "c['function']['arguments']['x'] }}{% endfor %}{% endfor %}"
    )
    calls = '[{"type": "function", "function": {"name": "add", "arguments": {"x": 1}}}]'
    turns = (Turn("user", "sum?"), Turn("assistant", "", calls), Turn("tool", "3"))
    tokenizer = made("bytes", template)
    encoded = read(tokenizer, "nine", Example("x", "", "", ("nine",), history=turns))
    assert tokenizer.decode(encoded.prompt) == "[user]sum?[assistant]add=1[tool]3[assistant]"


# --- the date ------------------------------------------------------------------------------------

ASKS = (
    "{% if strftime_now is defined %}{{ 'Today: ' + strftime_now('%d %b %Y, %-d.%m, 100%%') }}"
    "{% endif %}{% macro late() %}{{ strftime_now('%H:%M') }}{% endmacro %}{{ late() }}" + CHATML
)


def test_a_template_is_told_the_date_that_is_given() -> None:
    tokenizer = made("bytes", ASKS)
    first, second = (read(tokenizer, "nine", today=date(2026, 3, day)) for day in (4, 5))
    assert tokenizer.decode(first.prompt).startswith("Today: 04 Mar 2026, 4.03, 100%00:00<|im_s")
    assert first.prompt != second.prompt
    assert first.response == second.response
    assert asks_for_the_date(tokenizer)
    assert not asks_for_the_date(made("bytes", CHATML))


def test_without_one_it_is_told_todays() -> None:
    tokenizer = made("bytes", ASKS)
    day = date.today()
    shown = tokenizer.decode(read(tokenizer, "nine").prompt)
    assert any(f"Today: {d:%d %b %Y}" in shown for d in (day, date.today()))
