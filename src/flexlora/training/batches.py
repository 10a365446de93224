"""Which examples a client sees in which order, and how clients' batches become tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice

import torch
from jaxtyping import Int
from torch import Tensor

from flexlora.models.prefixes import branches
from flexlora.tasks.prompts import Encoded

_WINDOW = 8  # Batches whose examples are sorted by length together.


@dataclass(frozen=True, eq=False)
class Batch:
    """The batches of K clients in one tensor, client after client.

    input_ids: rows padded on the right to the longest; or, packed, one row of all sequences without
    any padding, `positions` counting anew in each. lengths: tokens of every sequence, in order;
    where a client's sequences begin alike, of their pieces, and paths[k] the earlier pieces that
    piece k goes on from (see `models.branching`), else ().
    shares: sequences of each client, or tokens where packed (see `Carried.share`); own: those that
    are not padding, which come first.
    places: where in the flattened `input_ids` the next token is learnt; targets: that token;
    owners: the client. learnt, tokens: of each client, padding not counted, and what examples begin
    with alike as often as they do. read: the places whose hidden states are needed to the end,
    client after client, and reads, how many of each: those that are learnt, and where shares are
    even as many more as make these even too.
    """

    input_ids: Int[Tensor, "b t"]
    positions: Int[Tensor, "1 t"] | None
    lengths: tuple[int, ...]
    paths: tuple[tuple[int, ...], ...]
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


@dataclass(frozen=True)
class _Piece:
    """Tokens of one client that stand together, at positions from `start` on.

    first: the first of them that is learnt, and all after it. path: the client's earlier pieces
    that it goes on from.
    """

    tokens: tuple[int, ...]
    first: int
    start: int = 0
    path: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.tokens)


def collate(
    clients: Sequence[Sequence[Encoded]],
    pad: int,
    *,
    loss_on: str = "response",
    packed: bool = False,
    branched: bool = False,
    even: bool = False,
    device: torch.device | str = "cpu",
) -> Batch:
    """One batch of each client, side by side.

    loss_on "response": the response's tokens are learnt; "all": all but a sequence's first, which
    nothing predicts. branched: of a packed batch, what a client's sequences begin with alike, and
    nobody learns, is there once. even: give all clients the same share, by sequences of padding
    that nobody learns from.
    """
    whole = [[_sequence(x, loss_on) for x in examples] for examples in clients]
    pieces = [_branched(mine) if packed and branched else mine for mine in whole]
    own = tuple(sum(map(len, mine)) if packed else len(mine) for mine in pieces)
    if even:
        longest = max(len(x) for mine in pieces for x in mine) if packed else 1
        pieces = [
            mine + _padding(max(own) - have, longest, pad)
            for mine, have in zip(pieces, own, strict=True)
        ]
    numbers = [len(mine) for mine in pieces]
    every = [x for mine in pieces for x in mine]
    lengths = tuple(map(len, every))
    width = max(lengths)
    begins = list(accumulate(lengths, initial=0)) if packed else range(0, len(every) * width, width)
    rows = [x.tokens if packed else x.tokens + (pad,) * (width - len(x)) for x in every]
    flat = torch.tensor([token for row in rows for token in row], device=device)
    spans = [
        range(begin + x.first, begin + len(x)) for begin, x in zip(begins, every, strict=False)
    ]
    learnt = torch.tensor([place for span in spans for place in span])
    by_client = _by_client(map(len, spans), numbers)
    places = learnt - 1
    shares = _by_client(lengths if packed else [1] * len(every), numbers)
    each = [share * (1 if packed else width) for share in shares]
    read, reads = _evenly(places, by_client, each) if even else (places, by_client)
    before = accumulate(numbers, initial=0)
    return Batch(
        input_ids=flat[None] if packed else flat.view(len(every), width),
        positions=torch.cat(
            [torch.arange(x.start, x.start + len(x), device=device) for x in every]
        )[None]
        if packed
        else None,
        lengths=lengths,
        paths=tuple(
            tuple(begin + k for k in x.path)
            for begin, mine in zip(before, pieces, strict=False)
            for x in mine
        ),
        shares=shares,
        own=own,
        places=places.to(device),
        targets=flat[learnt.to(device)],
        owners=torch.repeat_interleave(
            torch.arange(len(clients)), torch.tensor(by_client), output_size=sum(by_client)
        ).to(device),
        learnt=by_client,
        tokens=tuple(sum(map(len, mine)) for mine in whole),
        read=read.to(device),
        reads=reads,
    )


def _sequence(x: Encoded, loss_on: str) -> _Piece:
    return _Piece((*x.prompt, *x.response), max(len(x.prompt) if loss_on == "response" else 0, 1))


def _branched(sequences: Sequence[_Piece]) -> list[_Piece]:
    """The same with what they begin with alike in pieces of its own.

    The token before the first that is learnt stays with it: its place is read, for this sequence.
    """
    cut = branches([x.tokens for x in sequences], [x.first - 1 for x in sequences])
    firsts = {s: x.first - cut.segments[s].start for s, x in zip(cut.last, sequences, strict=True)}
    return [
        _Piece(x.tokens, firsts.get(s, len(x.tokens)), x.start, tuple(cut.path(x.before)))
        for s, x in enumerate(cut.segments)
    ]


def _padding(missing: int, longest: int, pad: int) -> list[_Piece]:
    """So much of a share, in sequences of at most `longest`: a model has no positions beyond."""
    counts = [min(longest, missing - begin) for begin in range(0, missing, longest)]
    return [_Piece((pad,) * count, count) for count in counts]


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


def _by_client(counts: Iterable[int], numbers: Sequence[int]) -> tuple[int, ...]:
    """Sums of the next so many counts each."""
    rest = iter(counts)
    return tuple(sum(islice(rest, number)) for number in numbers)
