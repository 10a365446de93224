"""From a task's words to token ids, and cutting what is too long.

Only the input text is ever cut, from its end: the instruction, the template's tail and the response
stay whole, so a shortened example still asks and still teaches the same thing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import islice
from typing import TYPE_CHECKING

from flexlora.errors import DataError
from flexlora.tasks.boundary import Boundary, Ids
from flexlora.tasks.problems import TOLD
from flexlora.tasks.styles import STYLES
from flexlora.tasks.task import Example, Task
from flexlora.tasks.wording import Worded, Wording

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BATCH = 1024  # Examples per tokenizer call: bounds the memory that the whole texts take.
_INTERPOLATIONS = 8  # probes by interpolation before the cut falls back to halving


@dataclass(frozen=True)
class Encoded:
    """One example as token ids. `response` and each of `choices` end with the one token that ends
    an answer: EOS, or where a chat template ends a turn with another, that.

    `truncated`: some text was cut. `answer`: the place of the right one in `choices`, −1 without.
    """

    id: str
    category: str
    prompt: Ids
    response: Ids
    references: tuple[str, ...]
    truncated: bool = False
    choices: tuple[Ids, ...] = ()
    answer: int = -1

    def check(self, context: int, *, response: bool = True, choices: bool = False) -> None:
        """Raise DataError for an empty part, or one that does not fit into `context` tokens.

        response, choices: whether these are looked at beside the prompt.
        """
        parts = [("response", self.response)] if response else []
        parts += [(f"choice {i + 1}", x) for i, x in enumerate(self.choices)] if choices else []
        for name, part in (("prompt", self.prompt), *parts):
            if not part:
                raise DataError(f"example {self.id!r} has an empty {name}; leave it out")
        longest, name = max(((len(x), name) for name, x in parts), default=(0, ""))
        if len(self.prompt) + longest > context:
            beside = f" with its {name}" if name not in ("", "response") else ""
            raise DataError(
                f"example {self.id!r} has {len(self.prompt) + longest} tokens{beside}, expected at "
                f"most {context}, the model's context; encode it with a lower limit"
            )


@dataclass(frozen=True, eq=False)
class _Encoder:
    """The settings of one encoding pass."""

    tokenizer: PreTrainedTokenizerBase
    style: Wording
    boundary: Boundary
    max_tokens: int
    today: date

    def batch(self, items: Sequence[tuple[str, Example]]) -> list[Encoded | _TooLong]:
        """Encode in two tokenizer calls; only what is too long is looked at one by one."""
        for task, example in items:
            _require_answered(task, example)
        split = self.boundary.split([self._worded(example) for _, example in items])
        return [
            self._encoded(task, example, *found)
            for (task, example), found in zip(items, split, strict=True)
        ]

    def _encoded(
        self, task: str, example: Example, prompt: Ids, written: tuple[Ids, ...]
    ) -> Encoded | _TooLong:
        longest = max(map(len, written))
        truncated = len(prompt) + longest > self.max_tokens
        room = self.max_tokens - longest
        full, length = len(prompt), len(example.input)
        while len(prompt) + longest > self.max_tokens:
            if not length:
                return _TooLong(task, example.id, len(prompt), longest)
            length = self._cut(example, room, full)
            shown = replace(example, input=example.input[:length])
            ((prompt, written),) = self.boundary.split([self._worded(shown)])
            longest = max(map(len, written))
            room -= 1  # Where the boundary moved with the cut.
        answer = example.choices.index(example.references[0]) if example.choices else -1
        return Encoded(
            example.id,
            example.category,
            prompt,
            written[max(answer, 0)],
            example.references,
            truncated,
            written if example.choices else (),
            answer,
        )

    def _cut(self, example: Example, room: int, full: int) -> int:
        """The characters of the longest start of the input that was found to fit into `room`.

        `full` is the prompt's token count with all of it. 0 where even that may not fit.
        """

        def probe(length: int) -> int:
            shown = replace(example, input=example.input[:length])
            worded = self.style.word(self.tokenizer, shown, (), self.today)
            return len(self.boundary.prompts([worded.prompt])[0])

        low, best, high, step = 0, probe(0), len(example.input), 0
        while best < room and high - low > 1:
            share = (room - best) / (full - best) if step < _INTERPOLATIONS else 0.5
            length = min(max(low + int(share * (high - low)), low + 1), high - 1)
            tried = probe(length)
            if tried <= room:
                low, best = length, tried
            else:
                high, full = length, tried
            step += 1
        return low

    def _worded(self, example: Example) -> Worded:
        responses = example.choices or example.references[:1]
        return self.style.word(self.tokenizer, example, responses, self.today)


@dataclass(frozen=True)
class _TooLong:
    """An example that does not fit, however much of its input is cut. Sizes are in tokens."""

    task: str
    id: str
    prompt: int
    response: int

    @property
    def tokens(self) -> int:
        return self.prompt + self.response

    @property
    def words(self) -> str:
        return f"task {self.task!r}, example {self.id!r}"


def _told(found: Sequence[_TooLong], most: int) -> DataError:
    """All that are too long, the first ten by id: their places, unless data.id is set."""
    one = found[0]
    if len(found) == 1:
        return DataError(
            f"{one.words}: {one.tokens} tokens without any input (prompt {one.prompt}, response "
            f"{one.response}), but max_tokens is {most}; raise max_tokens, leave the task out, or "
            "set skip_too_long"
        )
    listed = "; ".join(f"{x.words} ({x.tokens} tokens)" for x in found[:TOLD])
    more = "; …" if len(found) > TOLD else ""
    longest = max(x.tokens for x in found)
    return DataError(
        f"{len(found):,} examples are too long without any input, for max_tokens is {most}: "
        f"{listed}{more}; raise max_tokens to {longest}, leave these out, or set skip_too_long"
    )


def _require_answered(task: str, example: Example) -> None:
    if not example.references:
        raise DataError(
            f"task {task!r}, example {example.id!r}: no reference response; give at least one"
        )
    if example.choices and example.references[0] not in example.choices:
        raise DataError(
            f"task {task!r}, example {example.id!r}: the response is none of its "
            f"{len(example.choices)} choices; give one of them as the response"
        )


def _encoder(
    tokenizer: PreTrainedTokenizerBase, style: str, max_tokens: int, today: date | None
) -> _Encoder:
    if tokenizer.eos_token_id is None:
        raise DataError(
            f"tokenizer {tokenizer.name_or_path!r} has no EOS token, so responses could not end; "
            "set its eos_token"
        )
    wording = STYLES.named(style)
    boundary = Boundary(tokenizer, wording.special_tokens)
    return _Encoder(tokenizer, wording, boundary, max_tokens, today or date.today())


def encode(
    tokenizer: PreTrainedTokenizerBase,
    example: Example,
    *,
    style: str = "alpaca",
    max_tokens: int,
    task: str = "",
    today: date | None = None,
) -> Encoded:
    """Encode one example; the first reference is the response.

    Guarantees len(prompt) + len(response) ≤ max_tokens by cutting the end of the input text; the
    response is never cut. `task` is the name that errors show. today: what chat templates are told
    that ask for the date (default: the day it is). Raises DataError where even an empty input
    leaves no room.
    """
    encoder = _encoder(tokenizer, style, max_tokens, today)
    result = encoder.batch([(task, example)])[0]
    if isinstance(result, _TooLong):
        raise _told([result], max_tokens)
    return result


def encode_tasks(
    tokenizer: PreTrainedTokenizerBase,
    tasks: Iterable[Task],
    *,
    style: str = "alpaca",
    max_tokens: int,
    skip_too_long: bool = False,
    today: date | None = None,
) -> dict[str, tuple[Encoded, ...]]:
    """Encode every example of every task: task name → its examples in order, as `encode` does.

    `skip_too_long` leaves out the examples for which `encode` would raise for want of room; the
    caller sees how many by the lengths. Else a DataError tells of all of them. Task names must
    differ.
    """
    encoder = _encoder(tokenizer, style, max_tokens, today)
    result: dict[str, list[Encoded]] = {}

    def items() -> Iterator[tuple[str, Example]]:
        for task in tasks:
            if task.name in result:
                raise DataError(f"task {task.name!r} comes twice; give each task its own name")
            result[task.name] = []
            for example in task.examples:
                yield task.name, example

    too_long: list[_TooLong] = []
    stream = items()
    while batch := list(islice(stream, _BATCH)):
        for (task, _), encoded in zip(batch, encoder.batch(batch), strict=True):
            if isinstance(encoded, Encoded):
                result[task].append(encoded)
            else:
                too_long.append(encoded)
    if too_long and not skip_too_long:
        raise _told(too_long, max_tokens)
    return {name: tuple(examples) for name, examples in result.items()}
