"""A chat as a column holds it: a list of {role, content}, whose last message is the response."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flexlora.errors import DataError

_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Conversation:
    """history: (role, content) of all turns before the last question; prompt: that question."""

    history: tuple[tuple[str, str], ...]
    prompt: str
    response: str


def conversation(value: object, where: str) -> Conversation:
    """Read a chat: at most one system message, first; then user and assistant by turns.

    The last message is the assistant's, and the only one that is learnt; all before is the prompt.
    Raises DataError naming `where` and the message for anything else.
    """
    if not isinstance(value, list | tuple):
        raise DataError(
            f"{where} is {type(value).__name__}, expected a list of messages "
            '{"role": …, "content": …}; convert it'
        )
    turns = [_turn(message, f"{where}, message {i + 1}") for i, message in enumerate(value)]
    spoken = turns[1:] if turns and turns[0][0] == "system" else turns
    if len(spoken) < 2 or spoken[-1][0] != "assistant":
        raise DataError(
            f"{where} ends with {'no message' if not turns else repr(turns[-1][0])} after "
            f"{max(len(turns) - 1, 0)} others; end it with a question of the 'user' and the answer "
            "of the 'assistant'"
        )
    for i, (role, _) in enumerate(spoken):
        expected = ("user", "assistant")[i % 2]
        if role != expected:
            place = i + 1 + len(turns) - len(spoken)
            raise DataError(
                f"{where}, message {place}, is of role {role!r}, expected {expected!r}: user and "
                "assistant take turns, the user begins; mend that row"
            )
    return Conversation(tuple(turns[:-2]), turns[-2][1], turns[-1][1])


def _turn(message: object, where: str) -> tuple[str, str]:
    if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
        found = ", ".join(map(str, message)) if isinstance(message, Mapping) else "no object"
        raise DataError(f"{where}, has {found}; give it the keys role and content")
    role, content = message["role"], message["content"]
    if role not in _ROLES:
        raise DataError(f"{where}, has role {role!r}; give one of {', '.join(_ROLES)}")
    if not isinstance(content, str):
        raise DataError(
            f"{where}, has content of type {type(content).__name__}, expected text; mend that row"
        )
    return role, content
