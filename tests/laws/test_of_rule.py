"""Our rules as aggregators: what they are handed is what the rule's own round makes of it."""

from __future__ import annotations

from types import MappingProxyType

import pytest
import torch

from flexlora.adapters import Factors
from flexlora.errors import RuleError
from flexlora.laws import CASES, LAWS, Sent, excuses, hold_all, of_rule
from flexlora.laws.aggregator import ask
from flexlora.rules import RULES, Traits, make_rule
from flexlora.rules.contributions import Contributions
from flexlora.rules.kinds import Kept
from flexlora.rules.layer import ClientView, Combined, Layer, LayerState
from flexlora.rules.spectral import held_in
from flexlora.rules.uncut import grown
from reference import assert_close, best, product

CASE = CASES[1]


class Fresh(Kept):
    """A rule of one's own: Δ holds all that was learned, clients train new rows on top of it."""

    name = "fresh"
    source = "a test"
    traits = Traits(delta="origin")

    def send_layer(self, layer: Layer, state: LayerState, client: ClientView) -> Factors:
        rank = client.rank(layer)
        rows = torch.randn(rank, layer.n, generator=layer.generator)
        return Factors(torch.zeros(layer.m, rank), rows, layer.scale(rank))

    def combine_layer(
        self, layer: Layer, state: LayerState, contributions: Contributions
    ) -> Combined:
        after = grown(layer, state, contributions.sum(), layer.highest)
        return Combined(after, held_in(after).low_rank())


def sent_by_all() -> list[Sent]:
    return [CASE.sent(client, rank) for client, rank in CASE.senders.items()]


def wanted(sent: list[Sent]) -> torch.Tensor:
    whole = sum(x.weight for x in sent)
    return torch.stack([x.weight / whole * x.product() for x in sent]).sum(dim=0)


@pytest.mark.parametrize("name", ["flexlora", "flexlora-increment", "flora"])
def test_an_exact_rule_hands_out_the_best_parts_of_the_sum(name: str) -> None:
    sent = sent_by_all()
    handed = ask(of_rule(make_rule(name))(), sent, CASE.ranks)
    for client, rank in CASE.ranks.items():
        assert handed[client].rank == rank
        assert_close(product(handed[client]), best(wanted(sent), rank))


def test_each_call_is_a_round_and_each_aggregator_a_federation() -> None:
    """FLoRA adds what every round brings, in this federation alone."""
    make, sent = of_rule(make_rule("flora")), sent_by_all()
    aggregator = make()
    ask(aggregator, sent, CASE.ranks)
    twice = ask(aggregator, sent, CASE.ranks)
    assert_close(product(twice["yan"]), 2.0 * wanted(sent))
    assert_close(product(ask(make(), sent, CASE.ranks)["yan"]), wanted(sent))


def test_weights_are_counts_of_examples() -> None:
    sent = sent_by_all()
    one = [Sent(x.client, x.b, x.a, x.scale, 7.0) for x in sent]
    handed = ask(of_rule(make_rule("flexlora"))(), one, CASE.ranks)
    assert_close(product(handed["yan"]), best(wanted(one), 12))


def test_a_share_of_an_example_is_refused() -> None:
    (first, *_) = sent_by_all()
    part = Sent(first.client, first.b, first.a, first.scale, 0.5)
    with pytest.raises(RuleError, match=r"client ann has weight 0\.5, .*; give a whole number"):
        ask(of_rule(make_rule("flexlora"))(), [part], CASE.ranks)


def test_memory_stays_with_the_client() -> None:
    """Under FedSA everybody gets back its own B."""
    sent = sent_by_all()
    ranks = dict.fromkeys(CASE.ranks, 2)
    equal = [Sent(x.client, x.b[:, :2], x.a[:2], 2.0, 1.0) for x in sent]
    handed = ask(of_rule(make_rule("fedsa"))(), equal, ranks)
    for x in equal:
        assert_close(handed[x.client].b, x.b)


@pytest.mark.parametrize(
    ("name", "excused"),
    [
        ("flexlora", set()),
        ("flora", set()),
        ("fedmomentum", set()),
        ("fedit", {"agree", "basis", "scale"}),
        ("fedex", {"scale"}),
        ("ffa", {"alone", "agree", "basis", "scale"}),
        ("fedsa", {"agree", "basis", "scale", "best"}),
        ("florist", {"alone"}),
        ("raflora", {"agree", "basis"}),
        ("hetlora", {"agree", "basis", "scale", "absent", "best"}),
        ("lora-a2", {"alone", "agree", "basis", "scale"}),
    ],
)
def test_traits_excuse_from_what_the_method_is_not(name: str, excused: set[str]) -> None:
    assert set(excuses(make_rule(name))) == excused


def test_no_traits_excuse_from_order_weights_rank_and_counting() -> None:
    """All laws on all rules: tests/contracts/test_laws.py, and by the command in tests/cli."""
    excused = {law for made in RULES.values() for law in excuses(made())}
    assert excused == LAWS.keys() - {"again", "order", "weights", "rank", "counts"}


def test_of_a_rule_with_delta_what_it_reads_out_counts() -> None:
    """Its clients train fresh directions on top, whose product says nothing of what was learned."""
    rule, sent = Fresh(), sent_by_all()
    handed = ask(of_rule(rule)(), sent, CASE.ranks)
    assert_close(product(handed["yan"]), best(wanted(sent), CASE.ranks["yan"]))
    assert [x.standing for x in hold_all(of_rule(rule), excuses(rule))] == ["holds"] * len(LAWS)


def test_a_rule_says_itself_which_laws_its_method_does_not_keep() -> None:
    class Halved(Fresh):
        by_design = MappingProxyType({"alone": "a step of the server is half of the sum"})

    class Misspelt(Fresh):
        by_design = MappingProxyType({"alnoe": "a step of the server is half of the sum"})

    assert excuses(Halved()) == Halved.by_design
    with pytest.raises(RuleError, match=r"by_design of rule fresh has 'alnoe', .* 'alone'"):
        excuses(Misspelt())
