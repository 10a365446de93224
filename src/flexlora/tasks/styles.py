"""The prompt styles by name: `model.prompt` names one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, final

from flexlora.errors import DataError
from flexlora.registry import Registry
from flexlora.tasks.chat import Chat
from flexlora.tasks.task import Example
from flexlora.tasks.wording import Worded, Wording

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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


@final
@dataclass(frozen=True)
class Style:
    """A prompt that does not depend on the response, which is written as it is and ends with EOS.

    render: the prompt; special_tokens: let the tokenizer add its own (BOS) in front.
    """

    render: Callable[[PreTrainedTokenizerBase, Example], str]
    special_tokens: bool

    def word(
        self,
        tokenizer: PreTrainedTokenizerBase,
        example: Example,
        responses: Sequence[str],
        today: date,
    ) -> Worded:
        return Worded(self.render(tokenizer, example), tuple(responses))


def _require_no_chat(example: Example, style: str) -> None:
    if example.history:
        count = len(example.history)
        before = "1 message" if count == 1 else f"{count} messages"
        raise DataError(
            f"example {example.id!r} is a chat with {before} before its "
            f"last question, which the prompt style {style!r} cannot show; set model.prompt to "
            "'chat', with the tokenizer of a chat model"
        )


def _alpaca(_: PreTrainedTokenizerBase, example: Example) -> str:
    _require_no_chat(example, "alpaca")
    template = ALPACA if example.input.strip() else ALPACA_NO_INPUT
    return template.format(instruction=example.instruction, input=example.input)


def _plain(_: PreTrainedTokenizerBase, example: Example) -> str:
    _require_no_chat(example, "plain")
    return f"{example.instruction}\n{example.input}" if example.input else example.instruction


STYLES: Registry[Wording] = Registry("prompt style", "model.prompt")


def register_style(name: str, style: Wording) -> None:
    """Add a prompt style. Raises ConfigError if another has the name."""
    STYLES.add(name, style)


register_style("alpaca", Style(_alpaca, special_tokens=True))
# As it is, an input on a line of its own; the response follows at once.
register_style("plain", Style(_plain, special_tokens=True))
register_style("chat", Chat())
