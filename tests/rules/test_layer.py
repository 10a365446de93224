"""What scale each rank of a federation has."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flexlora.adapters import LayerSpec
from flexlora.rules import RULES, Spec, make_rule
from reference import assert_all_close, generator, learned, play, random_training

LAYERS = (LayerSpec("x.q_proj", 12, 10), LayerSpec("x.up_proj", 14, 9))
LOW = {"x.q_proj": 2, "x.up_proj": 4}
HIGH = {"x.q_proj": 8, "x.up_proj": 9}
SPEC = Spec.of(LAYERS, [LOW, HIGH], 6.0, "anchored")


def test_the_lowest_rank_of_the_federation_keeps_its_scale() -> None:
    """One anchor for all layers, so that rank pays between them too."""
    assert SPEC.anchor == 2
    assert [SPEC.scale(rank) for rank in (2, 8)] == [3.0, 1.5]
    for layer in SPEC.at(0):
        assert (layer.anchor, layer.scale(2), layer.scale(8)) == (2, 3.0, 1.5)
    lora, rslora = (replace(SPEC, scaling=name) for name in ("lora", "rslora"))
    assert lora.scale(2) == SPEC.scale(2)
    assert lora.scale(8) < SPEC.scale(8) < rslora.scale(8)


def test_of_one_rank_alone_it_is_the_papers() -> None:
    for rank in range(1, 10):
        spec = Spec.of(LAYERS, [dict.fromkeys(LOW, rank)] * 3, 16.0, "anchored")
        assert spec.scale(rank) == 16.0 / rank


def test_a_rank_below_the_lowest_has_a_scale_of_its_own() -> None:
    """A client that pruned itself moves nobody's scale, and its own by the same rule."""
    assert SPEC.scale(1) == pytest.approx(6.0 / 2**0.5)
    assert SPEC.anchor == 2


@pytest.mark.parametrize("name", [x for x in sorted(RULES) if RULES[x].traits.scales == "rank"])
def test_rules_without_a_scale_of_their_own_send_and_read_out_at_the_anchored_one(
    name: str,
) -> None:
    rule = make_rule(name)
    state = rule.init(SPEC, generator())
    for ranks in (rule.ranks_for(SPEC, LOW), rule.ranks_for(SPEC, HIGH)):
        for adapter in (rule.send(state, ranks, generator()), rule.readout(state, ranks)):
            for layer, factors in adapter.items():
                assert factors.scale == SPEC.scale(ranks[layer])


@pytest.mark.parametrize("name", sorted(RULES))
def test_another_anchor_changes_scales_and_not_what_was_learned(name: str) -> None:
    """As where a run is continued by clients of other ranks."""
    rule = make_rule(name)
    cohort = {"ann": LOW, "bob": HIGH}
    state = play(rule, rule.init(SPEC, generator()), cohort, random_training(1))
    lower = Spec.of(LAYERS, [dict.fromkeys(LOW, 1), HIGH], 6.0, "anchored")
    if not rule.traits.mixed_ranks:  # It holds the lowest rank alone: one that can hold it all.
        lower = Spec.of(LAYERS, [dict.fromkeys(LOW, 6), HIGH], 6.0, "anchored")
    assert lower.anchor != SPEC.anchor
    after = rule.warm_start(lower, rule.learned(state), generator())
    assert_all_close(learned(rule, after), learned(rule, state), 1e-5)
