"""Slow references in dense float64, and training for a round without models or transport."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise

import jaxtyping
import torch
from torch import Tensor

from flexlora.adapters import Adapter, Factors, LayerSpec
from flexlora.laws.round import Round as Round
from flexlora.laws.round import Train
from flexlora.laws.round import play as play
from flexlora.lowrank import LowRank
from flexlora.rules import RULES, Layer, Rule, Spec, State


@contextmanager
def as_in_production() -> Iterator[None]:
    """Without the tests' own shape checks, which would refuse a wrong call before the code does."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed))


def at(spec: Spec, name: str = "", round: int = 1, seed: int = 0) -> Layer:
    """A layer of this spec (default: the first), as a rule sees it, with a generator of its own."""
    return next(x for x in spec.at(round, generator(seed)) if name in ("", x.name))


def there(gradient: Tensor | None) -> Tensor:
    """A gradient that has to be there."""
    assert gradient is not None
    return gradient


def dense(matrix: LowRank) -> Tensor:
    """The matrix multiplied out in float64."""
    return matrix.left.double() @ matrix.right.double()


def product(factors: Factors) -> Tensor:
    """`scale · b @ a` multiplied out in float64, by its own route."""
    return factors.scale * (factors.b.double() @ factors.a.double())


def best(matrix: Tensor, rank: int) -> Tensor:
    """The best approximation of this rank, by dense float64 SVD."""
    u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ vh[:rank]


def tail_norm(matrix: Tensor, rank: int) -> float:
    """The distance to the nearest matrix of this rank (Eckart–Young)."""
    return float(torch.linalg.svdvals(matrix.double())[rank:].norm())


def magnitude(matrix: LowRank) -> float:
    """√Σ‖left_j‖²‖right_j‖²: the scale of rounding errors, which cancellation does not lower.

    Denormals round in fixed steps: no column counts as smaller than float32's smallest normal.
    """
    smallest = torch.finfo(torch.float32).tiny * matrix.left.shape[0] ** 0.5
    columns = matrix.left.double().norm(dim=0) + smallest
    return float((columns * matrix.right.double().norm(dim=1)).norm())


def assert_close(got: Tensor, wanted: Tensor, tolerance: float = 1e-5) -> None:
    """Frobenius distance at most `tolerance` of the wanted norm (absolute where that is 0)."""
    assert got.shape == wanted.shape
    distance = float((got.double() - wanted.double()).norm())
    assert distance <= tolerance * (float(wanted.double().norm()) or 1.0), distance


def assert_all_close(
    got: Mapping[str, Tensor], wanted: Mapping[str, Tensor], tolerance: float = 1e-5
) -> None:
    assert set(got) == set(wanted)
    for name in wanted:
        assert_close(got[name], wanted[name], tolerance)


def learned(rule: Rule, state: State) -> dict[str, Tensor]:
    return {name: dense(matrix) for name, matrix in rule.learned(state).items()}


def rule_with(**traits: object) -> str:
    """The name of the first registered rule with these traits: for a test of what they bring."""
    return next(
        name
        for name in sorted(RULES)
        if all(getattr(RULES[name].traits, key) == value for key, value in traits.items())
    )


def one_of_each(*traits: str) -> list[str]:
    """The first registered rule of each combination of these traits.

    For what depends on them alone, where a whole federation for every rule would take too long.
    """
    found: dict[tuple[object, ...], str] = {}
    for name, rule in RULES.items():
        found.setdefault(tuple(getattr(rule.traits, key) for key in traits), name)
    return list(found.values())


def held_rank(rule: Rule, lowest: int, highest: int, full: int) -> int:
    """The rank that a rule's state holds, where clients have these lowest and highest ranks."""
    spec = Spec.of((LayerSpec("x", 3, 3),), [{"x": 1}])
    if "u" in rule.init(spec, generator()).layers["x"]:  # A spectrum is of any rank.
        return full
    return highest if rule.traits.mixed_ranks else lowest


def products(adapter: Adapter) -> dict[str, Tensor]:
    return {name: product(factors) for name, factors in adapter.items()}


def map_factors(adapter: Adapter, change: Callable[[Factors], Factors]) -> Adapter:
    return Adapter({name: change(factors) for name, factors in adapter.items()})


def nothing(_client: str, sent: Adapter) -> Adapter:
    """Training that changes nothing."""
    return sent


def random_training(seed: int, size: float = 0.2) -> Train:
    """Training that moves both factors, differently for each client."""

    def train(client: str, sent: Adapter) -> Adapter:
        draw = generator(seed * 1000 + sum(map(ord, client)))

        def moved(f: Factors) -> Factors:
            b = f.b + size * torch.randn(f.b.shape, generator=draw)
            return Factors(b, f.a + size * torch.randn(f.a.shape, generator=draw), f.scale)

        return map_factors(sent, moved)

    return train


def descending(values: Tensor) -> bool:
    return all(float(x) >= float(y) for x, y in pairwise(values))
