"""One LoRA layer: the dense formula, clients apart, Δ merged and as a branch."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from flexlora.adapters import Factors
from flexlora.errors import AdapterError
from flexlora.lowrank import LowRank
from flexlora.models import lora
from flexlora.models.dropping import kept
from flexlora.models.lora import LoRALinear
from flexlora.models.standing import Form
from models.layers import CLIENTS, KERNELS, KINDS, M, N, carry, draw, factors, make
from reference import there

BASES = pytest.mark.parametrize("kind", KINDS)


@BASES
@KERNELS
def test_the_layer_is_the_dense_formula(kind: str, stacked: bool) -> None:
    layer = make(kind)
    x = draw(2, 6, N)
    plain = layer(x)
    carry(layer, [CLIENTS[0]], stacked=stacked)
    assert torch.allclose(layer(x), plain + x @ CLIENTS[0].product().dense().T)
    layer.carry(None)
    assert torch.equal(layer(x), plain)


@BASES
@KERNELS
@pytest.mark.parametrize("origin", [False, True])
@pytest.mark.parametrize("shares", [(8, 8, 8), (3, 16, 5)])
@pytest.mark.parametrize("form", ["branch", "dense"])
def test_three_mixed_ranks_equal_three_single_layers(
    kind: str, stacked: bool, origin: bool, shares: tuple[int, ...], form: Form
) -> None:
    x, target = draw(24, N, seed=1), draw(24, M, seed=2)
    delta = LowRank(draw(M, 2, seed=3), draw(2, N, seed=4))
    joint = make(kind)
    joint.set_delta(delta, form=form)
    together = carry(joint, CLIENTS, stacked=stacked, origin=origin)
    together.share(shares)
    singles = [make(kind) for _ in CLIENTS]
    alone = []
    for single, client in zip(singles, CLIENTS, strict=True):
        single.set_delta(delta, form="merged")
        alone += carry(single, [client], origin=origin).trainables
    mine, theirs = (
        [torch.optim.AdamW([x.vector], lr=0.05, weight_decay=0.1) for x in trainables]
        for trainables in (together.trainables, alone)
    )
    rows = torch.split(x, list(shares)), torch.split(target, list(shares))
    for _ in range(5):
        found = torch.split((joint(x) - target).square(), list(shares))
        losses = [part.mean() for part in found]
        torch.stack(losses).sum().backward()
        for k, (single, seen, wanted) in enumerate(zip(singles, *rows, strict=True)):
            loss = (single(seen) - wanted).square().mean()
            loss.backward()
            assert torch.allclose(loss, losses[k], atol=1e-12)
            pair, other = together.trainables[k].pairs["layer"], alone[k].pairs["layer"]
            grad_a, grad_bt = there(other.grad_a), there(other.grad_bt)
            assert torch.allclose(there(pair.grad_a)[: pair.rank], grad_a, atol=1e-12)
            assert torch.allclose(there(pair.grad_bt)[: pair.rank], grad_bt, atol=1e-12)
            assert float(grad_a.norm()) > 1e-3
            for steps, trainable in ((mine[k], together.trainables[k]), (theirs[k], alone[k])):
                steps.step()
                trainable.gradient.zero_()
    for one, lone in zip(together.trainables, alone, strict=True):
        left, right = one.trained("")["layer"], lone.trained("")["layer"]
        assert left.scale == right.scale
        assert torch.allclose(left.a, right.a, atol=1e-10)
        assert torch.allclose(left.b, right.b, atol=1e-10)


@BASES
@KERNELS
@pytest.mark.parametrize("origin", [False, True])
@pytest.mark.parametrize("shares", [(2, 2, 2), (1, 2, 3)])
@pytest.mark.parametrize("form", ["branch", "dense"])
def test_gradients_are_those_of_the_written_formula(
    kind: str, stacked: bool, origin: bool, shares: tuple[int, ...], form: Form
) -> None:
    """The factors' and the input's, with Δ beside the base and dropout, by torch's own autograd."""
    layer = make(kind)
    delta = LowRank(draw(M, 2, seed=3), draw(2, N, seed=4))
    layer.set_delta(delta, form=form)
    carried = carry(layer, CLIENTS, stacked=stacked, origin=origin, dropout=0.5)
    carried.share(shares)
    carried.sow((1, 2, 3))
    x = draw(6, N, seed=1).requires_grad_()
    layer(x).square().sum().backward()
    seen = x.detach().clone().requires_grad_()
    leaves = [(c.b.clone().requires_grad_(), c.a.clone().requires_grad_()) for c in CLIENTS]
    parts = []
    for k, (mine, (b, a)) in enumerate(zip(torch.split(seen, list(shares)), leaves, strict=True)):
        keep = kept((shares[k], N), 0.5, k + 1).double()
        part = layer.base(mine) + mine @ delta.dense().T
        part = part + CLIENTS[k].scale * (2.0 * keep * mine) @ a.T @ b.T
        parts.append(part - (mine @ CLIENTS[k].product().dense().T if origin else 0.0))
    torch.cat(parts).square().sum().backward()
    assert torch.allclose(there(x.grad), there(seen.grad), atol=1e-10)
    for trainable, (b, a) in zip(carried.trainables, leaves, strict=True):
        pair = trainable.pairs["layer"]
        assert torch.allclose(there(pair.grad_a)[: pair.rank], there(a.grad), atol=1e-10)
        assert torch.allclose(there(pair.grad_bt)[: pair.rank], there(b.grad).T, atol=1e-10)


