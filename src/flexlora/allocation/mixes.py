"""Client types and mixes: how many clients afford which ranks. Pure.

Source: Bai et al. (arXiv 2402.11505), four types of client and four mixes of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from flexlora.adapters import Ranks
from flexlora.errors import ConfigError, nearest, shown

TYPES: dict[str, Ranks] = {
    "type1": Ranks.of(8),
    "type2": Ranks.of(30),
    "type3": Ranks.of({"attention": 30, "all": 200}),
    "type4": Ranks.of(200),
}
"""The paper's types. Type 3 is rank 30 on attention and 200 on the FFN; whatever is neither
follows the FFN, so that the type resolves on any model that has attention layers."""

MIXES: dict[str, dict[str, float]] = {
    "uniform": {"type1": 0.25, "type2": 0.25, "type3": 0.25, "type4": 0.25},
    "heavy-tail-light": {"type1": 0.80, "type2": 0.05, "type3": 0.05, "type4": 0.10},
    "heavy-tail-strong": {"type1": 0.05, "type2": 0.05, "type3": 0.10, "type4": 0.80},
    "normal": {"type1": 0.06, "type2": 0.44, "type3": 0.44, "type4": 0.06},
}
"""The paper's mixes. "normal" follows its figure (types 2 and 3 dominate), not the released code,
which puts the mass on types 3 and 4."""

_TOLERANCE = 1e-6
LARGEST_SCALE = 1e3
LARGEST_RANK = 10**6


@dataclass(frozen=True)
class Mix:
    """Which types of client there are, and the share of the clients that is of each type.

    types: type name → ranks; shares: type name → share. Shares are at least 0 and sum to 1 within
    1e-6; each has its type, and types without a share are dropped. Raises ConfigError otherwise.
    """

    types: Mapping[str, Ranks]
    shares: Mapping[str, float]

    def __post_init__(self) -> None:
        for name, share in self.shares.items():
            if name not in self.types:
                raise ConfigError(
                    f"client type {shown(name)} of the mix is unknown; {nearest(name, self.types)}"
                )
            if not 0.0 <= share <= 1.0 + _TOLERANCE:
                raise ConfigError(
                    f"share of client type {shown(name)} is {share}; give a number from 0 to 1"
                )
        total = math.fsum(self.shares.values())
        if abs(total - 1.0) > _TOLERANCE:
            raise ConfigError(f"shares of the mix sum to {total:g}; change them to sum to 1")
        for name in self.shares:
            for pattern, rank in self.types[name].patterns:
                require_rank(rank, f"for {shown(pattern)} of client type {shown(name)}")
        object.__setattr__(self, "types", {name: self.types[name] for name in self.shares})
        object.__setattr__(self, "shares", dict(self.shares))

    def counts(self, clients: int) -> dict[str, int]:
        """Type name → how many of this many clients, by largest remainder; sums to `clients`.

        Each count is within 1 of share · clients. Equal remainders go to the type that comes
        first in the mix.
        """
        total = math.fsum(self.shares.values())
        quotas = {name: share / total * clients for name, share in self.shares.items()}
        counts = {name: math.floor(quota) for name, quota in quotas.items()}
        # Rounding keeps 0.3 · 10 and 0.3 · 20 from being ordered by their last bits.
        order = sorted(counts, key=lambda name: -round(quotas[name] - counts[name], 9))
        for name in order[: clients - sum(counts.values())]:
            counts[name] += 1
        return counts


def build_mix(
    mix: str | Mapping[str, float],
    types: Mapping[str, Ranks | int | Mapping[str, int]] | None = None,
    scale: float = 1.0,
) -> Mix:
    """A mix by name, or of one's own: type name → share.

    `types` adds to the paper's types or redefines them. Every rank, also of one's own types, is
    multiplied by `scale` (see `Ranks.scaled`): the paper's ranks fit a model of width 2048.
    Raises ConfigError for an unknown mix or type, wrong shares, and a scale that is not positive.
    """
    if not 0.0 < scale <= LARGEST_SCALE:
        raise ConfigError(
            f"scale of the mix is {shown(scale)}; give a number above 0 and at most "
            f"{LARGEST_SCALE:,.0f}"
        )
    if isinstance(mix, str):
        if mix not in MIXES:
            raise ConfigError(f"mix {shown(mix)} is unknown; {nearest(mix, MIXES)}")
        mix = MIXES[mix]
    # Checked before scaling, which would lift a wrong rank of 0 or less to 1.
    plain = Mix(_all_types(types), mix)
    scaled = {name: ranks.scaled(scale) for name, ranks in plain.types.items()}
    return Mix(scaled, plain.shares)


def scaled_types(
    types: Mapping[str, Ranks | int | Mapping[str, int]] | None = None, scale: float = 1.0
) -> dict[str, Ranks]:
    """All types that there may be, also those without a share in a mix; see `build_mix`."""
    return {name: ranks.scaled(scale) for name, ranks in _all_types(types).items()}


def _all_types(types: Mapping[str, Ranks | int | Mapping[str, int]] | None) -> dict[str, Ranks]:
    own = {
        name: ranks if isinstance(ranks, Ranks) else Ranks.of(ranks)
        for name, ranks in (types or {}).items()
    }
    return {**TYPES, **own}


def require_rank(rank: int, what: str) -> None:
    """Raise ConfigError for a rank that no client can have."""
    if rank < 1:
        raise ConfigError(f"rank {rank} {what} is below 1; give a rank of 1 or more")
    if rank > LARGEST_RANK:
        raise ConfigError(f"rank {shown(rank)} {what} is above {LARGEST_RANK:,}; lower it")


def draw(
    mix: Mix,
    clients: Sequence[str],
    generator: torch.Generator,
    known: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Client id → type name, in the order of `clients`.

    By quota: the counts are `mix.counts(len(clients))`, so they match the shares as closely as
    whole clients can; who is of which type is a shuffle by `generator`. The same set of clients
    and the same seed give the same types, in whatever order the clients come.

    known: client → type of those that have one already. They keep it; the others are drawn so that
    all of the mix's types together come as close to its shares as can be. Types that the mix does
    not have count for no share. Raises ConfigError for a client that is named twice.
    """
    there = set(clients)
    ids = sorted(there)
    if len(ids) != len(clients):
        twice = next(name for name in ids if list(clients).count(name) > 1)
        raise ConfigError(f"client {shown(twice)} is named more than once; give each its own id")
    fixed = {name: kind for name, kind in (known or {}).items() if name in there}
    free = [name for name in ids if name not in fixed]
    counts = _counts_of_the_rest(mix, len(free), list(fixed.values()))
    names = [name for name, count in counts.items() for _ in range(count)]
    order = torch.randperm(len(free), generator=generator).tolist()
    drawn = {free[place]: name for place, name in zip(order, names, strict=True)}
    return {client: fixed.get(client) or drawn[client] for client in clients}


def _counts_of_the_rest(mix: Mix, free: int, fixed: Sequence[str]) -> dict[str, int]:
    """Type → how many of the `free` clients; what the fixed ones are too many of is not undone."""
    held = Counter(kind for kind in fixed if kind in mix.shares)
    wanted = mix.counts(free + held.total())
    lacking = {name: max(0, count - held[name]) for name, count in wanted.items()}
    total = sum(lacking.values())
    if total == free:
        return lacking
    return Mix(mix.types, {name: count / total for name, count in lacking.items()}).counts(free)
