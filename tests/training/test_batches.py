"""Plans cover, repeat and stay deterministic; batches pad and label as transformers expects."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flexlora.tasks.prompts import Encoded
from flexlora.training import collate, plan
from models.oracle import encoded, padded


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(
    lengths=st.lists(st.integers(1, 50), max_size=70),
    batch_size=st.integers(1, 9),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 2**31),
)
def test_every_epoch_holds_each_example_once(
    lengths: list[int], batch_size: int, epochs: int, seed: int
) -> None:
    batches = plan(lengths, batch_size, epochs, seeded(seed))
    per_epoch = -(-len(lengths) // batch_size)
    assert len(batches) == epochs * per_epoch
    for epoch in range(epochs):
        mine = batches[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert sorted(i for cut in mine for i in cut) == list(range(len(lengths)))
        assert sum(len(b) < batch_size for b in mine) <= 1
    assert batches == plan(lengths, batch_size, epochs, seeded(seed))
    cut = plan(lengths, batch_size, epochs, seeded(seed), max_steps=2)
    assert cut == batches[:2]


def test_plans_differ_by_epoch_and_seed_and_save_padding() -> None:
    generator = seeded(0)
    lengths = torch.randint(5, 200, (200,), generator=generator).tolist()
    batches = plan(lengths, 4, 2, seeded(1))
    assert batches[:50] != batches[50:]
    assert batches != plan(lengths, 4, 2, seeded(2))

    def padded(cuts: list[list[int]]) -> int:
        return sum(len(cut) * max(lengths[i] for i in cut) for cut in cuts)

    plain = [list(range(i, i + 4)) for i in range(0, 200, 4)]
    assert padded(batches[:50]) < 0.75 * padded(plain)


def test_long_and_short_batches_are_mixed() -> None:
    lengths = list(range(1, 401))
    starts = torch.zeros(50)
    for seed in range(200):
        starts += torch.tensor([b[0] for b in plan(lengths, 8, 1, seeded(seed))])
    assert (starts / 200 - 200).abs().max() < 50  # No place in the epoch is for long ones.


@pytest.mark.parametrize("loss_on", ["response", "all"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("even", [False, True])
def test_collate_is_the_plain_batches_side_by_side(loss_on: str, packed: bool, even: bool) -> None:
    """What is learnt where, by whom: as transformers' labels say, client by client."""
    clients = [encoded(3, seed=1), encoded(1, seed=2), encoded(2, seed=3)]
    batch = collate(clients, 0, loss_on=loss_on, packed=packed, even=even)
    begin, learnt = 0, []
    flat = batch.input_ids.flatten()
    width = batch.input_ids.shape[1]
    for client, examples in enumerate(clients):
        plain = padded(examples, loss_on=loss_on)
        labels = plain["labels"].clone()
        labels[:, 0] = -100  # Nothing predicts the first token.
        mine = batch.owners == client
        places, targets = batch.places[mine], batch.targets[mine]
        wanted = labels[labels != -100]
        assert torch.equal(targets, wanted)
        assert torch.equal(flat[places + 1], wanted)  # Within a row: the place before.
        assert batch.learnt[client] == len(wanted)
        assert batch.tokens[client] == int(plain["attention_mask"].sum())
        rows = batch.shares[client] * (1 if packed else width)
        assert bool(((begin <= places) & (places < begin + rows)).all())
        read = torch.split(batch.read, list(batch.reads))[client]
        assert set(places.tolist()) <= set(read.tolist()) <= set(range(begin, begin + rows))
        assert len(set(read.tolist())) == batch.reads[client]
        real = torch.cat([torch.tensor((*x.prompt, *x.response)) for x in examples])
        seen = flat[begin : begin + rows]
        if packed:
            assert torch.equal(seen[: len(real)], real)
            assert not seen[len(real) :].any()
        else:
            block = seen.view(-1, width)[: len(examples)]
            cut = plain["input_ids"].shape[1]
            assert torch.equal(block[:, :cut], plain["input_ids"])
            assert not block[:, cut:].any()
        begin += rows
        learnt += wanted.tolist()
    assert begin == flat.numel()
    assert batch.targets.tolist() == learnt
    if even:
        assert len(set(batch.shares)) == 1
        assert batch.reads == (max(batch.learnt),) * len(clients)
    else:
        assert torch.equal(batch.read, batch.places)
        assert batch.reads == batch.learnt
        wanted_shares = batch.tokens if packed else tuple(map(len, clients))
        assert batch.shares == wanted_shares
    assert batch.own == (batch.tokens if packed else tuple(map(len, clients)))
    if packed:
        assert batch.positions is not None
        assert sum(batch.lengths) == flat.numel()
        counted = [place for length in batch.lengths for place in range(length)]
        assert batch.positions.tolist() == [counted]
    else:
        assert batch.positions is None
        assert batch.input_ids.shape[0] == len(batch.lengths)


