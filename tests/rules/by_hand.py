"""One small layer with the numbers written out: for what a rule makes of a round, by hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flexlora.adapters import Factors, LayerSpec
from flexlora.rules import ClientView, Combined, Contribution, LayerState, Listed, Rule, Spec
from reference import at, dense, generator

NAME = "q_proj"
Rows = Sequence[Sequence[float]]


def spec(*ranks: int, m: int = 2, n: int = 2, alpha: float = 2.0) -> Spec:
    """A federation of one m × n layer, whose clients have these ranks."""
    return Spec.of([LayerSpec(NAME, m, n)], [{NAME: rank} for rank in ranks], alpha)


def made(b: Rows, a: Rows, scale: float) -> Factors:
    return Factors(torch.tensor(b, dtype=torch.float32), torch.tensor(a).float(), scale)


def diagonal(scale: float, *values: float) -> Factors:
    """Factors of as many directions as there are values, whose product is their diagonal."""
    size = len(values)
    return Factors(torch.diag(torch.tensor(values)) / scale, torch.eye(size), scale)


def alone(place: int, value: float, scale: float, size: int = 2) -> Factors:
    """Rank one, whose product is this value at this place of the diagonal."""
    row = torch.eye(size)[place : place + 1]
    return Factors(value / scale * row.T, row, scale)


def start(rule: Rule, of: Spec) -> LayerState:
    return rule.init(of, generator()).layers[NAME]


def sent(rule: Rule, of: Spec, state: LayerState, rank: int, round: int = 1) -> Factors:
    return rule.send_layer(at(of, round=round), state, ClientView("ann", {NAME: rank}))


def combined(
    rule: Rule,
    of: Spec,
    state: LayerState,
    *parts: tuple[float, Factors] | Contribution,
    round: int = 1,
) -> Combined:
    """After a round of these clients: weight and what each trained."""
    each = [
        part if isinstance(part, Contribution) else Contribution.of(f"c{i}", *part)
        for i, part in enumerate(parts)
    ]
    return rule.combine(at(of, round=round), state, Listed(each))


def learned(rule: Rule, of: Spec, state: LayerState) -> Tensor:
    return dense(rule.learned_layer(at(of), state))