@KERNELS
def test_gradients_of_one_client_ignore_the_others(stacked: bool) -> None:
    layer = make()
    x = draw(3, 4, N)
    found = []
    for change in (0.0, 100.0, float("nan")):
        carried = carry(layer, CLIENTS, stacked=stacked)
        changed = x.clone()
        changed[1] += change
        layer(changed).square().sum().backward()
        found.append([trainable.gradient.clone() for trainable in carried.trainables])
    for other in found[1:]:
        assert torch.equal(found[0][0], other[0])
        assert torch.equal(found[0][2], other[2])
        assert not torch.allclose(found[0][1], other[1])


@KERNELS
def test_who_looks_at_the_base_sees_its_own_output(stacked: bool) -> None:
    """It goes through its own autograd then, which may need what it made."""
    layer = make()
    x = draw(3, N)
    plain = layer(x)
    carry(layer, CLIENTS, stacked=stacked)
    wanted = layer(x)
    seen: list[Tensor] = []
    layer.base.register_forward_hook(lambda _layer, _x, y: seen.append(y))
    assert torch.allclose(layer(x), wanted)
    assert torch.equal(seen[0], plain)


@KERNELS
def test_gradients_add_up_until_they_are_cleared(stacked: bool) -> None:
    layer = make()
    carried = carry(layer, CLIENTS, stacked=stacked)
    x = draw(3, 4, N)
    layer(x).square().sum().backward()
    once = [trainable.gradient.clone() for trainable in carried.trainables]
    layer(x).square().sum().backward()
    for trainable, gradient in zip(carried.trainables, once, strict=True):
        assert torch.allclose(trainable.gradient, 2.0 * gradient)


