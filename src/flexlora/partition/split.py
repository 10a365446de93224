"""How the examples of one client are chosen and split. Pure: indices in, indices out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from flexlora.seeds import seed_of, seeded

Indices = tuple[int, ...]


def named_generator(seed: int, name: str) -> torch.Generator:
    """A generator that depends on (seed, name) alone, so that one task never moves another's."""
    return seeded(seed_of(seed, name))


def sample(
    count: int,
    generator: torch.Generator,
    *,
    share: float | None = None,
    limit: int | None = None,
) -> Indices:
    """Choose among `count` examples without replacement; returns ascending indices.

    `share` keeps that part, rounded, but at least one example; `limit` keeps at most so many;
    with both the smaller counts, with neither all are kept. From the same generator state a
    larger choice contains the smaller one. Raises ValueError for share outside (0, 1] or
    limit < 1.
    """
    if share is not None and not 0.0 < share <= 1.0:
        raise ValueError(f"share is {share}; give a share above 0 and at most 1")
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; give 1 or more")
    keep = count if share is None else min(count, max(1, round(share * count)))
    keep = keep if limit is None else min(keep, limit)
    order: list[int] = torch.randperm(count, generator=generator).tolist()
    return tuple(sorted(order[:keep]))


def split(
    count: int,
    shares: Sequence[float] = (0.8, 0.1, 0.1),
    *,
    generator: torch.Generator,
) -> tuple[Indices, Indices, Indices]:
    """Split `count` examples at random into (train, validation, test), each ascending.

    The parts are disjoint and cover all. Sizes are the shares by largest remainder. For small
    counts every part whose share is above zero gets one example as long as they last, in the order
    train, test, validation, taken from the largest part; a part of share zero stays empty.

    Raises ValueError for a negative count, or for shares that are not three, negative, without any
    for train, or do not sum to 1.
    """
    if count < 0:
        raise ValueError(f"count is {count}; give 0 or more")
    if len(shares) != 3 or min(shares) < 0.0 or shares[0] == 0.0:
        raise ValueError(f"shares are {tuple(shares)}; give train > 0, validation and test ≥ 0")
    if not math.isclose(sum(shares), 1.0, abs_tol=1e-9):
        raise ValueError(f"shares {tuple(shares)} sum to {sum(shares)}; make them sum to 1")
    train, validation, _ = _sizes(count, shares)
    order: list[int] = torch.randperm(count, generator=generator).tolist()
    parts = order[:train], order[train : train + validation], order[train + validation :]
    return tuple(sorted(parts[0])), tuple(sorted(parts[1])), tuple(sorted(parts[2]))


def _sizes(count: int, shares: Sequence[float]) -> list[int]:
    sizes = [math.floor(count * share) for share in shares]
    by_remainder = sorted(range(3), key=lambda i: sizes[i] - count * shares[i])
    for i in [i for i in by_remainder if shares[i] > 0.0][: count - sum(sizes)]:
        sizes[i] += 1
    wanted = [i for i in (0, 2, 1) if shares[i] > 0.0]
    if count <= len(wanted):
        return [int(i in wanted[:count]) for i in range(3)]
    for i in wanted:
        if sizes[i] == 0:
            sizes[sizes.index(max(sizes))] -= 1  # it has 2 or more: more examples than parts
            sizes[i] += 1
    return sizes
