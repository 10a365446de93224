"""Names → things of one kind: rules, sources, partitions, metrics. A name is taken once."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Generic, TypeVar, cast

from flexlora.errors import ConfigError, nearest, shown
from flexlora.options import checked

T = TypeVar("T")


class Registry(MutableMapping[str, T], Generic[T]):
    """In the order in which they were added.

    kind: what errors call one ("rule"); key: the key of a config that names one ("rule.name"), or
    "" where there are several; tables: the table of a config where each that is chosen has a table
    of its own ("screens"), if there is one; hint: what an error adds on names that are not here.
    """

    def __init__(self, kind: str, key: str = "", hint: str = "", tables: str = "") -> None:
        self.kind = kind
        self.key = key
        self.hint = hint
        self.tables = tables
        self._held: dict[str, T | _Later] = {}

    def add(self, name: str, thing: T) -> T:
        """Add it; what has the name already, or equals what has it, may be added again.

        Raises ConfigError if another has the name.
        """
        held = self._held.get(name, thing)
        if not _same(held, thing):
            by = getattr(held, "__qualname__", "")
            raise ConfigError(
                f"{self.kind} {name!r} is registered already{f', by {by}' if by else ''}; choose "
                "another name"
            )
        if not isinstance(thing, _Later):
            self._held[name] = thing
        return cast("T", self._held.setdefault(name, thing))

    def add_later(self, name: str, module: str, attribute: str) -> None:
        """Add what this module has, which is imported when it is first asked for."""
        self.add(name, cast("T", _Later(module, attribute)))

    def named(self, name: str) -> T:
        """Raises ConfigError with the nearest known name."""
        if name not in self._held:
            told = shown(name)
            thing = f"{self.key} is {told}" if self.key else f"{self.kind} {told} is unknown"
            raise ConfigError(f"{thing}{self.hint}; {nearest(name, self)}")
        return self[name]

    def make(
        self,
        name: str,
        options: Mapping[str, Any] | None = None,
        *,
        beside: Iterable[str] = (),
        hidden: Iterable[str] = (),
    ) -> Any:
        """What the class of this name makes of these options; beside, hidden: see `checked`.

        Raises ConfigError for an unknown name, and for options that are unknown, missing, of
        another type or out of range.
        """
        made = cast("Any", self.named(name))
        given = checked(
            made,
            options or {},
            chooser=self.key or self.tables,
            name=name,
            others=None if self.tables else cast("Mapping[str, Any]", self),
            beside=beside,
            hidden=hidden,
            table=f"{self.tables}.{name}" if self.tables else "",
        )
        return made(**given)

    def __getitem__(self, name: str) -> T:
        held = self._held[name]
        if isinstance(held, _Later):
            held = self._held[name] = cast("T", held.imported())
        return held

    def __setitem__(self, name: str, thing: T) -> None:
        """Put it there, whoever had the name before."""
        self._held[name] = thing

    def __delitem__(self, name: str) -> None:
        del self._held[name]

    def __contains__(self, name: object) -> bool:
        return name in self._held

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def __repr__(self) -> str:
        return f"Registry({self.kind}: {', '.join(self)})"


def _same(held: object, thing: object) -> bool:
    """Whether they are one thing; what comes later may have been imported by now."""
    if held is thing or held == thing:
        return True
    for later, other in ((held, thing), (thing, held)):
        if isinstance(later, _Later) and not isinstance(other, _Later):
            module = sys.modules.get(later.module)
            return module is not None and getattr(module, later.attribute, None) is other
    return False


@dataclass(frozen=True)
class _Later:
    module: str
    attribute: str

    def imported(self) -> object:
        return getattr(import_module(self.module), self.attribute)
