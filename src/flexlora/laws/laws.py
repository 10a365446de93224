"""The laws: what any sound aggregator of adapters of different ranks does, whatever its method.

Each tries one case and says what every client should have got and what it did get. Products are
compared, never factors: (B M, M⁻¹ A) is the same adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from flexlora.adapters import Factors
from flexlora.laws.aggregator import Make, Sent, ask
from flexlora.laws.cases import ABSENT, WATCHER, Case
from flexlora.lowrank import lapack_svd

_SAME = 1e-4  # Relative: more than rounding does to what is the same.


@final
@dataclass(frozen=True, eq=False)
class Trial:
    """What one client should have got, and what it got: ΔW in float64, (m, n).

    ranks: client → rank, of the federation; sent: of the round; done: what was done, in words.
    error: ‖came − wanted‖ / ‖wanted‖ in the Frobenius norm, not divided where `wanted` is zero; or
    as the law says.
    """

    client: str
    ranks: Mapping[str, int]
    sent: Sequence[Sent]
    done: str
    wanted: Tensor | str
    came: Tensor | str
    error: float


@final
@dataclass(frozen=True)
class Law:
    """name: one word; says: one sentence; later: whether it is of later rounds, too."""

    name: str
    says: str
    later: bool
    tried: Callable[[Make, Case], Iterator[Trial]]


LAWS: dict[str, Law] = {}


def law(
    says: str, *, later: bool = True
) -> Callable[[Callable[[Make, Case], Iterator[Trial]]], Law]:
    """Make a law of a function, under the function's name."""

    def made(tried: Callable[[Make, Case], Iterator[Trial]]) -> Law:
        name = tried.__name__
        LAWS[name] = Law(name, says, later, tried)
        return LAWS[name]

    return made


@law("The same federation, played once more from its beginning, gives the same.")
def again(make: Make, case: Case) -> Iterator[Trial]:
    return _unchanged(make, case, "then by a new aggregator, with nothing changed", lambda _, x: x)


@law("One client alone, of full rank, gets back what it sent.", later=False)
def alone(make: Make, case: Case) -> Iterator[Trial]:
    sent = case.sent("ann", case.full)
    ranks = {"ann": case.full}
    came = ask(make(), [sent], ranks)["ann"]
    yield _compared("ann", ranks, [sent], "nobody else is there", sent.product(), came)


@law("The same ΔW from all clients, at different ranks and scales, gives that ΔW.", later=False)
def agree(make: Make, case: Case) -> Iterator[Trial]:
    rank = min(case.ranks.values())
    b = case.gaussian("their b", case.m, rank).double()
    a = case.gaussian("their a", rank, case.n).double()
    sent = [_as_sent(case, client, case.ranks[client], b, a) for client in case.senders]
    handed = ask(make(), sent, case.ranks)
    for client in case.ranks:
        yield _compared(client, case.ranks, sent, "all send one ΔW", b @ a, handed[client])


@law("Scaling α against B changes nothing: (c · B, scale / c) is the same as (B, scale).")
def scale(make: Make, case: Case) -> Iterator[Trial]:
    def stretched(place: int, x: Sent) -> Sent:
        by = (4.0, 0.25, 0.5, 8.0)[place % 4]
        return replace(x, b=x.b * by, scale=x.scale / by)

    return _unchanged(
        make, case, "then with B times 4, 0.25, … and the scale divided by that", stretched
    )


@law("Only products count: (B M, M⁻¹ A) is the same as (B, A).")
def basis(make: Make, case: Case) -> Iterator[Trial]:
    def turned(_place: int, x: Sent) -> Sent:
        mixing = case.mixing(x.client, x.rank)
        a = torch.linalg.solve(mixing, x.a.double()).float()
        return replace(x, b=(x.b.double() @ mixing).float(), a=a)

    return _unchanged(make, case, "then with B M and M⁻¹ A for an invertible M", turned)


@law("The order of clients changes nothing.")
def order(make: Make, case: Case) -> Iterator[Trial]:
    aggregator, sent = case.begun(make)
    handed = ask(aggregator, sent, case.ranks)
    for changed in (sent[::-1], [*sent[1:], sent[0]]):
        again = ask(case.begun(make)[0], changed, case.ranks)
        done = f"then in the order {', '.join(x.client for x in changed)}"
        for client in case.ranks:
            yield _compared(client, case.ranks, sent, done, _product(handed[client]), again[client])


