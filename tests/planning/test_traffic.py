"""Bytes of a round from shapes alone: those that rules send on the real layers, to the byte."""

from __future__ import annotations

import pytest
import torch

from flexlora.adapters import (
    Adapter,
    Factors,
    LayerSpec,
    Wire,
    coarse_payload,
    factors_payload,
)
from flexlora.formats.delta import update_payload
from flexlora.formats.payloads import byte_count, to_bytes
from flexlora.laws.round import Round
from flexlora.planning.traffic import _changed, traffic
from flexlora.rules import RULES, Rule, Spec, State, make_rule

LAYERS = (
    LayerSpec("h.0.attn.q", 40, 56),
    LayerSpec("h.0.mlp.up", 96, 40),
    LayerSpec("h.1.attn.q", 40, 56),
    LayerSpec("h.1.mlp.up", 96, 40),
)
RANKS = {
    "small": {x.name: 2 for x in LAYERS},
    "large": {x.name: 3 if "attn" in x.name else 6 for x in LAYERS},
}
COHORT = {"small": 2, "large": 1}


def both_ways(rule: Rule, state: State, kind: str, round: int = 1) -> tuple[Adapter, Adapter]:
    """What a client of this kind is sent in round 1, and what it would return in this one."""
    sent = rule.send(state, rule.ranks_for(state.spec, RANKS[kind]), torch.Generator(), kind)
    received = rule.receive(sent, {})
    return sent, rule.reply(round, received, received, {}).adapter


@pytest.mark.parametrize("name", sorted(RULES))
def test_bytes_are_those_of_the_real_layers(name: str) -> None:
    """The slow twin: the rule played on the whole model, its payloads serialised."""
    rule = make_rule(name)
    told = traffic(rule, LAYERS, RANKS, COHORT)
    if rule.traits.alone:
        assert all((x.down, x.ups, x.delta) == (0, (0, 0), 0) for x in told.values())
        return
    spec = Spec.of(LAYERS, list(RANKS.values()))
    state = rule.init(spec, torch.Generator())
    for kind in RANKS:
        sent, returned = both_ways(rule, state, kind)
        assert told[kind].down == len(to_bytes(factors_payload(sent)))
        assert told[kind].ups[0] == len(to_bytes(factors_payload(returned)))
        then = len(to_bytes(factors_payload(both_ways(rule, state, kind, 2)[1])))
        assert told[kind].ups[1] == then
        assert told[kind].up == max(told[kind].ups)
        assert told[kind].total == told[kind].down + told[kind].delta + told[kind].up
        (alone,) = traffic(rule, LAYERS, RANKS, {}, rounds=(2,))[kind].ups
        assert alone == then
    federation = {f"{k}/{i}": RANKS[k] for k, count in COHORT.items() for i in range(count)}
    after = Round(rule, state, federation, _changed).combined()
    update = after.delta.since(state.delta.version)
    wanted = 0 if update is None else len(to_bytes(update_payload(update)))
    # What a rule leaves out by energy depends on numbers, which shapes do not tell.
    close = wanted if rule.traits.exact else pytest.approx(wanted, rel=0.1)
    assert {x.delta for x in told.values()} == {told["small"].delta}
    assert told["small"].delta == close
    assert (wanted > 0) == (rule.traits.delta != "none")


@pytest.mark.parametrize("wire", ["bfloat16", "int8"])
@pytest.mark.parametrize("name", ["flexlora", "flora", "ffa"])
def test_a_coarse_wire_is_counted_as_it_travels(name: str, wire: Wire) -> None:
    """Adapters, both ways; Δ travels as it is."""
    rule, draw = make_rule(name), torch.Generator()
    told, exact = traffic(rule, LAYERS, RANKS, COHORT, wire), traffic(rule, LAYERS, RANKS, COHORT)
    spec = Spec.of(LAYERS, list(RANKS.values()))
    state = rule.init(spec, torch.Generator())
    for kind in RANKS:
        sent, returned = both_ways(rule, state, kind)
        for adapter, bytes_ in ((sent, told[kind].down), (returned, told[kind].up)):
            assert bytes_ == len(to_bytes(coarse_payload(factors_payload(adapter), wire, draw)))
        assert told[kind].up < exact[kind].up
        assert told[kind].delta == exact[kind].delta


def test_a_large_federation_is_counted_by_a_small_one() -> None:
    """FLoRA's Δ is as wide as all ranks of a round together."""
    layers = (LayerSpec("attn.q", 4096, 4096),)
    ranks = {"x": {"attn.q": 64}}
    told = traffic(make_rule("flora"), layers, ranks, {"x": 20})["x"]
    assert told.delta == pytest.approx(4 * 2 * 4096 * 64 * 20, rel=0.01)


def test_a_count_is_the_length_of_what_is_serialised() -> None:
    adapter = Adapter({"x": Factors(torch.rand(5, 2), torch.rand(2, 7), 0.5)})
    for sides in ("both", "a", "b"):
        payload = factors_payload(adapter.only(sides))
        assert byte_count(payload) == len(to_bytes(payload))
