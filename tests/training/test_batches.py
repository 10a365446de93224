"""Plans cover, repeat and stay deterministic; batches pad and label as transformers expects."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flexlora.training import collate, plan


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
def test_collate(loss_on: str) -> None:
    examples = [
        SimpleNamespace(prompt=(5, 6, 7), response=(8, 2)),
        SimpleNamespace(prompt=(5,), response=(9, 9, 2)),
    ]
    batch = collate(examples, 0, loss_on=loss_on)
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 2], [5, 9, 9, 2, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    assert batch.tokens == 9
    if loss_on == "response":
        assert batch.labels.tolist() == [[-100, -100, -100, 8, 2], [-100, 9, 9, 2, -100]]
        assert batch.learnt == 5
    else:
        assert batch.labels.tolist() == [[5, 6, 7, 8, 2], [5, 9, 9, 2, -100]]
        assert batch.learnt == 7  # Nothing predicts the first token.
