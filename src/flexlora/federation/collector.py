"""A round's replies become contributions, one layer at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, Protocol, final

from flexlora.adapters import Adapter, Factors
from flexlora.engines.jobs import Failure, Outcome, Reply, Train
from flexlora.errors import ConfigError
from flexlora.federation.admission import Collected as Collected
from flexlora.federation.admission import admitted
from flexlora.federation.spool import Spool
from flexlora.rules import Contribution, Contributions, Listed, Rule


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
        self, layer: str, weights: Mapping[str, float], sent: Mapping[str, Adapter]
    ) -> Contributions:
        """This layer's, of the clients with a weight; weights sum to 1.

        What gives sums alone is asked for the weights of clients' examples, and no others.
        """
        ...

    def clear(self) -> None:
        """Forget the round."""
        ...


def require_collectable(rule: Rule, collector: Collector) -> None:
    """Raise ConfigError, before anything trains, where the rule needs more than there will be."""
    if rule.traits.needs == "each" and collector.gives == "sum":
        raise ConfigError(
            f"rule {rule.name} needs every client's contribution, and these are collected in a way "
            'that gives their sum alone; choose a rule whose traits say needs="sum"'
        )


@final
class Plain:
    """Guards each reply and spools it to `folder`; reads contributions back layer by layer.

    Memory is one reply while collecting and one layer of all replies while combining. Spooled
    files are numbered by the server's own job order: nothing that a client names becomes a path.
    """

    gives: Literal["sum", "each"] = "each"

    def __init__(self, folder: Path, rule: Rule) -> None:
        self.folder = folder
        self.rule = rule
        self._spool = Spool(folder)
        self._numbers: dict[str, int] = {}
        self._ranks: Mapping[str, Mapping[str, int]] = {}
        self._sides: tuple[str, ...] = ("b", "a")

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

        def keep(index: int, reply: Reply, _adapter: Adapter) -> None:
            self._spool.put(index, reply.payload)
            self._numbers[reply.client] = index

        for outcome, collected in admitted(jobs, replies, sent, self.rule, keep):
            self._ranks = collected.ranks
            yield outcome, collected

    def contributions(
        self, layer: str, weights: Mapping[str, float], sent: Mapping[str, Adapter]
    ) -> Listed:
        """In order of client id; each is read when it is asked for."""

        def read(client: str) -> Factors:
            given, names = sent[client][layer], [f"{layer}.{side}" for side in self._sides]
            tensors = self._spool.tensors(self._numbers[client], names)
            found = dict(zip(self._sides, tensors, strict=True))
            rank = self._ranks[client][layer]
            b, a = found.get("b", given.b[:, :rank]), found.get("a", given.a[:rank])
            return Factors(b, a, given.scale)

        return Listed(
            [
                Contribution(
                    client,
                    weights[client],
                    self._ranks[client][layer],
                    partial(read, client),
                    sent[client][layer],
                    sent[client][layer] if self.rule.traits.origin else None,
                )
                for client in sorted(weights)
            ]
        )

    def clear(self) -> None:
        """Remove the spool, of this round or of one that was cut short."""
        self._numbers.clear()
        self._ranks = {}
        self._spool.clear()
