"""A round's replies pass the screens, in order, and are weighed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from flexlora.adapters import Adapter
from flexlora.federation.admission import Collected, update_norm
from flexlora.federation.collector import Collector
from flexlora.rules import Contribution, Rule, Summary, normalised
from flexlora.runs.records import Judged
from flexlora.screens import Products, Screen


@dataclass(frozen=True)
class Passed:
    """Who takes part: client → weight, summing to 1 (empty: nobody), and the share of its change
    that is left where that is not all; left_out: client → why. told: what was done to whom, for the
    round's record; None where no screen judges.
    """

    weights: Mapping[str, float]
    shrinks: Mapping[str, float] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    told: Mapping[str, Judged] | None = None


def screened(
    screens: Sequence[Screen],
    rule: Rule,
    collector: Collector,
    collected: Collected,
    sent: Mapping[str, Adapter],
    layers: Sequence[str],
) -> Passed:
    """The rule weighs what the screens have left; without a screen that judges, nothing is read."""
    ordered = [collected.summaries[client] for client in sorted(collected.summaries)]
    weights = rule.weigh(ordered)
    judging = [screen for screen in screens if screen.judges]
    if not judging:
        return Passed(weights)

    def contributions() -> Iterator[Sequence[Contribution]]:
        for layer in layers:
            yield collector.contributions(layer, weights, sent, {}).each()

    products = Products({s.client: s.examples for s in ordered}, weights, contributions)
    factors, shrinks = dict.fromkeys(weights, 1.0), dict.fromkeys(weights, 1.0)
    left_out: dict[str, str] = {}
    for screen in judging:
        verdicts = screen.verdicts(products) if products.clients else {}
        for client, verdict in verdicts.items():
            factors[client] *= verdict.weight
            shrinks[client] *= verdict.shrink
            if verdict.weight == 0.0:
                left_out[client] = f"screen {screen.name}: {verdict.reason}"
        products = products.after(verdicts)
    shrinks = {c: share for c, share in shrinks.items() if share < 1.0 and c not in left_out}
    kept = [
        _shrunk(s, rule, collector, sent, layers, shrinks) if s.client in shrinks else s
        for s in ordered
        if s.client not in left_out
    ]
    told = {
        c: Judged(factors[c], shrinks.get(c, 1.0), left_out.get(c, ""))
        for c in weights
        if factors[c] != 1.0 or c in shrinks
    }
    if not kept:
        return Passed({}, {}, left_out, told)
    weights = rule.weigh(kept)
    if any(factors[client] != 1.0 for client in weights):
        weights = normalised(
            {client: weight * factors[client] for client, weight in weights.items()}
        )
    return Passed(weights, shrinks, left_out, told)


def _shrunk(
    summary: Summary,
    rule: Rule,
    collector: Collector,
    sent: Mapping[str, Adapter],
    layers: Sequence[str],
    shrinks: Mapping[str, float],
) -> Summary:
    """With the norm of what is left of it."""
    client = summary.client
    given = {
        layer: collector.contributions(layer, {client: 1.0}, sent, shrinks).each()[0].trained
        for layer in layers
    }
    norm = update_norm(Adapter(given), sent[client], origin=rule.traits.origin)
    return replace(summary, norm=norm)
