"""What a rule weighs replies by, and what its weights have to be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from flexlora.errors import RoundError, RuleError

_SUMS_FIT = 1e150  # Weights up to it are summed as they are, however many there are.
_SUM = 1e-6  # How far from 1 the weights of a rule may sum.


@dataclass(frozen=True)
class Summary:
    """What a rule may weigh a reply by: training examples, ‖update‖_F over all layers, mean rank.

    A rule with needs="sum" never sees norms: a sum is made before any is known. Where one side
    alone is ever returned, norm is that of its change.
    """

    client: str
    examples: int
    norm: float
    rank: float = 1.0


@final
class ExamplesOf(Summary):
    """A summary without its norm: what a rule with needs="sum" is given."""

    def __init__(self, whole: Summary, rule: str) -> None:
        vars(self).update(client=whole.client, examples=whole.examples, rank=whole.rank, rule=rule)

    def __repr__(self) -> str:
        return f"ExamplesOf(client={self.client!r}, examples={self.examples})"

    @property
    def norm(self) -> float:
        raise RuleError(
            f"rule {vars(self)['rule']} asked for the norm of a client's update, but its traits "
            "say needs='sum'; declare needs='each'"
        )


def normalised(weights: Mapping[str, float]) -> dict[str, float]:
    """Weights divided by their sum.

    Raises RoundError for a negative or non-finite one, and for a zero sum.
    """
    for client, weight in weights.items():
        if not 0.0 <= weight < math.inf:
            raise RoundError(
                f"client {client} has weight {weight}; weights are finite and never negative"
            )
    largest = max(weights.values(), default=0.0)
    if largest > _SUMS_FIT:
        weights = {client: weight / largest for client, weight in weights.items()}
    whole = sum(weights.values())
    if whole <= 0.0:
        raise RoundError(
            f"the weights of all {len(weights)} clients are zero; at least one client needs data"
        )
    return {client: weight / whole for client, weight in weights.items()}


def require_weights(
    weights: Mapping[str, float], summaries: Sequence[Summary], rule: str
) -> dict[str, float]:
    """The weights in the order of the summaries, if they are what a rule has to give.

    Raises RuleError for a client too many or too few, a negative or non-finite weight, and weights
    that do not sum to 1.
    """
    clients = [s.client for s in summaries]
    odd = sorted(weights.keys() ^ set(clients))
    if odd:
        what = "gives no weight to client" if odd[0] in clients else "weighs a stranger, client"
        raise RuleError(f"rule {rule} {what} {odd[0]}; weigh all clients of the round, no others")
    for client in clients:
        if not 0.0 <= weights[client] < math.inf:
            raise RuleError(
                f"rule {rule} gives client {client} the weight {weights[client]}; give finite "
                "weights that are never negative"
            )
    whole = math.fsum(weights.values())
    if abs(whole - 1.0) > _SUM:
        raise RuleError(
            f"the weights of rule {rule} sum to {whole:g}, expected 1; divide them by their sum, "
            "as flexlora.rules.normalised does"
        )
    return {client: weights[client] for client in clients}
