"""Options of what a config names: a constructor's arguments, held to their types and ranges.

What an option may be is stated once, where it is an argument: its type is the annotation, its
meaning and range stand beside it: `clients: Annotated[int, Option("how many", least=1)]`.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from flexlora.errors import ConfigError, cut_short, nearest, seen
from flexlora.errors import shown as foreign

MANY = 10**9
"""The roof of a whole number that only counts: what is beyond is a slip of the hand."""

_WORDS = {int: "a whole number", float: "a number", str: "text in quotes", bool: "true or false"}
_UNFIT = object()


@dataclass(frozen=True)
class Option:
    """What an argument means, and which numbers it takes: least ≤ x ≤ most, above < x < below."""

    meaning: str
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None

    def takes(self, value: float) -> bool:
        """A range holds neither NaN nor infinity."""
        return not self.range or (
            -math.inf < value < math.inf
            and (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )

    @property
    def range(self) -> str:
        """In words that follow "a number": "of 1 or more", "above 0 and at most 1", or ""."""
        words = [
            "" if self.least is None else f"of {number(self.least)} or more",
            "" if self.above is None else f"above {number(self.above)}",
            "" if self.most is None else f"at most {number(self.most)}",
            "" if self.below is None else f"below {number(self.below)}",
        ]
        return " and ".join(word for word in words if word)


@dataclass(frozen=True)
class Argument:
    """One argument of a constructor. kinds: the types it takes; empty: whatever it is given."""

    kinds: tuple[Any, ...]
    default: Any
    option: Option

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty

    @property
    def words(self) -> str:
        """What it takes: "a whole number of 1 or more", "text in quotes or a list of text"."""
        words = " or ".join(dict.fromkeys(_words(kind) for kind in self.kinds if kind is not None))
        return f"{words} {self.option.range}".strip()

    def take(self, value: Any, key: str) -> Any:
        """The value, a list as a tuple where one is wanted.

        A whole number is taken for a float, true for nothing else. Raises ConfigError for another
        type and for a number out of range.
        """
        if not self.kinds or value is self.default:
            return value
        for fit in (_as(kind, value) for kind in self.kinds):
            counts = isinstance(fit, int | float) and not isinstance(fit, bool)
            if fit is not _UNFIT and (not counts or self.option.takes(fit)):
                return fit
        known = [x for kind in self.kinds if get_origin(kind) is Literal for x in get_args(kind)]
        if known:
            raise ConfigError(f"{key} is {shown(value)}; {nearest(bare(value), map(str, known))}")
        meaning = f" ({self.option.meaning})" if self.option.meaning else ""
        raise ConfigError(f"{key} is {shown(value)}, expected {self.words}{meaning}; correct it")


@functools.cache
def arguments_of(made: Any) -> Mapping[str, Argument]:
    """Argument of a class → what it takes, in order, without *args and **kwargs."""
    # Fields of a dataclass are evaluated where each was written, also those of its bases.
    source = made if is_dataclass(made) else made.__init__
    try:
        hints = get_type_hints(source, include_extras=True)
    except (NameError, AttributeError, TypeError) as error:  # Names for a type checker alone.
        if str(error).startswith("Option."):  # Else no option of it would be held to anything.
            raise ConfigError(
                f"the options of {made.__name__} cannot be read: {error}; an Option takes a "
                "meaning, least, above, most and below"
            ) from error
        hints = {}
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        name: _argument(hints.get(name, Any), parameter.default)
        for name, parameter in inspect.signature(made).parameters.items()
        if parameter.kind in named
    }


def checked(
    made: Callable[..., Any],
    options: Mapping[str, Any],
    *,
    chooser: str,
    name: str,
    others: Mapping[str, Callable[..., Any]] | None = None,
    beside: Iterable[str] = (),
    hidden: Iterable[str] = (),
    table: str = "",
) -> dict[str, Any]:
    """The options as `made` takes them.

    chooser, name: the key of the config that chose it, and its value ("rule.name", "hetlora").
    others: what could have been chosen instead; beside: keys of that table that are no options;
    hidden: arguments that are none either; table: where the options are, if not beside `chooser`.
    Raises ConfigError for an option that it lacks (with the nearest, or who has it), one that it
    needs but was not given, and as `Argument.take`.
    """
    table = table or chooser.partition(".")[0]
    known = {key: x for key, x in arguments_of(made).items() if key not in hidden}
    for key in options:
        if key not in known:
            owners = [] if key in hidden else _that_take(key, others or {})
            all_known = [*known, *beside]
            if owners:
                cure = f"leave it out, or set {chooser} to {' or '.join(map(repr, owners))}"
            else:
                cure = nearest(key, all_known) if all_known else "it takes no options"
            raise ConfigError(f"{table}.{seen(key)} is not an option of {name!r}; {cure}")
    for key, argument in known.items():
        if argument.required and key not in options:
            raise ConfigError(f"{chooser} is {name!r}, which needs {table}.{key}; give it")
    return {key: known[key].take(value, f"{table}.{key}") for key, value in options.items()}


def require(made: object, table: str = "") -> None:
    """Hold what a dataclass was given to its annotations, for its `__post_init__`.

    Raises ConfigError that names the argument, as `table.key` if there is a table.
    """
    kinds = type(made).__mro__
    kind: Any = next(kind for kind in kinds if "__dataclass_fields__" in vars(kind))
    for key, argument in arguments_of(kind).items():
        argument.take(getattr(made, key), f"{table}.{key}" if table else key)


def shown(value: object) -> str:
    """A value as it stands in a config, cut short."""
    if isinstance(value, float):  # JSON writes NaN where TOML writes nan.
        return repr(value)
    try:
        return cut_short(json.dumps(value, ensure_ascii=False, default=str))
    except (TypeError, ValueError, RecursionError):  # More than can be written, or in itself.
        return foreign(value)


def bare(value: object) -> str:
    """The same for finding the nearest name: a text without its quotes."""
    return value if isinstance(value, str) else shown(value)


def number(value: float) -> str:
    """A limit in words: 0.5, 1,000,000."""
    whole = abs(value) < 1e15 and value == int(value)
    return f"{int(value):,}" if whole else f"{value:g}"


def _argument(hint: Any, default: Any) -> Argument:
    option = Option("")
    if get_origin(hint) is Annotated:
        hint, *notes = get_args(hint)
        option = next((note for note in notes if isinstance(note, Option)), option)
    union = get_origin(hint) in (Union, types.UnionType)
    kinds = tuple(None if kind is types.NoneType else kind for kind in get_args(hint) or ())
    return Argument(kinds if union else () if hint is Any else (hint,), default, option)


def _as(kind: Any, value: Any) -> Any:
    """The value as this type, or `_UNFIT`."""
    origin = get_origin(kind)
    if kind is None:
        return value if value is None else _UNFIT
    if origin is Literal:
        return value if value in get_args(kind) and not isinstance(value, bool) else _UNFIT
    if _item(kind):
        fits = isinstance(value, list | tuple) and all(type(x) is _item(kind) for x in value)
        return origin(value) if fits else _UNFIT
    if kind is float and type(value) is int:
        return float(value) if abs(value) < 2**1023 else _UNFIT
    if kind in _WORDS:
        return value if type(value) is kind else _UNFIT
    return value if not isinstance(kind, type) or isinstance(value, kind) else _UNFIT


def _words(kind: Any) -> str:
    if _item(kind):
        return f"a list of {'text' if _item(kind) is str else 'numbers'}"
    if get_origin(kind) is Literal:
        return " or ".join(shown(known) for known in get_args(kind))
    return _WORDS.get(kind, getattr(kind, "__name__", str(kind)))


def _item(kind: Any) -> type | None:
    """X of list[X] or tuple[X, …], where that is a type that a config writes."""
    parts = get_args(kind)
    alike = get_origin(kind) is list or (get_origin(kind) is tuple and parts[1:] == (...,))
    return parts[0] if alike and parts[0] in _WORDS else None


def _that_take(key: str, others: Mapping[str, Callable[..., Any]]) -> list[str]:
    return [name for name, made in others.items() if key in arguments_of(made)]
