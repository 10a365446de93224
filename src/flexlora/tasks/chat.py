"""The prompt style "chat": what the tokenizer's own chat template writes of the whole chat."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, final

from flexlora.errors import DataError, shown
from flexlora.tasks.boundary import common_start
from flexlora.tasks.task import Example, Turn
from flexlora.tasks.wording import Worded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CLOCK = "strftime_now"  # By which templates ask for the date.
_DIRECTIVES = "aAbBcdHIjmMpSUwWxXyYGuVfF"
_PADDED = "dmHIMSjy"  # Those that %- writes without zeros in front.


@final
@dataclass(frozen=True)
class Chat:
    """The template is given the chat with its answer, as `apply_chat_template` would be.

    The prompt is all that it writes before the answer, also what `add_generation_prompt` leaves
    out (the empty block of a model that could think); the response is the answer as the template
    writes it (some trim), and what it puts behind is the response's end.
    """

    special_tokens: bool = False  # The template writes its own.

    def word(
        self,
        tokenizer: PreTrainedTokenizerBase,
        example: Example,
        responses: Sequence[str],
        today: date,
    ) -> Worded:
        turns = _turns(example)
        template = dated(template_of(tokenizer), today)
        mark = _mark(turns)

        def whole(answer: str) -> str:
            answered = [*turns, {"role": "assistant", "content": answer}]
            return _rendered(tokenizer, template, answered, example.id)

        prompt, found, end = whole(mark).partition(mark)
        if not found or mark in end:
            raise DataError(
                f"the chat template of tokenizer {tokenizer.name_or_path!r} writes an answer "
                f"{'twice' if found else 'not at all'}; use the prompt style 'alpaca', or another "
                "model"
            )
        texts = [whole(response) for response in responses]
        # Some templates word by the answer what stands before it: thoughts inside it, say.
        prompt = prompt[: common_start([prompt, *texts])]
        for text, response in zip(texts, responses, strict=True):
            kept = _letters(text.removesuffix(end)[len(prompt) :])
            if not (text.endswith(end) and kept and _letters(response).endswith(kept)):
                raise DataError(
                    f"the chat template of tokenizer {tokenizer.name_or_path!r} changes the answer "
                    f"of example {example.id!r}; mend that answer, or use the prompt style 'alpaca'"
                )
            lost = _letters(response).removesuffix(kept)
            if not _letters(prompt).endswith(lost):  # Some write its beginning into the prompt.
                raise DataError(
                    f"the chat template of tokenizer {tokenizer.name_or_path!r} leaves out of the "
                    f"answer of example {example.id!r} what it begins with, {shown(lost)}"
                    ", which nobody would learn; take that out of the answers (thoughts, say), or "
                    "use the prompt style 'alpaca'"
                )
        written = tuple(text[len(prompt) : len(text) - len(end)] for text in texts)
        return Worded(prompt, written, end)


def template_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokenizer's template, or the one named "default" of several.

    Raises DataError where there is none, and where none of several is the default.
    """
    name, found = tokenizer.name_or_path, tokenizer.chat_template
    if isinstance(found, Mapping) and found and "default" not in found:
        raise DataError(
            f"tokenizer {name!r} has several chat templates ({', '.join(map(repr, found))}), and "
            "none is named 'default'; give that name to the one that is meant"
        )
    template = found.get("default") if isinstance(found, Mapping) else found
    if not template:
        raise DataError(
            f"tokenizer {name!r} has no chat template; use the prompt style "
            "'alpaca', or the tokenizer of a chat model"
        )
    return str(template)


def asks_for_the_date(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template may write today's date. Raises DataError as `template_of` does."""
    return _CLOCK in template_of(tokenizer)


@lru_cache(maxsize=8)
def dated(template: str, today: date) -> str:
    """The template with the clock standing at the first minute of this day.

    The clock that transformers gives to templates cannot be replaced from outside; a macro of its
    name, written in front, takes its place, and replaces what strftime would.
    """
    if _CLOCK not in template:
        return template
    moment = datetime(today.year, today.month, today.day)
    pairs = [("%%", "\0"), *((f"%{x}", moment.strftime(f"%{x}")) for x in _DIRECTIVES)]
    pairs += [(f"%-{x}", moment.strftime(f"%{x}").lstrip("0") or "0") for x in _PADDED]
    pairs.append(("\0", "%"))
    steps = "".join(f"|replace({json.dumps(a)},{json.dumps(b)})" for a, b in pairs)
    return f"{{%- macro {_CLOCK}(format) -%}}{{{{ format{steps} }}}}{{%- endmacro -%}}{template}"


def _turns(example: Example) -> list[dict[str, Any]]:
    content = example.instruction
    if example.input.strip():
        content = f"{content}\n\n{example.input}"
    last = [Turn("user", content)] if content else []  # Else a tool spoke last, in the history.
    turns: list[dict[str, Any]] = []
    for turn in (*example.history, *last):
        calls = {"tool_calls": json.loads(turn.calls)} if turn.calls else {}
        turns.append({"role": turn.role, "content": turn.text, **calls})
    return turns


def _letters(text: str) -> str:
    """Without any blank: templates trim, and set thoughts apart."""
    return "".join(text.split())


def _mark(turns: Sequence[Mapping[str, Any]]) -> str:
    """A text that none of the turns holds: where it is written, answers are."""
    mark = "AN ANSWER"
    while any(mark in str(turn) for turn in turns):
        mark += " AND ANOTHER"
    return mark


def _rendered(
    tokenizer: PreTrainedTokenizerBase, template: str, turns: Sequence[Mapping[str, Any]], id: str
) -> str:
    from jinja2 import TemplateError

    try:
        return str(
            tokenizer.apply_chat_template(list(turns), chat_template=template, tokenize=False)
        )
    except TemplateError as error:
        words, cure = str(error), "mend that chat, or use another model"
    except Exception as error:  # Whatever the code of a template may raise.
        words, cure = f"{type(error).__name__}: {error}", "mend the template, or use another model"
    words = " ".join(words.split())
    raise DataError(
        f"the chat template of tokenizer {tokenizer.name_or_path!r} refuses example "
        f"{id!r} ({words}); {cure}"
    )
