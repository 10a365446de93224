"""Trainables and what carries them: layout, padding, rows, leaving, dropout, checkpointing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from flexlora.adapters import Adapter
from flexlora.models.carried import Carried
from flexlora.models.dropping import kept
from flexlora.models.trainable import Live, Trainable
from models.layers import CLIENTS, KERNELS, KINDS, M, N, carry, draw, factors, make
from reference import there

CPU = torch.device("cpu")


def two_layers(rank: int, seed: int) -> Adapter:
    return Adapter({"x": factors(rank, seed), "y": factors(rank + 1, seed + 1, 0.5)})


def trainable(adapter: Adapter, pad: dict[str, int] | None = None) -> Trainable:
    return Trainable(adapter, dtype=torch.float64, device=CPU, pad=pad)


def test_a_trainable_is_a_copy_in_one_vector() -> None:
    adapter = two_layers(2, 0)
    before = {name: (f.b.clone(), f.a.clone()) for name, f in adapter.items()}
    held = trainable(adapter, {"x": 4, "y": 1})  # A pad below the rank does nothing.
    assert held.vector.shape == held.gradient.shape == ((4 + 3) * (M + N),)
    again = held.trained("base")
    assert again.base == "base"
    for name, (b, a) in before.items():
        assert torch.equal(again[name].b, b)
        assert torch.equal(again[name].a, a)
        assert again[name].scale == adapter[name].scale
    held.vector.data += 1.0
    assert torch.equal(held.trained("")["x"].b, before["x"][0] + 1.0)
    assert torch.equal(again["x"].b, before["x"][0])
    assert all(torch.equal(adapter[n].b, b) for n, (b, _) in before.items())


@KERNELS
def test_a_penalty_adds_its_gradient_at_the_clients_own_rank(stacked: bool) -> None:
    layer = make()
    carried = carry(layer, CLIENTS, stacked=stacked)
    one = carried.trainables[1]
    one.gradient.fill_(1.0)
    seen = []

    def penalty(live: Live, sent: Live) -> torch.Tensor:
        (b, a) = live["layer"]
        seen.append((b.shape, a.shape))
        assert all(map(torch.equal, live["layer"], sent["layer"]))
        return (b**2).sum() + 3.0 * a.sum()

    one.add_gradient_of(penalty)
    pair, client = one.pairs["layer"], CLIENTS[1]
    assert seen == [(client.b.shape, client.a.shape)]
    grad_a, grad_bt = there(pair.grad_a), there(pair.grad_bt)
    assert torch.allclose(grad_bt[:1], 1.0 + 2.0 * client.b.T)
    assert torch.allclose(grad_a[:1], torch.full_like(client.a, 4.0))
    assert bool((grad_a[1:] == 1.0).all())
    before = one.gradient.clone()
    one.add_gradient_of(lambda *_: None)
    one.add_gradient_of(lambda *_: torch.tensor(3.0))
    assert torch.equal(one.gradient, before)
    one.add_gradient_of(lambda live, _: live["layer"][0].sum())  # `a` is not in it.
    assert torch.allclose(there(pair.grad_bt)[:1], 2.0 + 2.0 * client.b.T)


@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("origin", [False, True])
@pytest.mark.parametrize("shares", [(2, 2, 2), (1, 2, 3)])
def test_padding_stays_zero_and_true_ranks_come_back(
    optimiser: Callable[..., torch.optim.Optimizer],
    weight_decay: float,
    origin: bool,
    shares: tuple[int, ...],
) -> None:
    layer = make()
    carried = carry(layer, CLIENTS, stacked=True, origin=origin)
    carried.share(shares)
    steps = [
        optimiser([x.vector], lr=0.1, weight_decay=weight_decay, fused=True)
        for x in carried.trainables
    ]
    for step in range(4):
        (layer(draw(6, N, seed=step)) - 1.0).square().sum().backward()
        for one, held in zip(steps, carried.trainables, strict=True):
            one.step()
            held.gradient.zero_()
    for client, held in zip(CLIENTS, carried.trainables, strict=True):
        pair = held.pairs["layer"]
        assert pair.a.shape[0] == pair.bt.shape[0] == 4
        assert not pair.a[client.rank :].any()
        assert not pair.bt[client.rank :].any()
        assert not torch.equal(pair.a[: client.rank], client.a)
    assert [x.trained("")["layer"].rank for x in carried.trainables] == [3, 1, 4]


def test_stacked_views_are_the_trainables_own_numbers() -> None:
    adapters = [two_layers(rank, rank) for rank in (2, 1)]
    carried = Carried([trainable(x, {"x": 2, "y": 3}) for x in adapters], stacked=True)
    for name in "xy":
        stack = carried.stack(name)
        assert stack is not None
        for k, held in enumerate(carried.trainables):
            pair = held.pairs[name]
            for view, own in (
                (stack.a, pair.a),
                (stack.bt, pair.bt),
                (there(stack.grad_a), there(pair.grad_a)),
                (there(stack.grad_bt), there(pair.grad_bt)),
            ):
                assert view[k].data_ptr() == own.data_ptr()
                assert torch.equal(view[k], own)
        assert stack.scales.flatten().tolist() == [x[name].scale for x in adapters]
        assert stack.origin is None
    assert Carried(carried.trainables).stack("x") is None


@KERNELS
def test_clients_leave_with_what_they_have(stacked: bool) -> None:
    layer = make()
    carried = carry(layer, CLIENTS, stacked=stacked, origin=True)
    x = draw(4, N)
    whole = [carry(make(), [client], origin=True) for client in CLIENTS]
    layer.carry(carried)
    carried.trainables[1].vector.data *= 2.0
    gone = carried.trainables[1]
    carried.keep([2, 0])
    assert carried.shares == (1, 1)
    layer(x).square().sum().backward()
    for held, k, rows in ((carried.trainables[0], 2, x[:2]), (carried.trainables[1], 0, x[2:])):
        alone = make()
        alone.carry(whole[k])
        alone(rows).square().sum().backward()
        pair, other = held.pairs["layer"], whole[k].trainables[0].pairs["layer"]
        assert torch.allclose(there(pair.grad_bt)[: pair.rank], there(other.grad_bt))
        assert torch.allclose(there(pair.grad_a)[: pair.rank], there(other.grad_a))
    assert not gone.gradient.any()
    assert torch.equal(gone.trained("")["layer"].b, 2.0 * CLIENTS[1].b)
    carried.keep([])
    assert carried.trainables == []


def test_shares_and_seeds_are_one_a_client() -> None:
    carried = carry(make(), CLIENTS)
    carried.share((1, 2, 3))
    assert carried.rows(12, "layer") == [2, 4, 6]
    with pytest.raises(ValueError, match="shares are 2 for 3 clients"):
        carried.share((1, 2))
    with pytest.raises(ValueError, match="are 1 for 3 clients"):
        carried.sow((1,))


@KERNELS
@pytest.mark.parametrize("index", [0, 3])
def test_dropout_is_inverted_comes_from_its_seed_and_spares_origin_and_delta(
    stacked: bool, index: int
) -> None:
    layer = make(index=index)
    x = torch.ones(3, 200, N, dtype=torch.float64)
    plain = layer(x)
    state = torch.get_rng_state()
    carry(layer, CLIENTS, stacked=stacked, dropout=0.2).sow((1, 2, 3))
    batched = layer(x)
    assert torch.equal(torch.get_rng_state(), state)
    for k, client in enumerate(CLIENTS):
        carry(layer, [client], stacked=stacked, dropout=0.2).sow((k + 1,))
        assert torch.allclose(layer(x[k : k + 1]), batched[k : k + 1], atol=1e-12)
        mask = kept((200, N), 0.2, k + 1 + index).double()
        assert 0.75 < float(mask.mean()) < 0.85
        expected = plain[k] + (mask / 0.8 * x[k]) @ client.product().dense().T
        assert torch.allclose(batched[k], expected, atol=1e-9)
    carry(layer, [CLIENTS[0]], stacked=stacked, origin=True, dropout=0.2).sow((1,))
    without = batched[:1] - x[:1] @ CLIENTS[0].product().dense().T
    assert torch.allclose(layer(x[:1]), without, atol=1e-9)
    carry(layer, [CLIENTS[0]], dropout=0.2)
    with pytest.raises(ValueError, match="zip"):
        layer(x[:1])  # Nobody has sown.


@KERNELS
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_activations_made_anew_give_the_same_gradients(
    kind: str, stacked: bool, dropout: float
) -> None:
    layer = make(kind)
    found = []
    for again in (False, True):
        carried = carry(layer, CLIENTS, stacked=stacked, origin=True, dropout=dropout)
        carried.sow((4, 5, 6))
        x = draw(6, N, seed=1).requires_grad_()
        calls: list[int] = []
        layer.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        out = checkpoint(layer, x, use_reentrant=False) if again else layer(x)
        out.square().sum().backward()
        assert len(calls) == 1 + again
        found.append((there(x.grad), *(held.gradient.clone() for held in carried.trainables)))
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))
    assert found[0][1].any()
