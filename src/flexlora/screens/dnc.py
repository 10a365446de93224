"""Divide and conquer (DnC): those that stand out along the principal directions are left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from flexlora.lowrank import lapack_eigh
from flexlora.options import require
from flexlora.screens.base import Screen
from flexlora.screens.hostile_share import Share, hostile_of, needed_of
from flexlora.screens.products import Products
from flexlora.screens.verdict import Verdict

_LEAST, _EACH = 1, 2  # Clients that it needs: so many, and these for each hostile one.


@final
@dataclass(frozen=True, eq=False)
class DnC(Screen):
    """f times: leaves out the client of those left with the largest ⟨change − mean, v⟩², v the
    principal direction of their changes about their mean; f = hostile · K rounded down, one at
    least.

    Source: Shejwalkar & Houmansadr 2021 (NDSS, "Manipulating the Byzantine"), Algorithm 2: the
    trimming of a mean where the changes differ most, made for clients that agree on small lies.
    Deviations: all coordinates instead of random samples of them, from inner products as
    `Products` has them; one client at a time, so that the next direction is that of those left.
    Needs K ≥ 2f + 1. Where honest clients differ more from each other than the lie is large, it
    is they who stand out.
    """

    name = "dnc"
    source = "Shejwalkar & Houmansadr 2021, NDSS"

    hostile: Share = 0.2

    def __post_init__(self) -> None:
        require(self, f"screens.{self.name}")

    def needed(self, clients: int) -> int:
        return needed_of(self.hostile, clients, least=_LEAST, each=_EACH)

    def verdicts(self, products: Products) -> Mapping[str, Verdict]:
        count = len(products.clients)
        hostile = hostile_of(self.name, self.hostile, count, least=_LEAST, each=_EACH)
        left, found = list(range(count)), dict[str, Verdict]()
        gram = products.gram
        for _ in range(hostile):
            centred = gram[left][:, left]
            centred = centred - centred.mean(dim=0) - centred.mean(dim=1)[:, None] + centred.mean()
            values, directions = lapack_eigh(centred)
            shares = directions[:, -1] ** 2
            if values[-1] <= 0.0:
                break  # All that are left sent the same.
            farthest = int(shares.argmax())
            found[products.clients[left.pop(farthest)]] = Verdict(
                weight=0.0,
                reason=f"{float(shares[farthest]):.0%} of the variance along the principal "
                f"direction of {len(shares)} changes is its own",
            )
        return found
