"""Bytes of a round under any rule: the rule is played on layers that stand for the real ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from flexlora.adapters import (
    Adapter,
    Delta,
    Factors,
    LayerSpec,
    Payload,
    Wire,
    coarse_payload_like,
    factors_payload,
)
from flexlora.adapters.delta import Patch
from flexlora.formats.delta import update_payload
from flexlora.formats.payloads import byte_count
from flexlora.laws.round import Round
from flexlora.lowrank import Dense, LowRank
from flexlora.rules import Rule, Spec, State

# Sums of a round's ranks up to which Δ is combined as it is: beyond, all ranks are cut alike, and
# Δ counted as many times wider.
_WIDEST = 192
_ROOM = 8  # Sides of a layer that stands for another, over the sum of ranks that it has to hold.
_ALPHA = 16.0
ROUNDS = (1, 2)  # Between whose sides rules alternate that train one at a time.


@dataclass(frozen=True)
class Traffic:
    """Of one client in one round, as serialised. ups: what it returns, in each of the rounds that
    were asked about; delta: what keeps its base up to date, for one that was there in the round
    before."""

    down: int
    ups: tuple[int, ...]
    delta: int

    @property
    def up(self) -> int:
        """In the round that takes most."""
        return max(self.ups)

    @property
    def mean_up(self) -> float:
        return sum(self.ups) / len(self.ups)

    @property
    def total(self) -> int:
        """Both ways, in the round that takes most."""
        return self.down + self.delta + self.up


def traffic(
    rule: Rule,
    layers: Sequence[LayerSpec],
    ranks: Mapping[str, Mapping[str, int]],
    cohort: Mapping[str, int],
    wire: Wire = "exact",
    rounds: Sequence[int] = ROUNDS,
) -> dict[str, Traffic]:
    """Class → its clients' bytes. ranks: class → layer → rank that it affords; cohort: class → how
    many of its clients are in a round (empty: Δ is not counted). wire: of adapters, both ways; Δ
    travels as it is. rounds: of which `Traffic.ups` tells.

    Factors are those of round 1, exactly; Δ is that of a round in which every client changed its
    adapter. A rule that prunes may send less.
    """
    likes = _likes(layers, ranks)
    sent = {name: likes.factors(rule, name, rounds) for name in ranks}
    some = rule.traits.delta != "none" and any(cohort.values())
    delta = _delta_bytes(rule, layers, ranks, cohort) if some else 0
    if rule.traits.alone:
        return dict.fromkeys(ranks, Traffic(0, (0,) * len(rounds), 0))
    return {
        name: Traffic(
            _size(layers, down, wire), tuple(_size(layers, up, wire) for up in ups), delta
        )
        for name, (down, ups) in sent.items()
    }


@dataclass(frozen=True)
class _Likes:
    """Layers of equal shapes and ranks have one that stands for them. of: layer → that one."""

    of: Mapping[str, str]
    spec: Spec
    ranks: Mapping[str, Mapping[str, int]]

    def factors(
        self, rule: Rule, name: str, rounds: Sequence[int]
    ) -> tuple[dict[str, Factors], list[dict[str, Factors]]]:
        """Layer → what this class is sent in round 1, and what it would return in each of these."""
        state = rule.init(self.spec, torch.Generator())
        mine = rule.ranks_for(self.spec, self.ranks[name])
        sent = rule.send(state, mine, torch.Generator(), name)
        received = rule.receive(sent, {})
        returned = [rule.reply(round, received, received, {}).adapter for round in rounds]
        return self._all(sent), [self._all(x) for x in returned]

    def _all(self, adapter: Adapter) -> dict[str, Factors]:
        return {layer: adapter[one] for layer, one in self.of.items()}


def _likes(
    layers: Sequence[LayerSpec], ranks: Mapping[str, Mapping[str, int]], room: int | None = None
) -> _Likes:
    """room: sides of the layers that stand for others at least, where the real ones have as much
    (default: as much as the highest rank takes)."""
    first: dict[tuple[int, ...], str] = {}
    of: dict[str, str] = {}
    for x in layers:
        key = (x.m, x.n, *(held[x.name] for held in ranks.values()))
        of[x.name] = first.setdefault(key, x.name)
    chosen = [x for x in layers if of[x.name] == x.name]
    highest = max(max(held.values()) for held in ranks.values())
    side = max(room or 0, highest)
    small = [LayerSpec(x.name, min(x.m, side), min(x.n, side)) for x in chosen]
    held = {name: {x.name: mine[x.name] for x in chosen} for name, mine in ranks.items()}
    return _Likes(of, Spec.of(small, list(held.values()), _ALPHA), held)


def _size(layers: Sequence[LayerSpec], factors: Mapping[str, Factors], wire: Wire) -> int:
    """Serialised, at the shapes of the real layers."""
    made = {}
    for x in layers:
        f = factors[x.name]
        b, a = _as_if(x.m, f.b.shape[1], f.b.dtype), _as_if(f.a.shape[0], x.n, f.a.dtype)
        made[x.name] = Adapter({x.name: Factors(b, a, f.scale)}).only(f.sides)[x.name]
    return byte_count(coarse_payload_like(factors_payload(Adapter(made)), wire))


def _delta_bytes(
    rule: Rule,
    layers: Sequence[LayerSpec],
    ranks: Mapping[str, Mapping[str, int]],
    cohort: Mapping[str, int],
) -> int:
    """Of the first step of Δ. Widths grow with ranks, so that few of these tell of many."""
    clients = [f"{name}/{k}" for name, count in cohort.items() for k in range(count)]
    kinds = [name for name, count in cohort.items() for _ in range(count)]
    widest = sum(max(ranks[name].values()) for name in kinds)
    cut = max(1, -(-widest // _WIDEST))
    held = {
        name: {layer: max(1, rank // cut) for layer, rank in mine.items()}
        for name, mine in ranks.items()
    }
    total = sum(max(held[name].values()) for name in kinds)
    likes = _likes(layers, held, room=_ROOM * total)
    begun = rule.init(likes.spec, torch.Generator())
    federation = {client: likes.ranks[kind] for client, kind in zip(clients, kinds, strict=True)}
    after = Round(rule, begun, federation, _changed).combined()
    return _update_size(layers, likes, begun, after, widest / total)


def _update_size(
    layers: Sequence[LayerSpec], likes: _Likes, begun: State, after: State, times: float
) -> int:
    """What a client lacks that held Δ as it was before the round."""
    specs = {x.name: x for x in layers}

    def real(held: Mapping[str, LowRank]) -> dict[str, LowRank]:
        return {
            layer: _wide(held[one], specs[layer], times)
            for layer, one in likes.of.items()
            if one in held
        }

    patches = tuple(Patch(x.version, real(x.layers)) for x in after.delta.patches)
    delta = Delta(after.delta.version, real(after.delta.layers), patches)
    update = delta.since(begun.delta.version)
    if update is None:
        return 0
    payload: Payload = update_payload(update)
    return byte_count(payload)


def _wide(held: LowRank, spec: LayerSpec, times: float) -> LowRank:
    """At the real shape, and as many times as wide; a whole matrix as one."""
    if held.whole is not None:
        return Dense(torch.zeros(spec.m, spec.n, dtype=held.left.dtype)).low_rank()
    width = min(round(times * held.width), spec.m, spec.n)
    return LowRank(_as_if(spec.m, width, held.left.dtype), _as_if(width, spec.n, held.right.dtype))


def _as_if(rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
    """A matrix of one number in memory."""
    return torch.zeros((), dtype=dtype).expand(rows, columns)


def _changed(client: str, received: Adapter) -> Adapter:
    """What a client returns that moved both sides at random."""
    draws = torch.Generator().manual_seed(sum(map(ord, client)))

    def moved(x: torch.Tensor) -> torch.Tensor:
        return x + torch.randn(x.shape, generator=draws, dtype=x.dtype)

    return Adapter({k: Factors(moved(f.b), moved(f.a), f.scale) for k, f in received.items()})
