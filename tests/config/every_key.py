"""Every key that a config can have, read off its tables and registries, so that none is missed."""

from __future__ import annotations

import math
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt

from flexlora.config.config import Config
from flexlora.options import Option, arguments_of
from flexlora.partition.registry import SCHEMES
from flexlora.registry import Registry
from flexlora.rules import RULES
from flexlora.screens import SCREENS
from flexlora.tasks.source import SEED, SOURCES

_HOLD_OPTIONS = ("options", "chosen")
# What the options of a registry's things are beside, and what some of them cannot be without.
_CHOSEN: Mapping[str, tuple[str, Registry[Any]]] = {
    "data": ("source", SOURCES),
    "partition": ("by", SCHEMES),
    "rule": ("name", RULES),
}
_NEEDED = {
    "path": "nowhere",
    "prompt": "question",
    "response": "answer",
    "clients": 2,
    "alpha": 1.0,
}


@dataclass(frozen=True)
class Key:
    """A key of a table. numbers: those of its types that are, each with its limits.

    Numbers in tables of one's own names (clients.mix, clients.types) are none of them.
    """

    table: str
    name: str
    chosen: tuple[tuple[str, Any], ...]
    numbers: tuple[tuple[type, tuple[float, float]], ...]
    screen: str = ""

    @property
    def id(self) -> str:
        by = "".join(f"[{value}]" for key, value in self.chosen if key in ("source", "by", "name"))
        return f"{self.table}{by or (self.screen and f'[{self.screen}]')}.{self.name}"

    def set(self, value: Any) -> dict[str, Any]:
        """A document in which it has this value, and which is right but for it."""
        if self.screen:
            return {"screens": {self.screen: {self.name: value}}}
        return {self.table: {**dict(self.chosen), self.name: value}}


def every_key() -> Iterator[Key]:
    for table, field in Config.model_fields.items():
        hints = get_type_hints(field.annotation, include_extras=True)
        for name, inner in field.annotation.model_fields.items():  # type: ignore[union-attr]
            if name not in _HOLD_OPTIONS:
                numbers = _numbers(hints[name], tuple(inner.metadata))
                yield Key(table, name, (), tuple(numbers))
    seen = set()
    for table, (chooser, registry) in _CHOSEN.items():
        for thing, made in registry.items():
            arguments = {k: a for k, a in arguments_of(made).items() if k != SEED}
            needed = {k: _NEEDED[k] for k, a in arguments.items() if a.required}
            if "response" in arguments:
                needed |= {k: _NEEDED[k] for k in ("prompt", "response") if k in arguments}
            for name, argument in arguments.items():
                if (table, name, repr(argument)) in seen:
                    continue  # Several have it from one base.
                seen.add((table, name, repr(argument)))
                yield Key(
                    table,
                    name,
                    ((chooser, thing), *needed.items()),
                    tuple((kind, _limits([argument.option])) for kind in _of(argument.kinds)),
                )
    for screen, made in SCREENS.items():
        for name, argument in arguments_of(made).items():
            limits = _limits([argument.option])
            kinds = tuple((kind, limits) for kind in _of(argument.kinds))
            yield Key("screens", name, (), kinds, screen)


def _of(kinds: tuple[Any, ...]) -> list[type]:
    return [kind for kind in kinds if kind in (int, float)]


def _numbers(hint: Any, notes: tuple[Any, ...]) -> Iterator[tuple[type, Any]]:
    """The numbers of a type, those in lists and unions too, with the notes that stand nearest."""
    origin = get_origin(hint)
    if origin is Annotated:
        hint, *own = get_args(hint)
        metadata = [m for note in own for m in getattr(note, "metadata", [note])]
        yield from _numbers(hint, (*notes, *metadata))
    elif hint in (int, float):
        yield hint, _limits(notes)
    elif origin in (Union, types.UnionType, tuple):
        for part in get_args(hint):
            yield from _numbers(part, notes if origin is not tuple else ())


def _limits(notes: Any) -> tuple[float, float]:
    """(lowest, highest) of what stands beside a number; NaN where nothing does."""
    low = high = math.nan
    for note in notes:
        if isinstance(note, Option):
            lows, highs = (note.least, note.above), (note.most, note.below)
            low = next((x for x in lows if x is not None), low)
            high = next((x for x in highs if x is not None), high)
        elif isinstance(note, Ge | Gt):
            low = note.ge if isinstance(note, Ge) else note.gt  # type: ignore[assignment]
        elif isinstance(note, Le | Lt):
            high = note.le if isinstance(note, Le) else note.lt  # type: ignore[assignment]
    return low, high
