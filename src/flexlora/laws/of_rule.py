"""One of our rules as an aggregator, and the laws that its traits excuse it from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import torch

from flexlora.adapters import Adapter, Factors, LayerSpec
from flexlora.errors import RuleError, nearest
from flexlora.laws.aggregator import Given, Make, Sent
from flexlora.laws.laws import LAWS
from flexlora.laws.round import Round
from flexlora.rules import Memory, Rule, Spec, State

_LAYER = "layer"


def of_rule(rule: Rule) -> Make:
    """What makes new aggregators by this rule.

    A client gets back what it is sent to train; under a rule with Δ, which holds what was learned
    while clients may train other directions, the readout of its rank, which stands for all of it.
    What it sends passes the rule's own `encode`.
    Where factors are averaged at one scale, a client's own is put into its b. Weights are counts of
    examples.
    """
    return lambda: _OfRule(rule)


def excuses(rule: Rule) -> dict[str, str]:
    """Law → why it is not asked of this rule: what its traits say that its method is, and what the
    rule says itself (`by_design`). Raises RuleError for a law of its that is none."""
    traits, found = rule.traits, dict[str, str]()
    if not traits.exact:
        found["alone"] = "a part of what is sent is left out (exact = False)"
    if rule.trains(1) != "both":
        found["alone"] = f"clients train {rule.trains(1)} alone in a round"
    if traits.compares == "factors" and traits.delta != "residual":  # That keeps products whole.
        found["agree"] = found["basis"] = 'factors are combined (compares = "factors")'
    if _one_scale(rule):
        found["scale"] = "factors are averaged at one scale, which no client chooses"
    if type(rule).weigh is not Rule.weigh:
        found["absent"] = "it weighs by a measure of its own, not by examples"
    if traits.delta == "none" and traits.scales == "rule":
        found["best"] = 'clients train rows of one large adapter (scales = "rule")'
    if traits.delta == "none" and traits.sends == "client":
        found["best"] = 'clients train parts that are drawn for each (sends = "client")'
    if traits.memory:
        found["best"] = "a part of what is learned stays with each client (memory = True)"
    for law, why in rule.by_design.items():
        if law not in LAWS:
            raise RuleError(
                f"by_design of rule {rule.name} has {law!r}, which is no law; {nearest(law, LAWS)}"
            )
        found[law] = why
    return found


def _one_scale(rule: Rule) -> bool:
    """Whether all factors have a scale that is the server's: those of one large adapter, a mean."""
    traits = rule.traits
    added = traits.needs == "sum" or traits.sends == "client"
    return traits.scales == "rule" or (traits.compares == "factors" and added)


@final
class _OfRule:
    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self.mixed_ranks = rule.traits.mixed_ranks
        self._state: State | None = None
        self._memories: dict[str, Memory] = {}

    def aggregate(self, sent: Sequence[Sent], ranks: Mapping[str, int]) -> dict[str, Given]:
        cohort = {client: {_LAYER: rank} for client, rank in ranks.items()}
        state = self._begun(sent[0], cohort) if self._state is None else self._state
        replies = {x.client: x for x in sent}

        def train(client: str, received: Adapter) -> Adapter:
            return Adapter({_LAYER: self._trained(replies[client], received[_LAYER])})

        round = Round(
            self._rule,
            state,
            {client: cohort[client] for client in replies},
            train,
            examples={x.client: _examples(x) for x in sent},
            memories=self._memories,
        )
        self._memories = round.remembered
        self._state = after = round.combined(replies)
        return {client: self._handed(after, client, own) for client, own in cohort.items()}

    def _begun(self, first: Sent, cohort: Mapping[str, Mapping[str, int]]) -> State:
        layer = LayerSpec(_LAYER, first.b.shape[0], first.a.shape[1])
        spec = Spec.of([layer], list(cohort.values()), alpha=4.0)
        return self._rule.init(spec, torch.Generator().manual_seed(0))

    def _trained(self, x: Sent, received: Factors) -> Factors:
        if _one_scale(self._rule):
            return Factors(x.b * (x.scale / received.scale), x.a, received.scale)
        return Factors(x.b, x.a, x.scale)

    def _handed(self, state: State, client: str, ranks: Mapping[str, int]) -> Given:
        rule = self._rule
        if rule.traits.delta != "none":
            factors = rule.readout(state, ranks)[_LAYER]
        else:
            asked, draw = rule.ranks_for(state.spec, ranks), torch.Generator().manual_seed(0)
            sent = rule.send(state, asked, draw, client)
            factors = rule.receive(sent, self._memories.get(client, {}))[_LAYER]
        return factors.b, factors.a, factors.scale


def _examples(x: Sent) -> int:
    if x.weight != int(x.weight):
        raise RuleError(
            f"client {x.client} has weight {x.weight}, but a rule weighs by counts of examples; "
            "give a whole number"
        )
    return int(x.weight)
