"""The one door of outcomes: types and ranges of all that is in them, before anything touches it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from flexlora.engines.jobs import Failure, Outcome, Reply, Scored
from flexlora.errors import FlexLoRAError, cut_short
from flexlora.evaluation import ClientScore
from flexlora.formats.visible import visible

MOST_EXAMPLES = 10_000  # Of a client of which the server knows nothing.
MOST = 2**53  # Steps, tokens: whole numbers that every reader of JSON keeps.
LARGEST = float(torch.finfo(torch.float32).max)
_METRICS = 1000
_NAME, _REASON = 200, 2000  # Characters that are kept of what a stranger wrote.


@dataclass(frozen=True)
class Known:
    """What the server knows of its clients: how many examples each trains on, and scores on."""

    train: Mapping[str, int] = field(default_factory=dict)
    held_out: Mapping[str, int] = field(default_factory=dict)


class _Malformed(FlexLoRAError):
    """What is wrong with an outcome."""


def opened(given: object, known: Known, names: Collection[str]) -> Outcome:
    """The outcome, if its values have the types and ranges that an `Outcome` promises; else a
    Failure that says what is wrong. Raises nothing, whatever it is given.

    names: the jobs and clients of the exchange; any other one is cut short, and what cannot be
    printed is written out, so that it can stand in a log. Examples count up to what the server
    knows the client to hold (of others: 10,000): they are a weight, and the client's own word.
    """
    job, client = (_name(given, key, names) for key in ("job", "client"))
    try:
        if type(given) is Reply:
            found: Outcome = _reply(given, known)
        elif type(given) is Scored:
            score = _score(given.score, known)
            found = given if score is given.score else replace(given, score=score)
        elif type(given) is Failure:
            reason = _visible(given.reason, _REASON, keep="\n\t")
            as_it_is = type(given.reason) is str and reason == given.reason
            found = given if as_it_is else replace(given, reason=reason)
        else:
            raise _Malformed(f"it is {_kind(given)}, neither a reply, nor a score, nor a failure")
        return replace(found, job=job, client=client) if _strange(given, job, client) else found
    except Exception as error:
        return Failure(job, client, f"a malformed answer: {why(error)}")


def why(error: Exception) -> str:
    """What the error says, as one line; and of what kind it is, where it is none of ours."""
    kind = type(error).__name__
    try:
        text = str(error)
    except Exception:
        text = ""
    ours = isinstance(error, FlexLoRAError) and text
    return _visible(" ".join((text if ours else f"{kind}: {text}").split()), _REASON)


def _reply(given: Reply, known: Known) -> Reply:
    if type(given.payload) is not bytes:
        raise _Malformed(f"its payload is {_kind(given.payload)}, expected bytes")
    examples = min(
        _count("examples", given.examples), known.train.get(_text(given.client), MOST_EXAMPLES)
    )
    _count("steps", given.steps)
    _count("tokens", given.tokens)
    _number("loss", given.loss)
    if _number("seconds", given.seconds) < 0.0:
        raise _Malformed(f"its seconds are {given.seconds:g}, expected 0 or more")
    score = None if given.score is None else _score(given.score, known)
    if score is given.score and examples == given.examples:
        return given
    return replace(given, score=score, examples=examples)


def _score(given: object, known: Known) -> ClientScore:
    if not isinstance(given, ClientScore):
        raise _Malformed(f"its score is {_kind(given)}, expected a score")
    client, means = _text(given.client), given.means
    _text(given.category)
    if type(means) is not dict or len(means) > _METRICS:
        raise _Malformed(f"its score's values are {_kind(means)}, expected a number a metric")
    for name, value in means.items():
        _number(f"score by {_visible(name, _NAME)}", value)
    for part, values in (("weights", given.weights), ("metrics", given.given)):
        if type(values) is not dict or len(values) > _METRICS:
            raise _Malformed(f"its score's {part} are {_kind(values)}, expected one a metric")
    for name, value in given.weights.items():
        _number(f"score's weight by {_visible(name, _NAME)}", value)
    most = known.held_out.get(client, 0 if client in known.train else MOST_EXAMPLES)
    examples = min(_count("score's examples", given.examples), most)
    return given if examples == given.examples else replace(given, examples=examples)


def _count(what: str, value: object) -> int:
    if type(value) is not int or not 0 <= value <= MOST:
        shown = value if isinstance(value, float) or _is_short(value) else _kind(value)
        raise _Malformed(f"its {what} are {shown}, expected a whole number from 0 to {MOST}")
    return value


def _number(what: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Malformed(f"its {what} is {_kind(value)}, expected a number")
    if not -LARGEST <= value <= LARGEST:
        shown = value if isinstance(value, float) else "too large an integer"
        raise _Malformed(f"its {what} is {shown}, expected a finite number that float32 can hold")
    return float(value)


def _text(value: object) -> str:
    if type(value) is not str:
        raise _Malformed(f"a name in it is {_kind(value)}, expected a text")
    return value


def _name(given: object, key: str, names: Collection[str]) -> str:
    """As it is, for one of these names; else something that can be written down."""
    try:
        value: Any = getattr(given, key, None)
    except Exception:
        value = None
    if type(value) is str and value in names:
        return value
    return _visible(value, _NAME)


def _strange(given: object, job: str, client: str) -> bool:
    return getattr(given, "job", None) is not job or getattr(given, "client", None) is not client


def _visible(value: object, most: int, keep: str = "") -> str:
    """A text of at most so many characters, what cannot be printed as its escape."""
    if type(value) is not str:
        return f"<{type(value).__name__}>"
    return visible(cut_short(value, most), keep)


def _kind(value: object) -> str:
    return f"of type {type(value).__name__}"


def _is_short(value: object) -> bool:
    return type(value) is int and -MOST <= value <= 2 * MOST
