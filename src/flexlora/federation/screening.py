"""A round's replies pass the screens, in order, and are weighed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from flexlora.adapters import Adapter
from flexlora.federation.admission import Collected, update_norm
from flexlora.federation.collector import Collector
from flexlora.rules import Contribution, Rule, Summary, normalised
from flexlora.screens import Products, Screen, Verdict


@dataclass(frozen=True)
class Passed:
    """Who takes part: client → weight, summing to 1 (empty: nobody), and the share of its change
    that is left where that is not all; left_out: client → why. judged: what the record tells,
    of those who were not passed as they came; None where no screen judges. agreement: of all that
    came, before any screen; None where it is not asked for, or nobody can agree.
    """

    weights: Mapping[str, float]
    shrinks: Mapping[str, float] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    judged: Mapping[str, Verdict] | None = None
    agreement: float | None = None


def screened(
    screens: Sequence[Screen],
    rule: Rule,
    collector: Collector,
    collected: Collected,
    sent: Mapping[str, Adapter],
    layers: Sequence[str],
    agreement: bool = False,
) -> Passed:
    """The rule weighs what the screens have left; without a screen that judges, nothing is read.

    Each screen sees the weights of what those before it have left. Raises RuleError for what
    is no verdict on a client that is there, and for what cannot be weights of these clients.
    """
    ordered = [collected.summaries[client] for client in sorted(collected.summaries)]
    begun = rule.weights(ordered)
    judging = [screen for screen in screens if screen.judges]
    if not judging and not agreement:
        return Passed(begun)

    def contributions() -> Iterator[Sequence[Contribution]]:
        for layer in layers:
            yield collector.contributions(layer, begun, sent, {}).each()

    left = _Left(rule, collector, sent, layers, {s.client: s for s in ordered})
    examples = {s.client: s.examples for s in ordered}
    products = Products(examples, begun, contributions)
    agreed = _agreement(products) if agreement else None
    if not judging:
        return Passed(begun, agreement=agreed)
    if rule.traits.compares == "factors":
        products = Products(examples, begun, contributions, as_factors=True)
    for screen in judging:
        verdicts = screen.judged(products) if products.clients else {}
        left.take(screen, verdicts)
        products = products.after(verdicts, left.weights())
    return Passed(products.weights, left.shrinks, left.out, left.told(), agreed)


class _Left:
    """What screens have left of a round: of its clients, their weights and their changes."""

    def __init__(
        self,
        rule: Rule,
        collector: Collector,
        sent: Mapping[str, Adapter],
        layers: Sequence[str],
        summaries: dict[str, Summary],
    ) -> None:
        self._rule, self._collector, self._sent, self._layers = rule, collector, sent, layers
        self._summaries = summaries
        self._factors = dict.fromkeys(summaries, 1.0)
        self.shrinks: dict[str, float] = {}
        self.out: dict[str, str] = {}

    def take(self, screen: Screen, verdicts: Mapping[str, Verdict]) -> None:
        for client, verdict in verdicts.items():
            self._factors[client] *= verdict.weight
            if verdict.weight == 0.0:
                self.out[client] = f"screen {screen.name}: {verdict.reason}"
                self.shrinks.pop(client, None)
            elif verdict.shrink < 1.0:
                self.shrinks[client] = self.shrinks.get(client, 1.0) * verdict.shrink
                self._measure(client)

    def weights(self) -> Mapping[str, float]:
        """Client → weight, summing to 1; empty where nobody is left."""
        kept = [s for s in self._summaries.values() if s.client not in self.out]
        if not kept:
            return {}
        weights = self._rule.weights(kept)
        if all(self._factors[client] == 1.0 for client in weights):
            return weights
        return normalised({client: w * self._factors[client] for client, w in weights.items()})

    def told(self) -> dict[str, Verdict]:
        """What became of those who were not passed as they came."""
        return {
            c: Verdict(factor, self.shrinks.get(c, 1.0), self.out.get(c, ""))
            for c, factor in self._factors.items()
            if factor != 1.0 or c in self.shrinks
        }

    def _measure(self, client: str) -> None:
        """The norm of what is left of it, which a rule may weigh by if it sees each."""
        if self._rule.traits.needs == "sum":
            return
        given = {
            layer: self._collector.contributions(layer, {client: 1.0}, self._sent, self.shrinks)
            for layer in self._layers
        }
        adapter = Adapter({layer: found.each()[0].trained for layer, found in given.items()})
        norm = update_norm(adapter, self._sent[client], origin=self._rule.traits.origin)
        self._summaries[client] = replace(self._summaries[client], norm=norm)


def _agreement(products: Products) -> float | None:
    """The mean cosine over pairs of clients that moved; None for fewer than two of those."""
    gram = products.gram
    moved = gram.diagonal() > 0.0
    if int(moved.sum()) < 2:
        return None
    kept = gram[moved][:, moved]
    lengths = kept.diagonal().sqrt()
    cosines = kept / lengths[:, None] / lengths
    count = len(lengths)
    return float((cosines.sum() - cosines.diagonal().sum()) / (count * (count - 1)))