def test_no_padding_is_longer_than_the_longest_sequence() -> None:
    """A model has no positions beyond its context, and attention costs the square."""
    many, one = encoded(9, seed=1), encoded(1, seed=2)
    batch = collate([many, one], 0, packed=True, even=True)
    longest = max(len(x.prompt) + len(x.response) for x in (*many, *one))
    assert sum(batch.lengths) > 4 * longest
    assert max(batch.lengths) == longest


def test_collate_by_hand() -> None:
    clients = [
        [Encoded("a", "", (5, 6, 7), (8, 2), ("x",))],
        [Encoded("b", "", (5,), (9, 4, 2), ("x",))],
    ]
    batch = collate(clients, 0)
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 2], [5, 9, 4, 2, 0]]
    assert batch.places.tolist() == [2, 3, 5, 6, 7]
    assert batch.targets.tolist() == [8, 2, 9, 4, 2]
    assert batch.owners.tolist() == [0, 0, 1, 1, 1]
    row = collate(clients, 0, packed=True, even=True)
    assert row.input_ids.tolist() == [[5, 6, 7, 8, 2, 5, 9, 4, 2, 0]]
    assert row.lengths == (5, 4, 1)
    assert row.shares == (5, 5)
    assert row.places.tolist() == [2, 3, 5, 6, 7]
    assert row.tokens == (5, 4)


@given(
    prompts=st.lists(
        st.lists(
            st.tuples(st.integers(0, 40), st.lists(st.integers(3, 5), min_size=1, max_size=4)),
            min_size=1,
            max_size=4,
        ),
        min_size=1,
        max_size=3,
    ),
    loss_on=st.sampled_from(["response", "all"]),
    even=st.booleans(),
)
def test_what_examples_begin_with_is_there_once_and_nothing_else_changes(
    prompts: list[list[tuple[int, list[int]]]], loss_on: str, even: bool
) -> None:
    clients = [
        [Encoded(f"{i}", "", (*range(10, 10 + n), *end), (7, *end, 2), ("x",)) for i, (n, end) in e]
        for e in map(enumerate, prompts)
    ]
    plain = collate(clients, 0, loss_on=loss_on, packed=True, even=even)
    batch = collate(clients, 0, loss_on=loss_on, packed=True, branched=True, even=even)
    assert batch.positions is not None
    assert (batch.learnt, batch.tokens) == (plain.learnt, plain.tokens)
    assert sum(batch.own) <= sum(plain.own)
    ids, positions = batch.input_ids[0].tolist(), batch.positions[0].tolist()
    begins = [sum(batch.lengths[:k]) for k in range(len(batch.lengths))]
    spans = [range(b, b + n) for b, n in zip(begins, batch.lengths, strict=True)]
    # Every place is read within one sequence: what comes before it, and the token that it learns.
    found: list[list[tuple[list[int], int]]] = [[] for _ in clients]
    piece_of = {place: k for k, span in enumerate(spans) for place in span}
    for place, target, owner in zip(
        batch.places.tolist(), batch.targets.tolist(), batch.owners.tolist(), strict=True
    ):
        span = spans[piece_of[place]]
        path = [x for k in batch.paths[piece_of[place]] for x in spans[k]]
        seen = [*path, *range(span.start, place + 1)]
        assert [positions[x] for x in seen] == list(range(len(seen)))
        found[owner].append(([ids[x] for x in seen], target))
    for mine, examples in zip(found, clients, strict=True):
        wanted = []
        for x in examples:
            row = [*x.prompt, *x.response]
            first = len(x.prompt) if loss_on == "response" else 1
            wanted += [(row[:place], row[place]) for place in range(first, len(row))]
        assert sorted(mine) == sorted(wanted)
    begin = 0
    for own, share in zip(batch.own, batch.shares, strict=True):
        assert not any(ids[begin + own : begin + share])
        begin += share
    assert begin == len(ids)
    assert not even or len(set(batch.shares)) == 1


def test_a_beginning_by_hand() -> None:
    begin = tuple(range(10, 30))
    clients = [
        [
            Encoded("a", "", (*begin, 5), (8, 2), ("x",)),
            Encoded("b", "", (*begin, 4), (9,), ("x",)),
        ],
        [Encoded("c", "", begin, (6,), ("x",))],
    ]
    batch = collate(clients, 0, packed=True, branched=True)
    assert batch.lengths == (20, 2, 3, 21)
    assert batch.paths == ((), (0,), (0,), ())
    assert batch.input_ids[0, 20:25].tolist() == [4, 9, 5, 8, 2]
    assert batch.positions is not None
    assert batch.positions[0, 20:25].tolist() == [20, 21, 20, 21, 22]
    assert batch.places.tolist() == [20, 22, 23, 44]
    assert batch.targets.tolist() == [9, 8, 2, 6]
    assert (batch.own, batch.tokens) == ((25, 21), (45, 21))
