from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flexlora.partition.split import named_generator, sample, split


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


SHARES = st.tuples(st.integers(1, 10), st.integers(0, 10), st.integers(0, 10)).map(
    lambda parts: tuple(part / sum(parts) for part in parts)
)


@given(count=st.integers(0, 300), shares=SHARES, seed=st.integers(0, 2**32))
def test_parts_are_disjoint_cover_all_and_have_the_shares(
    count: int, shares: tuple[float, ...], seed: int
) -> None:
    parts = split(count, shares, generator=seeded(seed))
    assert sorted(i for part in parts for i in part) == list(range(count))
    assert all(list(part) == sorted(part) for part in parts)
    wanted = [i for i in (0, 2, 1) if shares[i] > 0]
    for place, i in enumerate(wanted):
        assert bool(parts[i]) == (count > place)
    for part, share in zip(parts, shares, strict=True):
        assert share > 0 or not part
        # Off by the rounding of the largest remainder, and by what the small parts were given.
        assert abs(len(part) - count * share) < 3
    assert parts == split(count, shares, generator=seeded(seed))


def test_the_default_is_80_10_10_and_the_seed_matters() -> None:
    first, second = (split(100, generator=seeded(seed)) for seed in (1, 2))
    assert [len(part) for part in first] == [80, 10, 10]
    assert first != second


@pytest.mark.parametrize(
    ("count", "sizes"), [(0, [0, 0, 0]), (1, [1, 0, 0]), (2, [1, 0, 1]), (3, [1, 1, 1])]
)
def test_small_counts_go_to_train_then_test_then_validation(count: int, sizes: list[int]) -> None:
    assert [len(part) for part in split(count, generator=seeded(0))] == sizes


def test_every_index_lands_in_train_as_often_as_its_share() -> None:
    generator = seeded(0)
    hits = torch.zeros(20)
    for _ in range(2000):
        hits[list(split(20, generator=generator)[0])] += 1
    # Binomial(2000, 0.8) has a standard deviation of 0.009 as a share: five of them.
    assert float((hits / 2000 - 0.8).abs().max()) < 0.045


@pytest.mark.parametrize("shares", [(0.0, 0.5, 0.5), (0.9, 0.2, -0.1), (0.5, 0.1, 0.1), (0.5, 0.5)])
def test_wrong_shares_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="shares"):
        split(10, shares, generator=seeded(0))


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(ValueError, match="count is -1"):
        split(-1, generator=seeded(0))


@given(count=st.integers(1, 200), share=st.floats(0.01, 1.0), limit=st.integers(1, 50))
def test_sample_keeps_the_share_at_most_the_limit_and_grows_by_inclusion(
    count: int, share: float, limit: int
) -> None:
    chosen = sample(count, seeded(3), share=share, limit=limit)
    assert len(chosen) == min(count, max(1, round(share * count)), limit)
    assert list(chosen) == sorted(set(chosen))
    assert set(chosen) <= set(sample(count, seeded(3), share=share, limit=limit + 5))
    assert sample(count, seeded(3)) == tuple(range(count))


@pytest.mark.parametrize("wrong", [{"share": 0.0}, {"share": 1.5}, {"limit": 0}])
def test_sample_refuses_wrong_sizes(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        sample(10, seeded(0), **wrong)


def test_a_named_generator_depends_on_seed_and_name() -> None:
    draws = {
        (seed, name): tuple(torch.randperm(50, generator=named_generator(seed, name)).tolist())
        for seed in (0, 1)
        for name in ("a", "b")
    }
    assert len(set(draws.values())) == 4
    again = tuple(torch.randperm(50, generator=named_generator(0, "a")).tolist())
    assert again == draws[0, "a"]
