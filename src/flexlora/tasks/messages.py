"""A chat as a column holds it: a list of messages, the last of which is the response.

Messages are {"role": …, "content": …}, or {"from": …, "value": …} as ShareGPT's. Content is text,
or a list of parts that are text. Tools may be called and answer in between.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from flexlora.errors import DataError, seen, shown
from flexlora.tasks.rows import kind_of
from flexlora.tasks.task import Example, Turn

# What speakers are called, and who they are.
_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
_SHOWN = 8  # Keys that an error lists at most.
_KEYS = (("role", "content"), ("from", "value"))
# Who may speak after whom; nobody: at the beginning, after the system message.
_AFTER = {
    "nobody": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("assistant", "tool"),
}


@dataclass(frozen=True)
class Conversation:
    """history: all turns before the last question; prompt: that question; response: its answer.

    Where a tool speaks last before the answer, it is the last of the history, and prompt is "".
    """

    history: tuple[Turn, ...]
    prompt: str
    response: str


def conversation(value: object, where: str) -> Conversation:
    """Read a chat: at most one system message, first; then user and assistant by turns.

    The last message is the assistant's, and the one that is learnt; all before is the prompt
    (`every_answer` makes examples of the earlier ones).
    An assistant may call tools ("tool_calls", or the speaker "function_call"), which answer before
    it speaks again. Only it may say nothing, where it calls.
    Raises DataError naming `where` and the message for anything else, also for a blank message.
    """
    if not isinstance(value, list | tuple):
        raise DataError(
            f"{where} is {kind_of(value)}, expected a list of messages "
            '{"role": …, "content": …}; convert it'
        )
    turns = [_turn(message, f"{where}, message {i + 1}") for i, message in enumerate(value)]
    spoken = turns[1:] if turns and turns[0].role == "system" else turns
    if len(spoken) < 2 or spoken[-1].role != "assistant":
        raise DataError(
            f"{where} ends with {'no message' if not turns else repr(turns[-1].role)} after "
            f"{max(len(turns) - 1, 0)} others; end it with a question of the 'user' and the answer "
            "of the 'assistant'"
        )
    _require_turns(spoken, len(turns) - len(spoken), where)
    if spoken[-1].calls:
        raise DataError(
            f"{where}, message {len(turns)}, calls a tool, but what is learnt is the last "
            "message's text; end with the answer, or write the call as text"
        )
    asked = 2 if turns[-2].role == "user" else 1  # A tool's answer stays in the history.
    prompt = turns[-2].text if asked == 2 else ""
    return Conversation(tuple(turns[:-asked]), prompt, turns[-1].text)


def every_answer(example: Example) -> tuple[Example, ...]:
    """The chat once for each message of the assistant, all before which is the prompt; the last is
    the example itself, the others are named by their place in the chat.

    One example each, for a template may write an earlier answer otherwise once others follow it
    (without its thoughts, say): so each is learnt behind just what stands there when it is given.
    A message that calls a tool is in the prompts of later ones alone.
    """
    found = []
    for place, turn in enumerate(example.history):
        if turn.role != "assistant" or turn.calls:
            continue
        before, asked = example.history[:place], ""
        if before[-1].role == "user":
            before, asked = before[:-1], before[-1].text
        found.append(
            replace(
                example,
                id=f"{example.id}, message {place + 1}",
                instruction=asked,
                references=(turn.text,),
                history=before,
            )
        )
    return (*found, example)


def _require_turns(spoken: Sequence[Turn], before: int, where: str) -> None:
    last = "nobody"
    for i, turn in enumerate(spoken, start=before + 1):
        expected = _AFTER[last]
        if turn.role not in expected:
            raise DataError(
                f"{where}, message {i}, is of role {turn.role!r}, expected "
                f"{' or '.join(map(repr, expected))}: user and assistant take turns, the user "
                "begins; mend that row"
            )
        last = turn.role


def _turn(message: object, where: str) -> Turn:
    found = message if isinstance(message, Mapping) else {}
    keys = next((keys for keys in _KEYS if found.get(keys[0]) is not None), None)
    if keys is None or (keys[1] not in found and not found.get("tool_calls")):
        names = [seen(str(name)) for name in islice(found, _SHOWN)]
        given = ", ".join(names) or "no key" if isinstance(message, Mapping) else "no object"
        raise DataError(f"{where}, has {given}; give it the keys role and content")
    speaker = found[keys[0]]
    if not isinstance(speaker, str) or speaker not in _ROLES:
        raise DataError(
            f"{where}, has {keys[0]} {shown(speaker)}; give one of system, user, "
            "assistant, tool (or human, gpt, observation, function_call)"
        )
    role, calls = _ROLES[speaker], found.get("tool_calls")
    if calls and role != "assistant":
        raise DataError(f"{where}, of {speaker!r}, calls tools; only the assistant can")
    text = _text(found.get(keys[1]), where, keys[1], optional=bool(calls))
    if not text.strip() and not calls:
        raise DataError(f"{where}, of {speaker!r}, is blank; fill or remove it, or that row")
    return Turn(role, text, _calls(calls, where) if calls else "")


def _text(content: object, where: str, key: str, *, optional: bool) -> str:
    """Text, or a list of parts that are all text, joined as they are."""
    if content is None and optional:
        return ""
    parts = list(content) if isinstance(content, list | tuple) else [content]
    texts = []
    for part in parts:
        text = part.get("text") if isinstance(part, Mapping) else part
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        if kind != "text":
            raise DataError(
                f"{where}, has a part of type {shown(kind)}; only text can be learnt from"
            )
        if not isinstance(text, str):
            raise DataError(f"{where}: {key} is {kind_of(text)}, expected text; mend that row")
        texts.append(text)
    return "".join(texts)


def _calls(calls: Any, where: str) -> str:
    """The calls as JSON. Arguments that are JSON inside JSON are read, as templates expect them."""
    if not isinstance(calls, list | tuple) or not all(isinstance(x, Mapping) for x in calls):
        raise DataError(f"{where}: tool_calls is no list of objects; mend that row")
    found = []
    for call in calls:
        function = call.get("function")
        if isinstance(function, Mapping) and isinstance(function.get("arguments"), str):
            try:
                arguments = json.loads(function["arguments"])
            except (ValueError, RecursionError):
                arguments = function["arguments"]  # Text, then.
            call = {**call, "function": {**function, "arguments": arguments}}
        found.append(call)
    try:
        return json.dumps(found, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{where}: tool_calls cannot be written as JSON; mend that row") from error
