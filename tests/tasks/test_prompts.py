from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from flexlora.errors import ConfigError, DataError
from flexlora.tasks.prompts import (
    encode,
    encode_tasks,
)
from flexlora.tasks.styles import STYLES, Style, register_style
from flexlora.tasks.task import Example, Task


@pytest.fixture(scope="module")
def tokenizer(shared: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(shared / "models" / "ni-llama-6m")


def example(text: str, answer: str = "Yes.", instruction: str = "Do it.") -> Example:
    return Example("e1", instruction, text, (answer, "another"), "kind")


def test_alpaca_is_worded_exactly(tokenizer: PreTrainedTokenizerBase) -> None:
    encoded = encode(tokenizer, example("1 and {2}", "3", "Add {the} numbers."), max_tokens=200)
    assert tokenizer.decode(encoded.prompt) == (
        "<s>Below is an instruction that describes a task, paired with an input that provides "
        "further context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd {the} numbers.\n\n### Input:\n1 and {2}\n\n### Response:\n"
    )
    assert tokenizer.decode(encoded.response) == "3</s>"
    assert encoded.references == ("3", "another")
    assert (encoded.id, encoded.category, encoded.truncated) == ("e1", "kind", False)


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_input_has_its_own_wording(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    encoded = encode(tokenizer, example(text, instruction="Say yes."), max_tokens=200)
    assert tokenizer.decode(encoded.prompt) == (
        "<s>Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\nSay yes.\n\n### Response:\n"
    )


def test_special_tokens_are_the_tokenizers_own_without_its_eos(
    tokenizer: PreTrainedTokenizerBase, shared: Path
) -> None:
    foreign = AutoTokenizer.from_pretrained(shared / "models" / "stories260K")
    for each in (tokenizer, foreign):
        encoded = encode(each, example("now"), max_tokens=400)
        assert encoded.prompt[0] == each.bos_token_id
        assert each.eos_token_id not in encoded.prompt
        assert each.bos_token_id not in encoded.prompt[1:] + encoded.response
        assert encoded.response.index(each.eos_token_id) == len(encoded.response) - 1


class EosTokenizer:
    """Adds BOS and EOS, as T5-like and some BPE tokenizers do; one token per character."""

    bos_token_id = 1
    eos_token_id: int | None = 2
    chat_template, name_or_path = None, "with-eos"

    def __call__(
        self, texts: Sequence[str], *, add_special_tokens: bool, **_: object
    ) -> dict[str, list[list[int]]]:
        rows = [[ord(letter) + 10 for letter in text] for text in texts]
        return {"input_ids": [[1, *row, 2] for row in rows] if add_special_tokens else rows}


def test_a_trailing_eos_of_the_tokenizer_is_stripped() -> None:
    encoded = encode(EosTokenizer(), example("in", "out"), max_tokens=1000)
    assert encoded.prompt[0] == 1
    assert encoded.prompt[-1] == ord("\n") + 10
    assert encoded.response == (*(ord(letter) + 10 for letter in "out"), 2)


WORDS = st.text(alphabet="abc é日.\n1", max_size=400)


@given(text=WORDS, answer=st.text(alphabet="xyz ", max_size=40), limit=st.integers(60, 250))
def test_what_is_cut_is_the_end_of_the_input_and_nothing_else(
    tokenizer: PreTrainedTokenizerBase, text: str, answer: str, limit: int
) -> None:
    whole = encode(tokenizer, example(text, answer), max_tokens=10_000)
    try:
        cut = encode(tokenizer, example(text, answer), max_tokens=limit)
    except DataError:
        empty = encode(tokenizer, example("", answer), max_tokens=10_000)
        assert len(empty.prompt) + len(empty.response) > limit
        return
    assert cut.response == whole.response
    assert len(cut.prompt) + len(cut.response) <= limit
    assert cut.truncated == (len(whole.prompt) + len(whole.response) > limit)
    shown = tokenizer.decode(cut.prompt)
    assert shown.endswith("### Response:\n")
    if not cut.truncated:
        assert cut == whole
    elif "### Input:\n" in shown:
        kept = shown.split("### Input:\n")[1].removesuffix("\n\n### Response:\n")
        assert text.startswith(kept)


def test_the_cut_keeps_as_much_of_the_input_as_fits(tokenizer: PreTrainedTokenizerBase) -> None:
    long = example(" ".join(f"word{i} is here" for i in range(300)))
    for limit in range(100, 500, 50):
        encoded = encode(tokenizer, long, max_tokens=limit)
        assert limit - 3 <= len(encoded.prompt) + len(encoded.response) <= limit


def test_no_room_names_task_example_tokens_limit_and_cure(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    task = Task("task7", (example("x", instruction="word " * 100),))
    with pytest.raises(DataError, match=r"'task7', example 'e1': \d+ tokens .* is 64; raise max_"):
        encode_tasks(tokenizer, [task], max_tokens=64)
    with pytest.raises(DataError, match="'task7', example 'e1'"):
        encode(tokenizer, task.examples[0], max_tokens=64, task="task7")
    assert encode_tasks(tokenizer, [task], max_tokens=64, skip_too_long=True) == {"task7": ()}


def test_all_that_is_too_long_is_named_with_its_size(tokenizer: PreTrainedTokenizerBase) -> None:
    long = [replace(example("x", instruction="word " * 99), id=f"d:{i}") for i in range(1, 13)]
    longest = replace(example("x", instruction="word " * 200), id="d:99")
    tasks = [Task("a", (example("x"), *long)), Task("b", (longest,))]
    with pytest.raises(DataError) as error:
        encode_tasks(tokenizer, tasks, max_tokens=110)
    said = str(error.value)
    assert said.startswith("13 examples are too long without any input, for max_tokens is 110: ")
    assert "task 'a', example 'd:1' (" in said
    assert "task 'a', example 'd:10' (" in said
    assert "'d:11'" not in said
    whole = encode(tokenizer, longest, max_tokens=10_000)
    least = len(encode(tokenizer, replace(longest, input=""), max_tokens=10_000).prompt)
    assert f"raise max_tokens to {least + len(whole.response)}, leave these" in said
    assert "\n" not in said


def test_a_response_is_never_cut(tokenizer: PreTrainedTokenizerBase) -> None:
    long = example("x", "yes " * 300)
    with pytest.raises(DataError, match=r"response 3\d\d.*set skip_too_long"):
        encode(tokenizer, long, max_tokens=200)
    whole = encode(tokenizer, long, max_tokens=500)
    assert tokenizer.decode(whole.response[:-1]).strip() == long.references[0].strip()
    assert whole.response[-1] == tokenizer.eos_token_id


def test_choices_are_encoded_like_the_response_and_leave_it_room(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    asked = replace(example("Which? " * 40, "no"), choices=("yes, very much so", "no"))
    encoded = encode(tokenizer, asked, max_tokens=100)
    assert encoded.answer == 1
    assert encoded.choices[1] == encoded.response
    assert tokenizer.decode(encoded.choices[0]) == "yes, very much so</s>"
    assert encoded.truncated
    assert len(encoded.prompt) + max(map(len, encoded.choices)) <= 100
    assert encode(tokenizer, example("x"), max_tokens=100).answer == -1
    with pytest.raises(DataError, match="'e1': the response is none of its 1 choices"):
        encode(tokenizer, replace(asked, choices=("maybe",)), max_tokens=100)


def test_many_at_once_equal_one_by_one(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flexlora.tasks.prompts._BATCH", 4)
    tasks = [
        Task(f"t{i}", tuple(example("long text " * (9 * j), f"{i}") for j in range(i)))
        for i in (5, 0, 7)
    ]
    many = encode_tasks(tokenizer, tasks, max_tokens=128)
    assert list(many) == ["t5", "t0", "t7"]
    for task in tasks:
        single = [encode(tokenizer, e, max_tokens=128) for e in task.examples]
        assert many[task.name] == tuple(single)
    assert any(encoded.truncated for encoded in many["t7"])


def test_bad_tasks_are_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    twice = Task("t", ())
    with pytest.raises(DataError, match="'t' comes twice"):
        encode_tasks(tokenizer, [twice, twice], max_tokens=99)
    with pytest.raises(DataError, match="'e': no reference"):
        encode(tokenizer, Example("e", "Do.", "x", ()), max_tokens=99)


def test_chat_uses_the_template_and_needs_one(
    tokenizer: PreTrainedTokenizerBase, shared: Path
) -> None:
    with pytest.raises(DataError, match=r"ni-llama-6m.* has no chat template; use .*'alpaca'"):
        encode(tokenizer, example("x"), style="chat", max_tokens=99)
    chat = AutoTokenizer.from_pretrained(shared / "models" / "ni-llama-6m")
    chat.chat_template = (
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }} [/]{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    encoded = encode(chat, example("with this"), style="chat", max_tokens=99)
    assert chat.decode(encoded.prompt) == "<s>[user] Do it.\n\nwith this [/][assistant]"
    cut = encode(chat, example("word " * 200), style="chat", max_tokens=64)
    assert cut.truncated
    assert chat.decode(cut.prompt).endswith("[/][assistant]")


def test_a_tokenizer_without_eos_is_refused() -> None:
    tokenizer = EosTokenizer()
    tokenizer.eos_token_id = None
    with pytest.raises(DataError, match="'with-eos' has no EOS"):
        encode(tokenizer, example("x"), max_tokens=99)


def test_the_style_registry(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ConfigError, match=r"model.prompt is 'alpacca'; did you mean 'alpaca'"):
        encode(tokenizer, example("x"), style="alpacca", max_tokens=99)
    try:
        register_style("unadorned", Style(lambda _, asked: asked.instruction + asked.input, True))
        encoded = encode(tokenizer, example("x"), style="unadorned", max_tokens=99)
        assert tokenizer.decode(encoded.prompt) == "<s>Do it.x"
        with pytest.raises(ConfigError, match="'unadorned' is registered already"):
            register_style("unadorned", Style(lambda _, asked: asked.instruction, True))
    finally:
        del STYLES["unadorned"]
