"""The one door of outcomes: types and ranges of all that is in them, before anything touches it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from flexlora.config.schedule import MOST_EXAMPLES
from flexlora.engines.jobs import FAULTS, Answer, Failure, Offer, Reply, Scored
from flexlora.errors import FlexLoRAError, cut_short, shown
from flexlora.evaluation import ClientScore
from flexlora.formats.visible import visible

MOST_TOKENS = 1_000_000  # Of its right answers, all together.
MOST = 2**53  # Steps, tokens: whole numbers that every reader of JSON keeps.
LARGEST = float(torch.finfo(torch.float32).max)
_METRICS = 1000
_NAME, _REASON = 200, 2000  # Characters that are kept of what a stranger wrote.


@dataclass(frozen=True)
class Known:
    """What the server knows of its clients: how many examples each trains on, and scores on, and
    how many tokens the right answers to the latter have."""

    train: Mapping[str, int] = field(default_factory=dict)
    held_out: Mapping[str, int] = field(default_factory=dict)
    tokens: Mapping[str, int] = field(default_factory=dict)


NOTHING = Known()


class _Malformed(FlexLoRAError):
    """What is wrong with an outcome."""


def opened(given: object, known: Known, names: Collection[str]) -> Answer:
    """The answer, if its values have the types and ranges that it promises; else a Failure, which
    says what is wrong, or why lower ranks are offered. Raises nothing, whatever it is given.

    names: the jobs and clients of the exchange; any other one is cut short, and what cannot be
    printed is written out, so that it can stand in a log. Examples count up to what the server
    knows the client to hold (of others: 10,000), and weights up to the tokens of its right answers:
    they are the client's own word.
    """
    job, client = (_name(given, key, names) for key in ("job", "client"))
    try:
        if type(given) is Reply:
            found: Answer = _reply(given, known)
        elif type(given) is Scored:
            score = _score(given.score, known)
            found = given if score is given.score else replace(given, score=score)
        elif type(given) is Failure:
            reason = _visible(given.reason, _REASON, keep="\n\t")
            as_it_is = type(given.reason) is str and reason == given.reason
            found = given if as_it_is else replace(given, reason=reason)
            if found.kind not in FAULTS:
                found = replace(found, kind="train")
        elif type(given) is Offer:  # Where one is looked for, it is taken before.
            found = Failure(job, client, _visible(given.reason, _REASON, keep="\n\t"))
        else:
            raise _Malformed(f"it is {_kind(given)}, neither a reply, nor a score, nor a failure")
        return replace(found, job=job, client=client) if _strange(given, job, client) else found
    except Exception as error:
        return Failure(job, client, f"a malformed answer: {why(error)}", "quarantine")


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
    if not examples:
        raise _Malformed("it is of no example, expected at least one")
    _count("steps", given.steps)
    _count("tokens", given.tokens)
    _number("loss", given.loss)
    if _number("seconds", given.seconds) < 0.0:
        raise _Malformed(f"its seconds are {given.seconds:g}, expected 0 or more")
    if given.peak_bytes is not None:
        _count("peak_bytes", given.peak_bytes)
    _count("cohort", given.cohort)
    score = None if given.score is None else _score(given.score, known)
    if score is given.score and examples == given.examples:
        return given
    return replace(given, score=score, examples=examples)


def _score(given: object, known: Known) -> ClientScore:
    if type(given) is not ClientScore:
        raise _Malformed(f"its score is {_kind(given)}, expected a score")
    client, means = _text(given.client), given.means
    _text(given.category)
    for part, values in (("values", means), ("weights", given.weights), ("metrics", given.given)):
        if type(values) is not dict or len(values) > _METRICS:
            raise _Malformed(f"its score's {part} are {_kind(values)}, expected one a metric")
    if given.given:
        # Metrics are asked for by name: one that is brought would be run here.
        raise _Malformed("its score brings metrics of its own, expected none")
    for name, value in means.items():
        _number(f"score by {_visible(name, _NAME)}", value)
    for name, value in given.weights.items():
        what = f"score's weight by {_visible(name, _NAME)}"
        if name not in means or not _number(what, value) > 0.0:
            raise _Malformed(f"its {what} is {shown(value)}, expected one above 0 of a score")
    most = known.held_out.get(client, 0 if client in known.train else MOST_EXAMPLES)
    heaviest = known.tokens.get(client, MOST_TOKENS)
    examples = min(_count("score's examples", given.examples), most)
    weights = {name: min(value, heaviest) for name, value in given.weights.items()}
    if (examples, weights) == (given.examples, given.weights):
        return given
    return replace(given, examples=examples, weights=weights)


def _count(what: str, value: object) -> int:
    if type(value) is not int or not 0 <= value <= MOST:
        told = shown(value) if type(value) in (int, float) else _kind(value)
        raise _Malformed(f"its {what} are {told}, expected a whole number from 0 to {MOST}")
    return value


def _number(what: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Malformed(f"its {what} is {_kind(value)}, expected a number")
    if not -LARGEST <= value <= LARGEST:
        raise _Malformed(
            f"its {what} is {shown(value)}, expected a finite number that float32 can hold"
        )
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
    # What is beyond the first character that does not fit need not be made visible.
    return cut_short(visible(value[: most + 1], keep), most)


def _kind(value: object) -> str:
    return f"of type {type(value).__name__}"
