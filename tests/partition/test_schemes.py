"""Schemes: who gets how much, what is refused, and the moments of Dirichlet(α)."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from flexlora.errors import ConfigError, DataError
from flexlora.partition.by_label import ByCategory, ByTask, seats
from flexlora.partition.dirichlet import Dirichlet, _lift, dirichlet_shares, largest_remainder
from flexlora.partition.iid import IID
from flexlora.partition.registry import SCHEMES, make_scheme, register


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mix(labels: list[str], places: tuple[int, ...]) -> Counter[str]:
    return Counter(labels[place] for place in places)


# --- by label ------------------------------------------------------------------------------------


def test_by_task_each_label_is_a_client_and_nothing_is_random() -> None:
    dealt = ByTask().deal(["b", "a", "b", "c"], least=1, generator=seeded(0))
    assert dict(dealt.clients) == {"a": (1,), "b": (0, 2), "c": (3,)}
    assert dealt.moved == 0


def test_large_categories_are_cut_and_each_client_holds_one_category() -> None:
    labels = ["open"] * 40 + ["closed"] * 19 + ["rare"] * 5
    dealt = ByCategory(clients=5).deal(labels, least=1, generator=seeded(0)).clients
    assert {name: len(held) for name, held in dealt.items()} == {
        "closed": 19,
        "open-1": 14,
        "open-2": 13,
        "open-3": 13,
        "rare": 5,
    }
    for name, held in dealt.items():
        assert set(mix(labels, held)) == {name.partition("-")[0]}
    # Parts are random ones, not runs.
    assert max(dealt["open-1"]) - min(dealt["open-1"]) > 14


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4), more=st.integers(0, 4))
def test_no_other_choice_makes_the_largest_client_smaller(sizes: list[int], more: int) -> None:
    clients = min(len(sizes) + more, sum(sizes))
    named = {f"l{i}": size for i, size in enumerate(sizes)}
    count = seats(named, clients)
    assert sum(count.values()) == clients
    assert all(1 <= count[name] <= size for name, size in named.items())

    def largest(choice: tuple[int, ...]) -> int:
        return max(-(-size // k) for size, k in zip(sizes, choice, strict=True))

    every = itertools.product(range(1, clients + 1), repeat=len(sizes))
    best = min(largest(choice) for choice in every if sum(choice) == clients)
    assert largest(tuple(count.values())) == best


def test_what_categories_cannot_do_is_refused() -> None:
    labels = ["a", "a", "b"]
    with pytest.raises(DataError, match="clients is 1, but there are 2 categories"):
        ByCategory(clients=1).deal(labels, least=1, generator=seeded(0))
    with pytest.raises(DataError, match="clients is 4, but there are 3 training examples"):
        ByCategory(clients=4).deal(labels, least=1, generator=seeded(0))
    with pytest.raises(DataError, match=r"1 of 2 clients have fewer .* = 2 .*'b' has 1"):
        ByTask().deal(labels, least=2, generator=seeded(0))
    with pytest.raises(
        DataError, match=r"'b' has 1.*; lower partition.min_examples or partition.clie"
    ):
        ByCategory(clients=2).deal(labels, least=2, generator=seeded(0))
    with pytest.raises(DataError, match="the name of another, 'a-1'; rename"):
        ByCategory(clients=3).deal(["a", "a", "a-1"], least=1, generator=seeded(0))
    with pytest.raises(ValueError, match="1 clients for 2 labels"):
        seats({"a": 1, "b": 1}, 1)


# --- iid -----------------------------------------------------------------------------------------


def test_iid_sizes_are_equal_and_every_example_goes_everywhere_equally_often() -> None:
    dealt = IID(4).deal(["x"] * 11, least=2, generator=seeded(0))
    assert [len(held) for held in dealt.clients.values()] == [3, 3, 3, 2]
    assert list(dealt.clients) == ["client-00", "client-01", "client-02", "client-03"]
    generator, hits = seeded(1), torch.zeros(8)
    for _ in range(2000):
        hits[list(IID(2).deal(["x"] * 8, least=1, generator=generator).clients["client-00"])] += 1
    # Binomial(2000, 1/2) has a standard deviation of 0.011 as a share: five of them.
    assert float((hits / 2000 - 0.5).abs().max()) < 0.056


# --- Dirichlet -----------------------------------------------------------------------------------


def z_of_spread(shares: Tensor, alpha: float) -> float:
    """How many standard errors Σ p² of these rows is from what Dirichlet(α, …, α) has.

    With N shares a row, E[Σ p²] = N (Var + 1/N²), Var = (1/N)(1 − 1/N)/(Nα + 1).
    """
    rows, n = shares.shape
    expected = n * ((1 / n) * (1 - 1 / n) / (n * alpha + 1) + 1 / n**2)
    spread = (shares**2).sum(dim=1)
    return float((spread.mean() - expected) / (spread.std() / rows**0.5))


def z_of_means(shares: Tensor) -> float:
    """The largest distance, in standard errors, of a client's mean share from 1/N."""
    rows, n = shares.shape
    return float(((shares.mean(dim=0) - 1 / n) / (shares.std(dim=0) / rows**0.5)).abs().max())


@pytest.mark.parametrize("alpha", [0.02, 0.1, 1.0, 30.0])
@pytest.mark.parametrize("clients", [2, 10])
def test_the_shares_have_the_moments_of_dirichlet_and_of_no_other_alpha(
    alpha: float, clients: int
) -> None:
    shares = dirichlet_shares(4000, clients, alpha, seeded(7))
    assert shares.dtype == torch.float64
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(4000, dtype=torch.float64))
    assert z_of_means(shares) < 4
    assert abs(z_of_spread(shares, alpha)) < 4
    for wrong in (2 * alpha, alpha / 2):
        assert abs(z_of_spread(shares, wrong)) > 4, wrong


