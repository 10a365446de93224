"""A round's replies become contributions, one layer at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Protocol, final

from torch import Tensor

from flexlora.adapters import Adapter, Factors, factors_payload, wire_of
from flexlora.engines.jobs import Failure, Outcome, Reply, Train
from flexlora.errors import ConfigError
from flexlora.federation.admission import Collected, admitted
from flexlora.federation.outcomes import NOTHING, Known
from flexlora.federation.spool import Spool
from flexlora.formats.payloads import meta_of, to_bytes
from flexlora.rules import Contribution, Contributions, Listed, Rule
from flexlora.screens import Screen, shrunk


class Collector(Protocol):
    """What stands between replies and a rule; given to the loop, which knows no other way to them.

    gives: "each" if every client's contribution can be read, "sum" if sums alone can.
    """

    @property
    def gives(self) -> Literal["sum", "each"]: ...

    def collect(
        self,
        jobs: Sequence[Train],
        replies: Iterable[Outcome],
        sent: Mapping[str, Adapter],
    ) -> Iterator[tuple[Reply | Failure, Collected]]:
        """Yield after every reply what has come so far, as `admitted` does, and begin anew."""
        ...

    def contributions(
        self,
        layer: str,
        weights: Mapping[str, float],
        sent: Mapping[str, Adapter],
        shrinks: Mapping[str, float],
    ) -> Contributions:
        """This layer's, of the clients with a weight; weights sum to 1.

        shrinks: client → share of its change that a screen leaves of it. What gives sums alone is
        asked for the weights of all clients' examples, and for no shares.
        """
        ...

    def clear(self) -> None:
        """Forget the round."""
        ...


def require_collectable(
    rule: Rule,
    collector: Collector,
    screens: Sequence[Screen] = (),
    *,
    agreement: bool = False,
    over_sample: float = 1.0,
) -> None:
    """Raise ConfigError, before anything trains, where they need more than there will be."""
    if collector.gives == "each":
        return
    if agreement:
        raise ConfigError(
            "federation.agreement needs every client's change, and these are collected in a way "
            "that gives their sum alone; leave it out"
        )
    if over_sample > 1.0:
        raise ConfigError(
            f"federation.over_sample is {over_sample:g}, which leaves out whoever is late, and "
            "these are collected in a way that gives the sum of all alone; set it to 1.0"
        )
    if rule.traits.needs == "each":
        raise ConfigError(
            f"rule {rule.name} needs every client's contribution, and these are collected in a way "
            'that gives their sum alone; choose a rule whose traits say needs="sum"'
        )
    for screen in screens:
        if screen.judges:
            raise ConfigError(
                f"screen {screen.name} judges every client's change, and these are collected in a "
                f"way that gives their sum alone; leave screens.{screen.name} out"
            )


@final
class Plain:
    """Guards each reply and spools it to `folder`; reads contributions back layer by layer.

    Memory is one reply while collecting and one layer of all replies while combining. Spooled
    files are numbered by the server's own job order: nothing that a client names becomes a path.
    """

    gives: Literal["sum", "each"] = "each"

    def __init__(self, folder: Path, rule: Rule, known: Known = NOTHING) -> None:
        """known: of the clients, which bounds what they may say of themselves."""
        self.folder = folder
        self.known = known
        self.rule = rule
        self._spool = Spool(folder)
        self._numbers: dict[str, int] = {}
        self._ranks: Mapping[str, Mapping[str, int]] = {}
        self._sides: tuple[str, ...] = ("b", "a")
        self._filled = True

    def collect(
        self,
        jobs: Sequence[Train],
        replies: Iterable[Outcome],
        sent: Mapping[str, Adapter],
    ) -> Iterator[tuple[Reply | Failure, Collected]]:
        self.clear()
        self.folder.mkdir(parents=True)
        returned = self.rule.returns(jobs[0].round) if jobs else "both"
        self._sides = ("b", "a") if returned == "both" else (returned,)
        self._filled = bool(jobs) and self.rule.leaves_the_rest(jobs[0].round)

        def keep(index: int, reply: Reply, adapter: Adapter) -> None:
            exact = wire_of(meta_of(reply.payload)) == "exact"
            data = reply.payload if exact else to_bytes(factors_payload(adapter))
            self._spool.put(index, data)
            self._numbers[reply.client] = index

        for outcome, collected in admitted(jobs, replies, sent, self.rule, keep, self.known):
            self._ranks = collected.ranks
            yield outcome, collected

    def contributions(
        self,
        layer: str,
        weights: Mapping[str, float],
        sent: Mapping[str, Adapter],
        shrinks: Mapping[str, float] = MappingProxyType({}),
    ) -> Listed:
        """In order of client id; each is read when it is asked for."""
        traits = self.rule.traits
        as_factors = traits.compares == "factors"

        def read(client: str) -> Factors:
            given, names = sent[client][layer], [f"{layer}.{side}" for side in self._sides]
            tensors = self._spool.tensors(self._numbers[client], names)
            if len(tensors) == 2:
                b, a = tensors
            else:
                b, a = self._with_other_side(tensors[0], given)
            trained = Factors(b, a, given.scale)
            if client not in shrinks:
                return trained
            return shrunk(trained, given, shrinks[client], as_factors=as_factors)

        def rank(client: str) -> int:
            given, returned = sent[client][layer], self._ranks[client][layer]
            whole = len(self._sides) == 2 or (self._filled and given.sides == "both")
            stacked = client in shrinks and not as_factors and whole
            return returned + (given.rank if stacked else 0)

        return Listed(
            [
                Contribution(
                    client,
                    weights[client],
                    rank(client),
                    partial(read, client),
                    sent[client][layer],
                    sent[client][layer] if traits.origin else None,
                )
                for client in sorted(weights)
            ]
        )

    def _with_other_side(self, side: Tensor, given: Factors) -> tuple[Tensor, Tensor]:
        """(b, a) where one side was returned: the other as it was sent, or absent."""
        if self._sides == ("b",):
            a = given.a if self._filled else given.a.to("meta")
            return side, a[: side.shape[1]]
        b = given.b if self._filled else given.b.to("meta")
        return b[:, : side.shape[0]], side

    def clear(self) -> None:
        """Remove the spool, of this round or of one that was cut short."""
        self._numbers.clear()
        self._ranks = {}
        self._spool.clear()
