"""The error tree. Every message names the thing, the value and the cure, in one sentence.

Exit codes of the command line follow the class: `InputError` is 2 (the input was wrong), any
other `FlexLoRAError` is 1 (the run failed).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LISTED = 12  # Names that an error lists at most.
_COMPARED = 500  # Characters of a name that others are compared with.
SHOWN = 60
"""Characters of a name or value that an error shows at most."""


class FlexLoRAError(Exception):
    """Base of all errors that FlexLoRA raises on purpose."""

    exit_code = 1


class InputError(FlexLoRAError):
    """What the user gave cannot be used: a file, a value, a name. Exit code 2."""

    exit_code = 2


class ConfigError(InputError):
    """A configuration key or value is wrong."""


class DataError(InputError):
    """Data is missing, truncated, foreign or empty. Its message may quote the data."""


class ModelError(InputError):
    """A base model cannot be loaded or adapted as asked."""


class RankError(InputError):
    """A rank does not fit a layer: zero, negative, or above min(m, n)."""


class AdapterError(InputError):
    """An adapter is malformed, non-finite, or made for another model."""


class RunError(InputError):
    """A folder is no run, or holds one already."""


class RoundError(FlexLoRAError):
    """A round cannot go on: no client gave a usable reply, or all weights are zero."""


class TooFewError(RoundError):
    """Fewer clients are left of a round than what looks at them needs. needed: how many that is."""

    def __init__(self, message: str, needed: int) -> None:
        super().__init__(message)
        self.needed = needed


class WireError(FlexLoRAError):
    """A message between server and client is damaged, or not the one that was waited for."""


class RuleError(FlexLoRAError):
    """A rule does what its traits do not declare, or gives what none may give."""


class TrainingError(FlexLoRAError):
    """Local training diverged: the loss or the adapter is no longer finite."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which of `known` is closest to `name`, or, when none is close, what is known."""
    options = sorted(known)
    # What is far longer than any name is near none, and comparing it takes long.
    close = difflib.get_close_matches(name, options, n=1) if len(name) <= _COMPARED else []
    if close:
        return f"did you mean '{close[0]}'?"
    more = f", … ({len(options)} in all)" if len(options) > _LISTED else ""
    return f"known: {', '.join(options[:_LISTED])}{more}"


def shown(value: object) -> str:
    """A value that others gave, for an error: as Python writes it, in 60 characters at most.

    Control and direction characters in it are escaped, a number of any length is cut.
    """
    if isinstance(value, str):
        return cut_short(repr(value[: 2 * SHOWN]))
    try:
        return cut_short(repr(value))
    except (ValueError, RecursionError):  # More digits or more depth than Python writes.
        return f"{type(value).__name__} of great length"


def seen(name: str) -> str:
    """A name out of somebody's file, for an error, in 60 characters at most: as it is, or as
    Python writes it where it is empty or holds or ends in what is not seen.
    """
    plain = name.isprintable() and name == name.strip() and name
    return cut_short(name) if plain else shown(name)


def cut_short(text: str, most: int = SHOWN) -> str:
    """The text, in so many characters at most; "…" ends one that was cut."""
    return text if len(text) <= most else text[: most - 1] + "…"