@KERNELS
@pytest.mark.parametrize("clients", [1, 3])
def test_origin_cancels_at_the_start_and_lets_gradients_through(
    clients: int, stacked: bool
) -> None:
    layer = make()
    x = draw(3, 4, N)
    plain = layer(x)
    carried = carry(layer, CLIENTS[:clients], stacked=stacked, origin=True)
    assert torch.allclose(layer(x), plain, atol=1e-12)
    layer(x).square().sum().backward()
    with_origin = there(carried.trainables[0].pairs["layer"].grad_bt)
    assert with_origin.abs().max() > 0.1
    # The same as if Δ held minus the origin.
    alone = make()
    alone.set_delta(CLIENTS[0].product().scaled(-1.0))
    other = carry(alone, [CLIENTS[0]])
    alone(x[: 3 // clients]).square().sum().backward()
    assert torch.allclose(with_origin[:3], there(other.trainables[0].pairs["layer"].grad_bt))


@BASES
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_merged_equals_unmerged_and_restores_bit_for_bit(kind: str, dtype: torch.dtype) -> None:
    layer = make(kind, dtype)
    before = layer.weight.clone()
    x = draw(2, 3, N).to(dtype)
    plain = layer(x)
    first = LowRank(draw(M, 2, seed=1), draw(2, N, seed=2))
    second = LowRank(draw(M, 3, seed=3), draw(3, N, seed=4))
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for delta in (first, second):  # Cumulative: the second replaces the first.
        layer.set_delta(delta)
        merged = layer(x)
        assert not torch.equal(layer.weight, before)
        for form in ("branch", "dense"):
            layer.set_delta(delta, form=form)
            assert torch.equal(layer.weight, before)
            assert torch.allclose(layer(x), merged, atol=tolerance)
        wanted = plain + x @ delta.dense().to(dtype).T
        assert torch.allclose(merged, wanted, atol=tolerance)
    layer.set_delta(second)
    layer.set_delta(None)
    assert torch.equal(layer.weight, before)
    assert torch.equal(layer(x), plain)


@BASES
def test_where_there_is_no_way_back_few_rows_at_a_time_are_widened(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = make(kind, dtype=torch.bfloat16)
    layer.set_delta(factors(2, 9).product(), form="branch")
    x = draw(2, 19, N).bfloat16()
    wanted, sizes = layer(x), list[int]()
    inner = LoRALinear._on_branch

    def noted(self: LoRALinear, outer: Tensor, x: Tensor) -> Tensor:
        sizes.append(len(outer))
        return inner(self, outer, x)

    monkeypatch.setattr(LoRALinear, "_on_branch", noted)
    monkeypatch.setattr(lora, "_BLOCK", 16)
    with torch.no_grad():
        found = layer(x)
    assert sizes == [16, 16, 6]
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), wanted.float(), rtol=0.01, atol=0.01)


@KERNELS
def test_a_bfloat16_base_keeps_small_deltas_and_float32_adapters(stacked: bool) -> None:
    layer = make(dtype=torch.bfloat16)
    before = layer.weight.clone()
    delta = LowRank(1e-4 * draw(M, 1, seed=1).float(), draw(1, N, seed=2).float())
    layer.set_delta(delta)
    assert torch.equal(layer.weight, before)
    x = draw(2, 3, N).bfloat16()
    assert layer(x).dtype == torch.bfloat16
    weight = before.float() + delta.dense()
    lost = weight.bfloat16().float() - before.float()
    assert (lost - delta.dense()).norm() > 0.2 * delta.norm()  # What merging would have lost.
    client = Factors(1e-4 * CLIENTS[0].b.float(), CLIENTS[0].a.float(), 2.0)
    base = layer.base
    assert isinstance(base, nn.Linear)
    pristine = base.weight.data.clone()
    base.weight.data.zero_()
    base.bias.data.zero_()
    wanted = x.float() @ delta.dense().T
    assert torch.allclose(layer(x).float(), wanted, rtol=0.01)
    carried = carry(layer, [client], stacked=stacked)
    both = wanted + x.float() @ client.product().dense().T
    assert torch.allclose(layer(x).float(), both, rtol=0.01, atol=1e-6)
    base.weight.data.copy_(pristine)
    seen = x.clone().requires_grad_()
    out = layer(seen)
    assert out.dtype == torch.bfloat16
    out.float().square().sum().backward()
    assert there(seen.grad).dtype == torch.bfloat16
    assert carried.trainables[0].vector.dtype == torch.float32
    assert carried.trainables[0].gradient.dtype == torch.float32
    assert carried.trainables[0].gradient.any()


@KERNELS
def test_rank_zero_and_odd_inputs(stacked: bool) -> None:
    layer = make()
    nothing, two = factors(0, 1), factors(2, 2)
    carried = carry(layer, [nothing, two], stacked=stacked)
    x = draw(4, 3, N).transpose(0, 1).contiguous().transpose(0, 1)
    out = layer(x)  # Not contiguous.
    assert torch.allclose(out[:2], layer.base(x)[:2])
    assert torch.allclose(out[2:], layer.base(x)[2:] + x[2:] @ two.product().dense().T)
    out.square().sum().backward()
    trained = [trainable.trained("")["layer"] for trainable in carried.trainables]
    assert [x.rank for x in trained] == [0, 2]
    assert not carried.trainables[0].gradient.any()
    carry(layer, [nothing], stacked=stacked, origin=True)
    seen = x.clone().requires_grad_()
    out = layer(seen)
    assert torch.allclose(out, layer.base(x))
    out.sum().backward()
    assert torch.allclose(there(seen.grad), layer.weight.sum(0).expand_as(x))
    assert layer(x[:0]).shape == (0, 3, M)


def test_refusals_name_the_layer() -> None:
    layer = make()
    wrong = Factors(torch.zeros(N, 2), torch.zeros(2, M), 1.0)
    with pytest.raises(AdapterError, match="delta of layer layer is 5 × 7, expected 7 × 5"):
        layer.set_delta(wrong.product())
    carry(layer, CLIENTS)
    with pytest.raises(AdapterError, match="layer layer got 4 rows for 3 clients that share 3"):
        layer(draw(4, N))


@pytest.mark.parametrize("form", get_args(Form))
def test_a_delta_that_cannot_be_made_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, form: Form
) -> None:
    """Out of memory half way: the layer keeps its old Δ, and takes the new one when asked again."""
    layer = make("linear", torch.float32)
    x = draw(2, 3, N).float()
    first = LowRank(draw(M, 2, seed=1).float(), draw(2, N, seed=2).float())
    second = LowRank(draw(M, 3, seed=3).float(), draw(3, N, seed=4).float())
    layer.set_delta(first, form=form)
    before = layer(x)
    with monkeypatch.context() as patched:

        def exhausted(*_: object, **__: object) -> Tensor:
            raise torch.OutOfMemoryError("tried to allocate 3 GiB")

        patched.setattr(Tensor, "to", exhausted)
        with pytest.raises(torch.OutOfMemoryError):
            layer.set_delta(second, form=form)
    assert torch.equal(layer(x), before)
    layer.set_delta(second, form=form)
    assert torch.allclose(layer(x) - before, x @ (second - first).dense().T, atol=1e-4)
