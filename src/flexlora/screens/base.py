"""The seam of a screen: one small step, with a half at the server, at the clients, or both."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import ClassVar, final

import torch

from flexlora.adapters import Adapter
from flexlora.screens.products import Products
from flexlora.screens.verdict import Verdict


class Screen(abc.ABC):
    """Stands between collecting and weighing, for whatever rule; screens are applied in order.

    A screen overrides one half, or both. It does no I/O, and draws random numbers only from the
    generator it is given.
    """

    name: ClassVar[str]
    source: ClassVar[str]

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
