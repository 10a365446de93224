"""Text of the data that spells a special token, which the tokenizer reads as that token."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from flexlora.errors import shown
from flexlora.formats.words import count
from flexlora.tasks.task import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def special_text_notes(
    tokenizer: PreTrainedTokenizerBase, examples: Iterable[Example]
) -> tuple[str, ...]:
    """A sentence on how many examples do that, with the first of them; none where none does.

    An answer that ends in the end token's text, say, is learnt with two of them, and what is
    generated, without special tokens, never equals it; in a chat it ends a turn.
    """
    marks = _spelled_out(tokenizer)
    if not marks:
        return ()
    found = re.compile("|".join(map(re.escape, sorted(marks, key=len, reverse=True))))
    told = [
        (example.id, match.group())
        for example in examples
        if (match := next(filter(None, map(found.search, _texts(example))), None))
    ]
    if not told:
        return ()
    first, mark = told[0]
    return (
        f"{count(len(told), 'example')} with text that spells a special token of the tokenizer, "
        f"which reads it as that token: first {shown(first)}, with {shown(mark)}; take it out of "
        "the data, for what ends a text is added",
    )


def _spelled_out(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    if getattr(tokenizer, "split_special_tokens", False):
        return set()
    added = {x.content for x in tokenizer.added_tokens_decoder.values() if x.special}
    return {x for x in added | set(map(str, tokenizer.all_special_tokens)) if x.strip()}


def _texts(example: Example) -> Iterator[str]:
    yield from (turn.text for turn in example.history)
    yield from (example.instruction, example.input, *example.references, *example.choices)