@law("Weights scale out: doubling all of them changes nothing.")
def weights(make: Make, case: Case) -> Iterator[Trial]:
    return _unchanged(
        make,
        case,
        "then with all weights doubled",
        lambda _, x: replace(x, weight=2.0 * x.weight),
    )


@law("A client of weight zero changes nothing for the others, whatever it sends.")
def absent(make: Make, case: Case) -> Iterator[Trial]:
    without, sent = case.begun(make)
    handed = ask(without, sent, case.ranks)
    beside, more = case.begun(make, [*case.senders, ABSENT])
    more[-1] = replace(more[-1], weight=0.0)
    again = ask(beside, more, case.ranks)
    for client in [*case.senders, WATCHER]:
        done = f"first without {ABSENT}, then with it"
        yield _compared(client, case.ranks, more, done, _product(handed[client]), again[client])


@law("A client of rank r gets the best approximation of rank r of what the top client gets.")
def best(make: Make, case: Case) -> Iterator[Trial]:
    aggregator, sent = case.begun(make)
    handed = ask(aggregator, sent, case.ranks)
    top = max(case.ranks, key=lambda client: case.ranks[client])
    u, s, vh = lapack_svd(_product(handed[top]))
    for client, rank in case.ranks.items():
        wanted = (u[:, :rank] * s[:rank]) @ vh[:rank]
        yield _compared(client, case.ranks, sent, f"{top} is at the top", wanted, handed[client])


@law("A client of rank r gets r directions at most: those beyond it would train, too.")
def rank(make: Make, case: Case) -> Iterator[Trial]:
    """error: the directions too many, as a share of r."""
    aggregator, sent = case.begun(make)
    handed = ask(aggregator, sent, case.ranks)
    for client, rank in case.ranks.items():
        came = _directions(handed[client])
        yield Trial(
            client,
            case.ranks,
            sent,
            "each is handed an adapter",
            f"{rank} at most",
            f"{came} directions",
            max(0, came - rank) / rank,
        )


@law("What is sent counts, in every round: where all send another ΔW, all get another.")
def counts(make: Make, case: Case) -> Iterator[Trial]:
    """error: 1 where a client gets the same for both, else 0."""
    aggregator, sent = case.begun(make, list(case.ranks))
    handed = ask(aggregator, sent, case.ranks)
    mirrored = [replace(x, b=x.b.flip(0), a=x.a.flip(1)) for x in sent]
    again = ask(case.begun(make)[0], mirrored, case.ranks)
    for client in case.ranks:
        trial = _compared(
            client,
            case.ranks,
            sent,
            "then with every B upside down and every A from right to left",
            _product(handed[client]),
            again[client],
        )
        wanted = "another than without that"
        yield replace(trial, wanted=wanted, error=float(trial.error <= _SAME))


def _unchanged(
    make: Make, case: Case, done: str, change: Callable[[int, Sent], Sent]
) -> Iterator[Trial]:
    """What clients get for what they sent, and for what was made of that."""
    aggregator, sent = case.begun(make)
    handed = ask(aggregator, sent, case.ranks)
    changed = [change(place, x) for place, x in enumerate(sent)]
    again = ask(case.begun(make)[0], changed, case.ranks)
    for client in case.ranks:
        yield _compared(client, case.ranks, sent, done, _product(handed[client]), again[client])


def _as_sent(case: Case, client: str, rank: int, b: Tensor, a: Tensor) -> Sent:
    """b @ a as a client of this rank might send it: beyond its rank, directions of no effect."""
    more, scale, mixing = rank - a.shape[0], case.scale(client), case.mixing(client, rank)
    unused = case.gaussian(f"{client}'s rest", more, case.n).double()
    wide = torch.cat([b / scale, b.new_zeros(case.m, more)], dim=1) @ mixing
    tall = torch.linalg.solve(mixing, torch.cat([a, unused]))
    return Sent(client, wide.float(), tall.float(), scale, case.weight(client))


def _compared(
    client: str,
    ranks: Mapping[str, int],
    sent: Sequence[Sent],
    done: str,
    wanted: Tensor,
    came: Factors,
) -> Trial:
    got = _product(came)
    error = float((got - wanted).norm()) / (float(wanted.norm()) or 1.0)
    return Trial(client, ranks, sent, done, wanted, got, error)


def _product(factors: Factors) -> Tensor:
    return factors.scale * (factors.b.double() @ factors.a.double())


def _directions(factors: Factors) -> int:
    """Those that have a gradient: where b and a are both zero, nothing ever moves."""
    return int((factors.b.any(dim=0) | factors.a.any(dim=1)).sum())
