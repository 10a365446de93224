"""Every registered rule, and the seam's examples, against the laws that their traits select.

A new rule needs no line here. Where some of its options are worth a trial of their own, the test of
what is special about it names them: `OPTIONS` in tests/rules/test_<file of the rule>_rule.py.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch

from flexlora.adapters import Adapter, LayerSpec, Ranks
from flexlora.rules import RULES, Rule, Spec, State
from reference import generator, learned, play, random_training
from seam.examples import EXAMPLES

LAYERS = (
    LayerSpec("model.layers.0.mlp.up_proj", 20, 10),
    LayerSpec("model.layers.0.self_attn.q_proj", 12, 14),
)
FULL = {layer.name: layer.largest_rank for layer in LAYERS}
LOW, HIGH = 2, 8


def worth_a_trial(rule: type[Rule]) -> list[dict[str, Any]]:
    """Options beside the default ones."""
    name = f"rules.test_{rule.__module__.rpartition('.')[2]}_rule"
    try:
        special = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name not in ("rules", name):
            raise  # That test is there, and something that it needs is not.
        return []
    return list(getattr(special, "OPTIONS", []))


# Law, rule: rows that only a client of weight zero owns become zero, and never train again.
NOT_YET = {("absent", "lora-fair"), ("absent", "replicate")}
UNDER_TEST = [*(RULES[name] for name in sorted(RULES)), *EXAMPLES]
CASES = [(rule, options) for rule in UNDER_TEST for options in [{}, *worth_a_trial(rule)]]


def every(condition: Callable[[Rule], bool] = lambda _: True) -> pytest.MarkDecorator:
    """Parametrise over the rules (and their options) of which the condition holds."""
    cases = [(rule(**options), "-".join([rule.name, *options])) for rule, options in CASES]
    chosen = [pytest.param(rule, id=name) for rule, name in cases if condition(rule)]
    return pytest.mark.parametrize("rule", chosen)


def shared(rule: Rule) -> bool:
    """Whether the server holds all that is learned: nothing of it stays with clients."""
    return not rule.traits.memory


def by_product(rule: Rule) -> bool:
    return rule.traits.compares == "product"


def sends_the_top(rule: Rule) -> bool:
    """Whether clients train the top of what was learned, which an option may change."""
    return getattr(rule, "directions", "top") == "top"


def uniform(rank: int) -> dict[str, int]:
    return Ranks.of(rank).resolve(LAYERS)


MIXED = {"ann": uniform(LOW), "bob": uniform(3), "cyd": uniform(5), "dan": uniform(HIGH)}
WHOLE = dict.fromkeys(MIXED, FULL)
CUT = {"ann": uniform(LOW), "bob": uniform(LOW)}


def begun(rule: Rule, cohort: Mapping[str, Mapping[str, int]] = MIXED, seed: int = 0) -> State:
    spec = Spec.of(LAYERS, list(cohort.values()), alpha=4.0)
    return rule.init(spec, generator(seed))


def trained(rule: Rule, cohort: Mapping[str, Mapping[str, int]] = MIXED, rounds: int = 2) -> State:
    """The state after some rounds in which everybody learns something of their own."""
    state = begun(rule, cohort)
    for seed in range(1, rounds + 1):
        state = play(rule, state, cohort, random_training(seed), seed)
    return state


def outcome(rule: Rule, state: State) -> dict[str, torch.Tensor]:
    """What the rule says is to be compared: the learned products, or the factors it keeps.

    Beside a residual those are the ones that it sends. A spectrum is a product, whatever is in it.
    """
    spectra = all("u" in tensors for tensors in state.layers.values())
    if rule.traits.compares == "product" or (spectra and rule.traits.delta != "residual"):
        return learned(rule, state)
    if rule.traits.delta == "residual":
        sent = rule.send(state, state.spec.lowest, generator())
        factors = {f"{layer}.b": f.b for layer, f in sent.items()}
        factors |= {f"{layer}.a": f.a for layer, f in sent.items()}
        return {**learned(rule, state), **factors}
    return {
        f"{layer}.{key}": tensor.double()
        for layer, tensors in state.layers.items()
        for key, tensor in tensors.items()
    }


def tensors_of(*holders: State | Adapter) -> Iterator[torch.Tensor]:
    for holder in holders:
        if isinstance(holder, Adapter):
            sides = (t for factors in holder.values() for t in (factors.b, factors.a))
            yield from (t for t in sides if not t.is_meta)
            continue
        yield from (t for layer in holder.layers.values() for t in layer.values())
        yield from (t for x in holder.delta.layers.values() for t in (x.left, x.right))


def assert_trainable(adapter: Adapter) -> None:
    """A direction with b = 0 and a = 0 has no gradient and never learns."""
    for name, factors in adapter.items():
        for j in range(factors.rank):
            alive = bool(factors.b[:, j].any()) or bool(factors.a[j].any())
            assert alive, f"{name}: direction {j} of {factors.rank} is dead"
