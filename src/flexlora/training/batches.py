"""Which examples a client sees in which order, and how clients' batches become tensors."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from jaxtyping import Int
from torch import Tensor

from flexlora.tasks.prompts import Encoded

_WINDOW = 8  # Batches whose examples are sorted by length together.


@dataclass(frozen=True, eq=False)
class Batch:
    """The batches of K clients in one tensor, client after client.

    input_ids: rows padded on the right to the longest; or, packed, one row of all sequences without
    any padding, `positions` counting anew in each. lengths: tokens of every sequence, in order.
    shares: sequences of each client, or tokens where packed (see `Carried.share`); own: those that
    are not padding, which come first.
    places: where in the flattened `input_ids` the next token is learnt; targets: that token;
    owners: the client. learnt, tokens: of each client, padding not counted. read: the places whose
    hidden states are needed to the end, client after client, and reads, how many of each: those
    that are learnt, and where shares are even as many more as make these even too.
    """

    input_ids: Int[Tensor, "b t"]
    positions: Int[Tensor, "1 t"] | None
    lengths: tuple[int, ...]
    shares: tuple[int, ...]
    own: tuple[int, ...]
    places: Int[Tensor, " p"]
    targets: Int[Tensor, " p"]
    owners: Int[Tensor, " p"]
    learnt: tuple[int, ...]
    tokens: tuple[int, ...]
    read: Int[Tensor, " r"]
    reads: tuple[int, ...]


def plan(
    lengths: Sequence[int],
    batch_size: int,
    epochs: int,
    generator: torch.Generator,
    max_steps: int | None = None,
) -> list[list[int]]:
    """Batches of indices into `lengths` (tokens per example), in the order of training.

    Every epoch holds each example exactly once: shuffled, sorted by length inside windows of a few
    batches (less padding), cut into batches, the batches shuffled again. At most one batch of an
    epoch is smaller than batch_size. `max_steps` cuts the plan. Depends on nothing but the
    arguments and the state of `generator`.
    """
    batches: list[list[int]] = []
    for _ in range(epochs):
        order = torch.randperm(len(lengths), generator=generator).tolist()
        cuts: list[list[int]] = []
        for start in range(0, len(order), _WINDOW * batch_size):
            window = order[start : start + _WINDOW * batch_size]
            window.sort(key=lengths.__getitem__)
            cuts += [window[i : i + batch_size] for i in range(0, len(window), batch_size)]
        shuffled = torch.randperm(len(cuts), generator=generator).tolist()
        batches += [cuts[i] for i in shuffled]
        if max_steps is not None and len(batches) >= max_steps:
            return batches[:max_steps]
    return batches


def collate(
    clients: Sequence[Sequence[Encoded]],
    pad: int,
    *,
    loss_on: str = "response",
    packed: bool = False,
    even: bool = False,
    device: torch.device | str = "cpu",
) -> Batch:
    """One batch of each client, side by side.

    loss_on "response": the response's tokens are learnt; "all": all but a sequence's first, which
    nothing predicts. even: give all clients the same share, by sequences of padding that nobody
    learns from.
    """
    rows: list[tuple[int, ...]] = []
    firsts: list[int] = []  # In each row, the first place whose token is learnt.
    owners: list[int] = []
    for client, examples in enumerate(clients):
        for x in examples:
            rows.append((*x.prompt, *x.response))
            firsts.append(max(len(x.prompt) if loss_on == "response" else 0, 1))
            owners.append(client)
    tokens = _by_client(owners, map(len, rows), len(clients))
    own = tokens if packed else tuple(map(len, clients))
    if even:
        _even_out(rows, firsts, owners, own, pad, packed=packed)
    width = max(map(len, rows))
    lengths = tuple(map(len, rows))
    begins = list(accumulate(lengths, initial=0)) if packed else range(0, len(rows) * width, width)
    if not packed:
        rows = [row + (pad,) * (width - len(row)) for row in rows]
    flat = torch.tensor([token for row in rows for token in row], device=device)
    spans = [
        range(begin + first, begin + length)
        for begin, first, length in zip(begins, firsts, lengths, strict=False)
    ]
    learnt = torch.tensor([place for span in spans for place in span])
    counts = list(map(len, spans))
    shares = _by_client(owners, lengths if packed else [1] * len(rows), len(clients))
    by_client = _by_client(owners, counts, len(clients))
    places = learnt - 1
    each = [share * (1 if packed else width) for share in shares]
    read, reads = _evenly(places, by_client, each) if even else (places, by_client)
    return Batch(
        input_ids=flat[None] if packed else flat.view(len(rows), width),
        positions=torch.cat([torch.arange(n, device=device) for n in lengths])[None]
        if packed
        else None,
        lengths=lengths,
        shares=shares,
        own=own,
        places=places.to(device),
        targets=flat[learnt.to(device)],
        owners=torch.repeat_interleave(
            torch.tensor(owners), torch.tensor(counts), output_size=sum(counts)
        ).to(device),
        learnt=by_client,
        tokens=tokens,
        read=read.to(device),
        reads=reads,
    )


def _even_out(
    rows: list[tuple[int, ...]],
    firsts: list[int],
    owners: list[int],
    have: Sequence[int],
    pad: int,
    *,
    packed: bool,
) -> None:
    """Put sequences of padding after each client's own until all have the same share."""
    longest = max(map(len, rows)) if packed else 1  # Beyond it a model may have no positions.
    for client in reversed(range(len(have))):
        missing = max(have) - have[client]
        begins = range(0, missing, longest)
        extra = [(pad,) * min(longest, missing - begin) for begin in begins]
        end = bisect_right(owners, client)
        rows[end:end] = extra
        firsts[end:end] = map(len, extra)  # None of it is learnt.
        owners[end:end] = [client] * len(extra)


def _evenly(
    places: Tensor, counts: Sequence[int], rows: Sequence[int]
) -> tuple[Tensor, tuple[int, ...]]:
    """Each client's places, and others of its rows until all have as many."""
    most, begin, found = max(counts), 0, []
    for mine, count in zip(torch.split(places, list(counts)), rows, strict=True):
        others = torch.ones(count, dtype=torch.bool)
        others[mine - begin] = False
        more = others.nonzero().flatten()[: most - len(mine)] + begin
        found.append(torch.cat((mine, more)))
        begin += count
    return torch.cat(found), (most,) * len(rows)


def _by_client(owners: Sequence[int], counts: Iterable[int], clients: int) -> tuple[int, ...]:
    sums = [0] * clients
    for owner, count in zip(owners, counts, strict=True):
        sums[owner] += count
    return tuple(sums)
