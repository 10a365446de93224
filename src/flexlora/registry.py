"""Names → things of one kind: rules, sources, partitions, metrics. A name is taken once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from importlib import import_module
from typing import Any, Generic, TypeVar, cast

from flexlora.errors import ConfigError, nearest
from flexlora.options import checked

T = TypeVar("T")


class Registry(MutableMapping[str, T], Generic[T]):
    """In the order in which they were added.

    kind: what errors call one ("rule"); key: the key of a config that names one ("rule.name"), or
    "" where there are several; hint: what an error adds on names that are not here.
    """

    def __init__(self, kind: str, key: str = "", hint: str = "") -> None:
        self.kind = kind
        self.key = key
        self.hint = hint
        self._held: dict[str, T | _Later] = {}

    def add(self, name: str, thing: T) -> T:
        """Add it; what has the name already, or equals what has it, may be added again.

        Raises ConfigError if another has the name.
        """
        held = self._held.get(name, thing)
        if held is not thing and held != thing:
            by = getattr(held, "__qualname__", "")
            raise ConfigError(
                f"{self.kind} {name!r} is registered already{f', by {by}' if by else ''}; choose "
                "another name"
            )
        self._held[name] = thing
        return thing

    def add_later(self, name: str, module: str, attribute: str) -> None:
        """Add what this module has, which is imported when it is first asked for."""
        self.add(name, cast("T", _Later(module, attribute)))

    def named(self, name: str) -> T:
        """Raises ConfigError with the nearest known name."""
        if name not in self._held:
            thing = f"{self.key} is {name!r}" if self.key else f"{self.kind} {name!r} is unknown"
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
        others = cast("Mapping[str, Any]", self)
        given = checked(
            made,
            options or {},
            chooser=self.key,
            name=name,
            others=others,
            beside=beside,
            hidden=hidden,
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


class _Later:
    def __init__(self, module: str, attribute: str) -> None:
        self.module = module
        self.attribute = attribute

    def imported(self) -> object:
        return getattr(import_module(self.module), self.attribute)
