"""LoRA-FAIR: B is corrected towards the exact mean of products."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from flexlora.adapters import Factors
from flexlora.rules.lora_fair import LoRAFAIR
from reference import assert_close, gaussian
from rules.by_hand import combined, learned, made, sent, spec, start

# For the contract tests, beside the default.
OPTIONS = [{"weight": 1.0}]
ONE = spec(1, m=1, n=1, alpha=1.0)
MIXED = spec(1, 2, 3, m=6, n=5, alpha=3.0)
WEIGHTS = (0.5, 0.3, 0.2)


def parts() -> list[tuple[float, Factors]]:
    return [
        (w, Factors(gaussian(6, r, seed=r), gaussian(r, 5, seed=r + 9), 1.0))
        for w, r in zip(WEIGHTS, (1, 2, 3), strict=True)
    ]


def dense_means() -> tuple[Tensor, Tensor, Tensor]:
    """B̄, Ā (zeros where a client has no row) and Σ w B A, in float64."""
    b, a = torch.zeros(6, 3).double(), torch.zeros(3, 5).double()
    whole = torch.zeros(6, 5).double()
    for w, f in parts():
        b[:, : f.rank] += w * f.b.double()
        a[: f.rank] += w * f.a.double()
        whole += w * f.b.double() @ f.a.double()
    return b, a, whole


@pytest.mark.parametrize(("weight", "wanted"), [(1.0, 0.6), (4.0, 0.75), (1e-12, 0.5)])
def test_one_number_by_hand(weight: float, wanted: float) -> None:
    """Ā = 2, B̄ = 1, Σ w B A = 1: E = (1 · 2 − 1 · 4) / (4 + λ)."""
    rule = LoRAFAIR(weight=weight)
    given = ((0.5, made([[2]], [[1]], 1.0)), (0.5, made([[0]], [[3]], 1.0)))
    state = combined(rule, ONE, start(rule, ONE), *given).state
    assert float(state["b"]) == pytest.approx(wanted, rel=1e-6)
    assert float(state["a"]) == 2.0


def test_without_a_price_it_is_the_least_squares_optimum() -> None:
    rule = LoRAFAIR(weight=1e-12)
    _, a, whole = dense_means()
    state = combined(rule, MIXED, start(rule, MIXED), *parts()).state
    best = torch.linalg.lstsq(a.T, whole.T).solution.T
    assert_close(state["a"], a, 1e-6)
    assert_close(state["b"], best, 1e-5)
    assert_close(learned(rule, MIXED, state), best @ a, 1e-5)


@pytest.mark.parametrize("weight", [1e-12, 0.01, 1.0, 100.0, 1e6])
def test_it_is_never_farther_from_the_mean_of_products_than_the_factor_mean(weight: float) -> None:
    rule = LoRAFAIR(weight=weight)
    b, a, whole = dense_means()
    state = combined(rule, MIXED, start(rule, MIXED), *parts()).state
    distance = float((learned(rule, MIXED, state) - whole).norm())
    mean = float((b @ a - whole).norm())
    assert distance <= mean * (1.0 + 1e-6)
    assert (distance < 0.99 * mean) == (weight < 100.0)


@pytest.mark.parametrize("weight", [1e-300, 1e-12])
def test_rows_that_say_nothing_new_do_not_blow_up_a_small_price(weight: float) -> None:
    """The third row of A is the sum of the others, the fourth is zero: Ā Āᵀ has no inverse."""
    rule, of = LoRAFAIR(weight=weight), spec(4, m=6, n=5, alpha=4.0)
    a = gaussian(2, 5, seed=1)
    a = torch.cat([a, a.sum(dim=0, keepdim=True), torch.zeros(1, 5)])
    one, other = gaussian(6, 4, seed=2), gaussian(6, 4, seed=3)
    given = [(0.5, Factors(one, a, 1.0)), (0.5, Factors(other, a, 1.0))]
    state = combined(rule, of, start(rule, of), *given).state
    exact = 0.5 * (one + other).double() @ a.double()
    assert_close(learned(rule, of, state), exact, 1e-5)
    assert_close(state["b"], 0.5 * (one + other), 1e-5)  # With one A for all there is no error.


def test_rows_that_no_client_of_the_round_owns_stay_and_all_have_one_scale() -> None:
    rule = LoRAFAIR()
    before = combined(rule, MIXED, start(rule, MIXED), *parts()).state
    after = combined(rule, MIXED, before, (1.0, parts()[0][1])).state
    assert torch.equal(after["b"][:, 1:], before["b"][:, 1:])
    assert torch.equal(after["a"][1:], before["a"][1:])
    given = sent(rule, MIXED, after, 2)
    assert (given.scale, given.rank) == (1.0, 2)
    assert torch.equal(given.b, after["b"][:, :2])
