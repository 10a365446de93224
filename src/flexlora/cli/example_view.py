"""What `flexlora run --dry-run --show-example` shows: one example as the model is given it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flexlora.cli.console import say
from flexlora.formats.words import count

if TYPE_CHECKING:
    from flexlora.federation.setup import Setup

_PIECES = 24  # learnt tokens that are shown one by one


@dataclass(frozen=True)
class ShownExample:
    """The first training example of the first client, its tokens written out as text.

    prompt: what the model reads; learnt: what it is trained to write behind, with the token that it
    stops at, which is the last of `learnt_tokens`. cut: the input was shortened to fit.
    """

    client: str
    id: str
    prompt: str
    prompt_tokens: int
    learnt: str
    learnt_tokens: tuple[str, ...]
    cut: bool

    @staticmethod
    def of(setup: Setup) -> ShownExample:
        client, (example, *_) = next(iter(setup.examples.train.items()))
        tokenizer = setup.model.tokenizer

        def text(*ids: int) -> str:
            return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))

        prompt, whole = text(*example.prompt), text(*example.prompt, *example.response)
        # Alone, a text may lose the blank that it begins with.
        behind = whole.removeprefix(prompt) if whole.startswith(prompt) else text(*example.response)
        return ShownExample(
            client=client,
            id=example.id,
            prompt=prompt,
            prompt_tokens=len(example.prompt),
            learnt=behind,
            learnt_tokens=tuple(text(token) for token in example.response),
            cut=example.truncated,
        )

    @property
    def stop(self) -> str:
        return self.learnt_tokens[-1]

    def to_json(self) -> dict[str, Any]:
        return {
            "client": self.client,
            "id": self.id,
            "prompt": self.prompt,
            "prompt_tokens": self.prompt_tokens,
            "learnt": self.learnt,
            "learnt_tokens": list(self.learnt_tokens),
            "stop": self.stop,
            "cut": self.cut,
        }


def show_example(example: ShownExample) -> None:
    """Line by line; the end of a line, and all else that is not seen, as Python writes it."""
    cut = "; its input was cut to fit" if example.cut else ""
    say(f"example {example.id} of client {example.client}{cut}")
    say(f"prompt, {count(example.prompt_tokens, 'token')} that are read:")
    _lines(example.prompt)
    pieces = example.learnt_tokens
    say(f"response, {count(len(pieces), 'token')} that are learnt:")
    _lines(example.learnt)
    more = " …" if len(pieces) > _PIECES else ""
    say(f"token by token: {' '.join(map(repr, pieces[:_PIECES]))}{more}")
    say(f"an answer ends with {example.stop!r}")


def _lines(text: str) -> None:
    for line in re.findall(r"[^\n]*\n|[^\n]+", text):
        say(f"  {line}")
