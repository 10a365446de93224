"""Where the singular values of what is sent lie: all in B (the paper), or half on each side."""

from __future__ import annotations

import pytest
import torch

from flexlora.adapters import LayerSpec
from flexlora.errors import ConfigError
from flexlora.rules import Rule, Spec, State, make_rule
from reference import Round, assert_all_close, assert_close, generator, products, random_training

LAYERS = (LayerSpec("q", 24, 20), LayerSpec("down", 18, 30))
COHORT = {
    "ann": {"q": 2, "down": 3},
    "bob": {"q": 8, "down": 8},
}


def played(name: str, split: str) -> tuple[Rule, State]:
    top = {} if name == "flexlora" else {"directions": "top"}
    rule = make_rule(name, {"split": split, **top})
    spec = Spec.of(LAYERS, list(COHORT.values()))
    state = rule.init(spec, generator(1))
    return rule, Round(rule, state, COHORT, random_training(3)).combined()


@pytest.mark.parametrize("name", ["flexlora", "flexlora-increment"])
def test_both_splits_send_the_same_product(name: str) -> None:
    (left, state), (balanced, _) = played(name, "left"), played(name, "balanced")
    for ranks in COHORT.values():
        paper = left.send(state, ranks, generator())
        even = balanced.send(state, ranks, generator())
        assert_all_close(products(even), products(paper))
        for layer, factors in even.items():
            columns, rows = factors.b.norm(dim=0), factors.a.norm(dim=1)
            assert_close(columns, rows, 1e-5)
            assert_close(
                paper[layer].a @ paper[layer].a.T, torch.eye(factors.rank, dtype=torch.float32)
            )


@pytest.mark.parametrize("name", ["flexlora", "flexlora-increment"])
def test_another_word_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r'rule\.split is "right"; known: balanced, left'):
        make_rule(name, {"split": "right"})