@pytest.mark.parametrize("alpha", [0.1, 1.0])
def test_what_is_dealt_has_these_moments_too(alpha: float) -> None:
    kinds, each, clients = 300, 200, 5
    labels = [f"label-{i % kinds:03d}" for i in range(kinds * each)]
    dealt = Dirichlet(clients, alpha).deal(labels, least=1, generator=seeded(3))
    assert dealt.moved == 0
    counts = [mix(labels, held) for held in dealt.clients.values()]
    shares = torch.tensor(
        [[count[f"label-{i:03d}"] / each for count in counts] for i in range(kinds)]
    ).double()
    assert z_of_means(shares) < 4
    assert abs(z_of_spread(shares, alpha)) < 4
    for wrong in (2 * alpha, alpha / 2):
        assert abs(z_of_spread(shares, wrong)) > 4, wrong


def test_tiny_and_huge_alphas_are_the_limits() -> None:
    tiny = dirichlet_shares(3000, 4, 1e-9, seeded(0))
    assert float(tiny.max(dim=1).values.min()) == 1.0
    # Each client wins a quarter: Binomial(3000, 1/4) has a standard deviation of 0.008 as a share.
    assert float((tiny.mean(dim=0) - 0.25).abs().max()) < 0.04
    huge = dirichlet_shares(10, 4, 1e6, seeded(0))
    assert float((huge - 0.25).abs().max()) < 0.001


@given(
    weights=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=8).filter(lambda w: sum(w) > 1e-3),
    count=st.integers(0, 100),
)
def test_largest_remainder_is_within_one_and_sums_up(weights: list[float], count: int) -> None:
    shares = [weight / sum(weights) for weight in weights]
    sizes = largest_remainder(shares, count)
    assert sum(sizes) == count
    for share, size in zip(shares, sizes, strict=True):
        assert size >= 0
        assert abs(size - share * count) < 1 + 1e-9


@given(
    sizes=st.lists(st.integers(0, 12), min_size=1, max_size=6),
    least=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_lifting_moves_no_more_than_is_missing_and_leaves_the_middle_alone(
    sizes: list[int], least: int, seed: int
) -> None:
    if sum(sizes) < least * len(sizes):
        sizes = [*sizes, 12 * len(sizes)]
    held = [[100 * i + j for j in range(size)] for i, size in enumerate(sizes)]
    before = [list(places) for places in held]
    moved = _lift(held, least, seeded(seed))
    assert moved == sum(max(0, least - size) for size in sizes)
    assert min(map(len, held)) >= least
    assert sorted(itertools.chain(*held)) == sorted(itertools.chain(*before))
    lost = [len(b) - len(a) for b, a in zip(before, held, strict=True)]
    for places, old, gone in zip(held, before, lost, strict=True):
        if gone >= 0:
            assert set(places) <= set(old)  # it gave, or was left alone
            assert gone == 0 or len(places) >= least
        else:
            assert len(places) == least


def test_more_clients_than_examples_says_what_can_be_reached() -> None:
    with pytest.raises(DataError, match=r"6 clients .* lower partition.clients to 5"):
        Dirichlet(6, 1.0).deal(["a"] * 5, least=1, generator=seeded(0))
    with pytest.raises(
        DataError, match=r"clients to 2 or less or partition.min_examples to 1 or less"
    ):
        IID(4).deal(["a"] * 7, least=3, generator=seeded(0))
    assert len(IID(4).deal(["a"] * 7, least=1, generator=seeded(0)).clients) == 4
    assert len(IID(2).deal(["a"] * 7, least=3, generator=seeded(0)).clients) == 2


# --- the registry --------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf"), 1e9])
def test_wrong_alphas(alpha: float) -> None:
    with pytest.raises(ConfigError, match=r"partition\.alpha is"):
        Dirichlet(3, alpha)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("dirichlett", {}, "partition.by is 'dirichlett'; did you mean 'dirichlet'?"),
        ("dirichlet", {"clients": 3}, "which needs partition.alpha; give it"),
        ("iid", {}, "which needs partition.clients; give it"),
        (
            "iid",
            {"clients": 3, "alpha": 1.0},
            "partition.alpha is not an option of 'iid'; .* to 'dirichlet'",
        ),
        ("task", {"clients": 3}, "to 'category' or 'iid' or 'dirichlet'"),
        ("task", {"shares": 3}, "partition.shares is not an option of 'task'; it takes no options"),
        ("iid", {"clients": 0}, "partition.clients is 0, expected a whole number of 1 or more"),
        ("iid", {"clients": 2.5}, "partition.clients is 2.5, expected a whole number"),
        ("iid", {"clients": True}, "partition.clients is true, expected a whole number"),
        ("category", {"clients": -1}, "partition.clients is -1"),
    ],
)
def test_wrong_options(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_scheme(name, options)


def test_a_name_is_taken_once_and_groups_are_known() -> None:
    with pytest.raises(ConfigError, match="'iid' is registered already"):
        register("iid", Dirichlet)
    assert {name: cls.groups for name, cls in SCHEMES.items()} == {
        "task": "task",
        "client": "client",
        "category": "category",
        "iid": "",
        "dirichlet": "label",
    }
