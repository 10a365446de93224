"""The seam of a screen: one small step, with a half at the server, at the clients, or both."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import ClassVar, final

import torch

from flexlora.adapters import Adapter
from flexlora.errors import RuleError
from flexlora.hooks import watch
from flexlora.screens.products import Products
from flexlora.screens.verdict import Verdict

HOOKS = frozenset({"verdicts", "at_client", "needed"})


class Screen(abc.ABC):
    """Stands between collecting and weighing, for whatever rule; screens are applied in order.

    A screen overrides one half, or both. It does no I/O, and draws random numbers only from the
    generator it is given.
    """

    name: ClassVar[str]
    source: ClassVar[str]

    def __init_subclass__(cls, **more: object) -> None:
        """What a half raises names screen, method and line; none changes what it is given."""
        super().__init_subclass__(**more)
        watch(cls, HOOKS, "screen")

    def verdicts(self, products: Products) -> Mapping[str, Verdict]:
        """The server's half: client → verdict, for those whose change does not stay as it is.

        products: the round as the screens before have left it.
        """
        return {}

    def at_client(self, trained: Adapter, sent: Adapter, generator: torch.Generator) -> Adapter:
        """The client's half: what it goes on with, given what it trained and began from.

        Layers, ranks, scales and dtypes stay.
        """
        return trained

    def needed(self, clients: int) -> int:
        """How many it has to see of a round of so many, or it promises nothing."""
        return 1

    @final
    @property
    def judges(self) -> bool:
        """Whether it has a half at the server, which must see every client's change."""
        return type(self).verdicts is not Screen.verdicts

    @final
    def judged(self, products: Products) -> Mapping[str, Verdict]:
        """`verdicts`. RuleError for what is no mapping of them, or of who is not in the round."""
        found = self.verdicts(products)
        told = f"verdicts of screen {self.name}"
        if not isinstance(found, Mapping):
            raise RuleError(
                f"{told} gives {type(found).__name__}, expected client → Verdict; give {{}} where "
                "nobody is judged"
            )
        for client, verdict in found.items():
            if client not in products.clients:
                raise RuleError(
                    f"{told} judges client {client!r}, who is not in the round as it stands; judge "
                    "those of products.clients alone"
                )
            if not isinstance(verdict, Verdict):
                raise RuleError(
                    f"{told} gives {type(verdict).__name__} for client {client!r}, expected "
                    "flexlora.screens.Verdict"
                )
        return found

    @final
    def passed(self, trained: Adapter, sent: Adapter, generator: torch.Generator) -> Adapter:
        """`at_client`. RuleError for another adapter than of these layers, shapes and scales."""
        found = self.at_client(trained, sent, generator)
        told = f"at_client of screen {self.name}"
        if not isinstance(found, Adapter):
            raise RuleError(f"{told} gives {type(found).__name__}, expected a flexlora.Adapter")
        if _forms(found) != _forms(trained):
            raise RuleError(
                f"{told} gives other layers, shapes, scales or dtypes than it was given; change "
                "values alone"
            )
        return found


def _forms(adapter: Adapter) -> dict[str, tuple[object, ...]]:
    return {
        name: (x.b.shape, x.b.dtype, x.a.shape, x.a.dtype, x.scale) for name, x in adapter.items()
    }
