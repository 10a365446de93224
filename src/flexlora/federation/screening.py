"""A round's replies pass the screens, in order, and are weighed."""

from __future__ import annotations

import math
import statistics
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
    of those who were not passed as they came; None where no screen judges.
    """

    weights: Mapping[str, float]
    shrinks: Mapping[str, float] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    judged: Mapping[str, Verdict] | None = None


def screened(
    screens: Sequence[Screen],
    rule: Rule,
    collector: Collector,
    collected: Collected,
    sent: Mapping[str, Adapter],
    layers: Sequence[str],
    norm_limit: float = math.inf,
) -> Passed:
    """The rule weighs what the screens have left; without a screen that judges, nothing is read.

    norm_limit: whoever's norm is above so many times the round's median is left out before them.
    """
    ordered = [collected.summaries[client] for client in sorted(collected.summaries)]
    beyond = _beyond(ordered, norm_limit)
    ordered = [s for s in ordered if s.client not in beyond]
    weights = rule.weigh(ordered)
    judging = [screen for screen in screens if screen.judges]
    if not judging:
        return Passed(weights, left_out=beyond)

    def contributions() -> Iterator[Sequence[Contribution]]:
        for layer in layers:
            yield collector.contributions(layer, weights, sent, {}).each()

    products = Products({s.client: s.examples for s in ordered}, weights, contributions)
    factors, shrinks = dict.fromkeys(weights, 1.0), dict.fromkeys(weights, 1.0)
    left_out = dict(beyond)
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
        c: Verdict(factors[c], shrinks.get(c, 1.0), left_out.get(c, ""))
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


def _beyond(summaries: Sequence[Summary], limit: float) -> dict[str, str]:
    """Client → why, of those whose norm is above the limit. Of an even number the lower median
    counts, so that of two clients one can be beyond; where half of them have not moved, none is.
    """
    median = statistics.median_low(s.norm for s in summaries) if summaries else 0.0
    if not median:
        return {}
    times = {s.client: s.norm / median for s in summaries}
    return {
        client: f"the norm of its update is {found:.3g} times the median of the round, expected at "
        f"most {limit:g} times; see federation.norm_limit"
        for client, found in times.items()
        if found > limit
    }


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
