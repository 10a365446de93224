"""What is true of a rule, declared: the contract tests choose their laws by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flexlora.errors import ConfigError, RuleError
from flexlora.options import require


@dataclass(frozen=True)
class Traits:
    """What a rule needs, sends and keeps; whoever plays it relies on nothing else.

    needs: "sum" if weighted sums of the contributions are enough for it, "each" if it must see
    every one. Only the former can be collected by what adds up as replies come.
    delta: what Δ holds, which every client's base stands on. "none": nothing; "origin": what is
    sent to be trained, too, so that the client computes with W₀ + Δ + trainable − origin;
    "restart": all that was learned, and every round trains a fresh adapter on top; "residual": what
    the factors that are sent do not hold, so that the client trains on top of it.
    sends: whether what a client is sent depends on its ranks alone ("pattern": it is made once for
    all clients of equal ranks) or on who it is ("client"); or "nothing": clients keep all that they
    learn, what they are handed is what they could make themselves, and no byte of it is counted.
    mixed_ranks: clients of different ranks are combined as they are; else all are cut to the
    lowest rank of the federation (the bucket effect).
    prunes: a client may return a lower rank than it was sent, and keeps it.
    memory: clients keep named tensors of their own from round to round, which never leave them.
    learned: where all that is learned ends: in the state ("server"), or, a part of it at least, in
    what each client keeps ("clients"), who is then validated and scored with that.
    scales: what is sent has the federation's scale of its rank ("rank"), or one that is the rule's
    own ("rule"), so that factors of different ranks mean the same.
    exact: what clients send at full rank is kept whole; else a part of it is left out by design.
    compares: whether equal products or only equal factors give equal results.
    """

    needs: Literal["sum", "each"] = "sum"
    delta: Literal["none", "origin", "restart", "residual"] = "none"
    sends: Literal["pattern", "client", "nothing"] = "pattern"
    mixed_ranks: bool = True
    prunes: bool = False
    memory: bool = False
    learned: Literal["server", "clients"] = "server"
    scales: Literal["rank", "rule"] = "rank"
    exact: bool = True
    compares: Literal["product", "factors"] = "product"

    def __post_init__(self) -> None:
        try:
            require(self)
        except ConfigError as error:  # A word that is none would count as another, unsaid.
            raise RuleError(f"traits: {error}") from error
        if self.memory and self.origin:
            raise RuleError(
                "traits say delta='origin' and memory=True: what a client takes from its memory is "
                "not in Δ; choose one of them"
            )
        if self.alone and self.learned == "server":
            raise RuleError(
                "traits say sends='nothing' and learned='server', where nothing comes; declare "
                "learned='clients'"
            )
        if self.learned == "clients" and not self.memory:
            raise RuleError(
                "traits say learned='clients' and memory=False: who keeps nothing has nothing "
                "learned; choose one of them"
            )

    @property
    def origin(self) -> bool:
        """Whether Δ holds what is sent, which the client then subtracts."""
        return self.delta == "origin"

    @property
    def alone(self) -> bool:
        """Whether all that is learned stays with the clients, and nothing is really sent."""
        return self.sends == "nothing"
