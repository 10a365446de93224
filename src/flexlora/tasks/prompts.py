"""From a task's words to token ids: prompt styles, and cutting what is too long.

Only the input text is ever cut, from its end: the instruction, the template's tail and the response
stay whole, so a shortened example still asks and still teaches the same thing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from flexlora.errors import ConfigError, DataError, nearest
from flexlora.tasks.task import Example, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BATCH = 1024  # examples per tokenizer call: bounds the memory that the offsets take
_INTERPOLATIONS = 8  # probes by interpolation before the cut falls back to halving

ALPACA = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
ALPACA_NO_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)


@dataclass(frozen=True)
class Encoded:
    """One example as token ids; `response` and each of `choices` end with EOS.

    `truncated`: some text was cut. `answer`: the place of the right one in `choices`, −1 without.
    """

    id: str
    category: str
    prompt: tuple[int, ...]
    response: tuple[int, ...]
    references: tuple[str, ...]
    truncated: bool = False
    choices: tuple[tuple[int, ...], ...] = ()
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


@dataclass(frozen=True)
class Style:
    """How a prompt is worded. `special_tokens`: let the tokenizer add its own (BOS) in front."""

    render: Callable[[PreTrainedTokenizerBase, Example], str]
    special_tokens: bool


def _alpaca(_: PreTrainedTokenizerBase, example: Example) -> str:
    if example.history:
        count = len(example.history)
        before = "1 message" if count == 1 else f"{count} messages"
        raise DataError(
            f"example {example.id!r} is a chat with {before} before its "
            "last question, which the prompt style 'alpaca' cannot show; set model.prompt to "
            "'chat', with the tokenizer of a chat model"
        )
    template = ALPACA if example.input.strip() else ALPACA_NO_INPUT
    return template.format(instruction=example.instruction, input=example.input)


def _chat(tokenizer: PreTrainedTokenizerBase, example: Example) -> str:
    if not tokenizer.chat_template:
        raise DataError(
            f"tokenizer {tokenizer.name_or_path!r} has no chat template; use the prompt style "
            "'alpaca', or the tokenizer of a chat model"
        )
    instruction, text = example.instruction, example.input
    content = f"{instruction}\n\n{text}" if text.strip() else instruction
    turns = (*example.history, ("user", content))
    try:
        rendered = tokenizer.apply_chat_template(
            [{"role": role, "content": words} for role, words in turns],
            tokenize=False,
            add_generation_prompt=True,
        )
    except TemplateError as error:
        raise DataError(
            f"the chat template of tokenizer {tokenizer.name_or_path!r} refuses example "
            f"{example.id!r} ({error}); mend that chat, or use another model"
        ) from error
    return str(rendered)


_STYLES: dict[str, Style] = {
    "alpaca": Style(_alpaca, special_tokens=True),
    "chat": Style(_chat, special_tokens=False),  # the template writes its own special tokens
}


def register_style(name: str, style: Style) -> None:
    """Add a prompt style. Raises ConfigError if the name is taken."""
    if name in _STYLES:
        raise ConfigError(f"prompt style {name!r} is registered already; choose another name")
    _STYLES[name] = style


def get_style(name: str) -> Style:
    """Return a prompt style. Raises ConfigError with the nearest known name."""
    if name not in _STYLES:
        raise ConfigError(f"prompt style {name!r} is unknown; {nearest(name, _STYLES)}")
    return _STYLES[name]


@dataclass(frozen=True)
class _Encoder:
    """The settings of one encoding pass."""

    tokenizer: PreTrainedTokenizerBase
    style: Style
    max_tokens: int

    def prompts(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        rows = self._ids(texts, self.style.special_tokens)
        if not self.style.special_tokens:
            return rows
        eos = self.tokenizer.eos_token_id
        return [row[:-1] if row and row[-1] == eos else row for row in rows]

    def cut(self, example: Example, room: int, full: int) -> tuple[int, ...]:
        """The prompt with the longest start of the input that was found to fit into `room` tokens.

        `full` is the token count with all of it. The result is longer than `room` only when
        the prompt without any input is.
        """

        text = example.input

        def probe(length: int) -> tuple[int, ...]:
            shown = self.style.render(self.tokenizer, replace(example, input=text[:length]))
            return self.prompts([shown])[0]

        low, best, high, step = 0, probe(0), len(text), 0
        while len(best) < room and high - low > 1:
            share = (room - len(best)) / (full - len(best)) if step < _INTERPOLATIONS else 0.5
            length = min(max(low + int(share * (high - low)), low + 1), high - 1)
            tried = probe(length)
            if len(tried) <= room:
                low, best = length, tried
            else:
                high, full = length, len(tried)
            step += 1
        return best

    def _responses(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        if not texts:
            return []
        return [(*ids, self.tokenizer.eos_token_id) for ids in self._ids(texts, special=False)]

    def _ids(self, texts: Sequence[str], special: bool) -> list[tuple[int, ...]]:
        rows = self.tokenizer(
            list(texts), add_special_tokens=special, return_attention_mask=False, verbose=False
        )["input_ids"]
        return [tuple(row) for row in rows]

    def batch(self, items: Sequence[tuple[str, Example]]) -> list[Encoded | DataError]:
        """Encode in two tokenizer calls; only what is too long is looked at one by one."""
        for task, example in items:
            if not example.references:
                raise DataError(
                    f"task {task!r}, example {example.id!r}: no reference response; "
                    "give at least one"
                )
            if example.choices and example.references[0] not in example.choices:
                raise DataError(
                    f"task {task!r}, example {example.id!r}: the response is none of its "
                    f"{len(example.choices)} choices; give one of them as the response"
                )
        shown = [self.style.render(self.tokenizer, example) for _, example in items]
        prompts = self.prompts(shown)
        responses = self._responses([example.references[0] for _, example in items])
        choices = iter(self._responses([c for _, example in items for c in example.choices]))
        result: list[Encoded | DataError] = []
        for (task, example), prompt, response in zip(items, prompts, responses, strict=True):
            options = tuple(islice(choices, len(example.choices)))
            room = self.max_tokens - max(map(len, (response, *options)))
            truncated = len(prompt) > room
            if truncated:
                prompt = self.cut(example, room, len(prompt))
            if len(prompt) > room:
                longest = self.max_tokens - room
                result.append(self._too_long(task, example.id, len(prompt), longest))
                continue
            result.append(
                Encoded(
                    example.id,
                    example.category,
                    prompt,
                    response,
                    example.references,
                    truncated,
                    options,
                    example.choices.index(example.references[0]) if options else -1,
                )
            )
        return result

    def _too_long(self, task: str, example: str, prompt: int, response: int) -> DataError:
        return DataError(
            f"task {task!r}, example {example!r}: {prompt + response} tokens without any input "
            f"(prompt {prompt}, response {response}), but max_tokens is {self.max_tokens}; raise "
            "max_tokens, leave the task out, or set skip_too_long"
        )


def _encoder(tokenizer: PreTrainedTokenizerBase, style: str, max_tokens: int) -> _Encoder:
    if tokenizer.eos_token_id is None:
        raise DataError(
            f"tokenizer {tokenizer.name_or_path!r} has no EOS token, so responses could not end; "
            "set its eos_token"
        )
    return _Encoder(tokenizer, get_style(style), max_tokens)


def encode(
    tokenizer: PreTrainedTokenizerBase,
    example: Example,
    *,
    style: str = "alpaca",
    max_tokens: int,
    task: str = "",
) -> Encoded:
    """Encode one example; the first reference is the response.

    Guarantees len(prompt) + len(response) ≤ max_tokens by cutting the end of the input text; the
    response is never cut. `task` is the name that errors show. Raises DataError where even an
    empty input leaves no room.
    """
    encoder = _encoder(tokenizer, style, max_tokens)
    result = encoder.batch([(task, example)])[0]
    if isinstance(result, DataError):
        raise result
    return result


def encode_tasks(
    tokenizer: PreTrainedTokenizerBase,
    tasks: Iterable[Task],
    *,
    style: str = "alpaca",
    max_tokens: int,
    skip_too_long: bool = False,
) -> dict[str, tuple[Encoded, ...]]:
    """Encode every example of every task: task name → its examples in order, as `encode` does.

    `skip_too_long` leaves out the examples for which `encode` would raise for want of room; the
    caller sees how many by the lengths. Task names must differ.
    """
    encoder = _encoder(tokenizer, style, max_tokens)
    result: dict[str, list[Encoded]] = {}

    def items() -> Iterator[tuple[str, Example]]:
        for task in tasks:
            if task.name in result:
                raise DataError(f"task {task.name!r} comes twice; give each task its own name")
            result[task.name] = []
            for example in task.examples:
                yield task.name, example

    stream = items()
    while batch := list(islice(stream, _BATCH)):
        for (task, _), encoded in zip(batch, encoder.batch(batch), strict=True):
            if isinstance(encoded, Encoded):
                result[task].append(encoded)
            elif not skip_too_long:
                raise encoded
    return {name: tuple(examples) for name, examples in result.items()}
