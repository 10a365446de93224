"""What a prompt style is: an example and its responses as texts, not yet tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Protocol

from flexlora.tasks.task import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Worded:
    """prompt: all that is read before a response. responses: what is written from there on, for
    each response that was asked for. end: what follows each of them; "" where nothing does.
    """

    prompt: str
    responses: tuple[str, ...]
    end: str = ""


class Wording(Protocol):
    """How examples are worded. special_tokens: the tokenizer adds its own (BOS) around the text."""

    @property
    def special_tokens(self) -> bool: ...

    def word(
        self,
        tokenizer: PreTrainedTokenizerBase,
        example: Example,
        responses: Sequence[str],
        today: date,
    ) -> Worded:
        """The example before these responses. today: for what is worded by the day.

        Raises DataError for an example that cannot be worded so.
        """
        ...
