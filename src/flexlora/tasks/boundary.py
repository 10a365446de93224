"""Prompt and response as tokens: cut where the tokenizer itself cuts the whole text.

A response that is tokenised apart from its prompt may come out as it never does inside a text:
SentencePiece puts a "▁" before it, WordPiece begins a word. So the whole is tokenised once, and
split where the prompt ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from flexlora.tasks.wording import Worded

# How responses begin. A prompt ends before what all of these would be joined with: the blank of
# Llama 2's "[/INST] ", which is part of the next word's token.
_BEGINNINGS = ("a", "The", "1")
# Letters at a prompt's end that decide how much of it is joined: more than a token has, or few.
_TAIL = 32

Ids = tuple[int, ...]


@dataclass(frozen=True)
class _End:
    """text: written behind a response; token: the first in it that ends an answer, which comes so
    many times from there on; None: there is none, and EOS is put behind.
    """

    text: str = ""
    token: int | None = None
    times: int = 0


class Boundary:
    """Tokenises what was worded. special: let the tokenizer add its own tokens in front."""

    def __init__(self, tokenizer: Any, special: bool) -> None:
        self._tokenizer = tokenizer
        self._special = special
        self._behind = self._added_behind() if special else ()
        self._joined: dict[str, int] = {}
        self._ends: dict[str, _End] = {"": _End()}

    def prompts(self, texts: Sequence[str]) -> list[Ids]:
        """Each prompt's tokens, as they are before an ordinary response, whatever the others."""
        joined = self._given_up([text[-_TAIL:] for text in texts])
        rows = zip(self._whole(texts), joined, strict=True)
        return [row[: len(row) - count] for row, count in rows]

    def _given_up(self, tails: Sequence[str]) -> list[int]:
        """How many tokens at the end of a prompt are joined with whatever an answer begins with."""
        new = list(dict.fromkeys(tail for tail in tails if tail not in self._joined))
        read = iter(self._whole([tail + x for tail in new for x in ("", *_BEGINNINGS)]))
        for tail in new:
            alone, *begun = (next(read) for _ in range(1 + len(_BEGINNINGS)))
            self._joined[tail] = min(len(alone) - common_start((alone, row)) for row in begun)
        return [self._joined[tail] for tail in tails]

    def split(self, worded: Sequence[Worded]) -> list[tuple[Ids, tuple[Ids, ...]]]:
        """(prompt, responses) of each, in two tokenizer calls.

        prompt + response is how the tokenizer reads the whole text, up to and with the one token
        that ends the answer: the first special token of what the style puts behind it, else EOS.
        The prompt is one for all responses, and, where one of them begins with something that the
        tokenizer joins with the prompt's end (a line break after a line break), ends before that.
        """
        prompts = self.prompts([x.prompt for x in worded])
        ends = [self._end(x.end) for x in worded]
        texts = [
            x.prompt + response + end.text
            for x, end in zip(worded, ends, strict=True)
            for response in x.responses
        ]
        wholes = iter(self._whole(texts))
        found: list[tuple[Ids, tuple[Ids, ...]]] = []
        for x, prompt, end in zip(worded, prompts, ends, strict=True):
            rows = [self._ended(next(wholes), end) for _ in x.responses]
            place = common_start((prompt, *rows))
            found.append((prompt[:place], tuple(row[place:] for row in rows)))
        return found

    def _whole(self, texts: Sequence[str]) -> list[Ids]:
        if not texts:
            return []
        count, rows = len(self._behind), self._ids(texts, self._special)
        return [row[:-count] if count and row[-count:] == self._behind else row for row in rows]

    def _ended(self, row: Ids, end: _End) -> Ids:
        if end.token is None:
            return (*row, int(self._tokenizer.eos_token_id))
        places = [place for place, token in enumerate(row) if token == end.token]
        return row[: places[-end.times] + 1]

    def _end(self, text: str) -> _End:
        if text not in self._ends:
            (row,) = self._ids([text], special=False)
            token = self._ending(row)
            self._ends[text] = _End() if token is None else _End(text, token, row.count(token))
        return self._ends[text]

    def _ending(self, row: Iterable[int]) -> int | None:
        """The first special token of these, else the first that was added and is not blank."""
        added = self._tokenizer.added_tokens_decoder
        known = {i for i, token in added.items() if token.special}
        known |= set(self._tokenizer.all_special_ids)
        known.discard(self._tokenizer.unk_token_id)
        more = {i for i, token in added.items() if token.content.strip()} - known
        more.discard(self._tokenizer.unk_token_id)
        row = tuple(row)
        return next((i for kind in (known, more) for i in row if i in kind), None)

    def _added_behind(self) -> Ids:
        """What the tokenizer adds behind a text: EOS, or [SEP]."""
        (plain,), (full,) = (self._ids(["a"], special) for special in (False, True))
        for place in range(len(full) - len(plain) + 1):
            if full[place : place + len(plain)] == plain:
                return full[place + len(plain) :]
        return ()

    def _ids(self, texts: Sequence[str], special: bool) -> list[Ids]:
        rows = self._tokenizer(
            list(texts), add_special_tokens=special, return_attention_mask=False, verbose=False
        )["input_ids"]
        return [tuple(row) for row in rows]


def common_start(rows: Sequence[Sequence[Any]]) -> int:
    """How many tokens, or letters, all of these begin with alike."""
    first, *others = rows
    if all(row[: len(first)] == first for row in others):
        return len(first)
    for place, token in enumerate(first):
        if any(place >= len(row) or row[place] != token for row in others):
            return place
    return len(first)
