"""One LoRA layer: shapes, padding, clients apart, Δ merged and as a branch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from flexlora.adapters import Factors
from flexlora.errors import AdapterError
from flexlora.lowrank import LowRank
from flexlora.models.lora import LoRALinear, linear_shape

M, N = 7, 5


def make(kind: str = "linear", dtype: torch.dtype = torch.float64) -> LoRALinear:
    torch.manual_seed(3)
    module = nn.Linear(N, M) if kind == "linear" else Conv1D(M, N)
    nn.init.normal_(module.bias)
    return LoRALinear(module.to(dtype).requires_grad_(False), "layer")


def factors(rank: int, seed: int, scale: float = 2.0) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return Factors(draw(M, rank), draw(rank, N), scale)


def dense(part: LowRank, layer: LoRALinear) -> torch.Tensor:
    return part.dense().to(layer.weight.dtype)


CLIENTS = (factors(3, 1, 2.0), factors(1, 2, 0.5), factors(4, 3, 1.25))


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_the_layer_is_the_dense_formula(kind: str) -> None:
    layer = make(kind)
    x = torch.randn(2, 6, N, dtype=torch.float64)
    plain = layer(x)
    layer.start([CLIENTS[0]])
    assert torch.allclose(layer(x), plain + x @ CLIENTS[0].product().dense().T)
    layer.stop()
    assert torch.equal(layer(x), plain)


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
@pytest.mark.parametrize("origin", [False, True])
def test_three_mixed_ranks_equal_three_single_layers(kind: str, origin: bool) -> None:
    x = torch.randn(6, 4, N, dtype=torch.float64)
    target = torch.randn(6, 4, M, dtype=torch.float64)
    delta = LowRank(torch.randn(M, 2).double(), torch.randn(2, N).double())
    batched = make(kind)
    batched.set_delta(delta, merge=False)
    together = batched.start(CLIENTS, origin=origin)
    singles = [make(kind) for _ in CLIENTS]
    for single, client in zip(singles, CLIENTS, strict=True):
        single.set_delta(delta, merge=True)
        single.start([client], origin=origin)
    optimisers = [torch.optim.AdamW(x.parameters(), lr=0.05, weight_decay=0.1) for x in singles]
    joint = torch.optim.AdamW(together, lr=0.05, weight_decay=0.1)
    for _ in range(5):
        joint.zero_grad()
        losses = (batched(x) - target).square().view(3, -1).mean(1)
        losses.sum().backward()
        for k, (single, optimiser) in enumerate(zip(singles, optimisers, strict=True)):
            optimiser.zero_grad()
            rows = slice(2 * k, 2 * k + 2)
            loss = (single(x[rows]) - target[rows]).square().mean()
            loss.backward()
            rank = CLIENTS[k].rank
            assert torch.allclose(loss, losses[k], atol=1e-12)
            assert torch.allclose(batched.a.grad[k, :rank], single.a.grad[0], atol=1e-12)
            assert torch.allclose(batched.b.grad[k, :, :rank], single.b.grad[0], atol=1e-12)
            optimiser.step()
        joint.step()
    for mine, single in zip(batched.trained(), singles, strict=True):
        alone = single.trained()[0]
        assert mine.scale == alone.scale
        assert torch.allclose(mine.a, alone.a, atol=1e-10)
        assert torch.allclose(mine.b, alone.b, atol=1e-10)


@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_padding_stays_zero_and_true_ranks_come_back(
    optimiser: type[torch.optim.Optimizer], weight_decay: float
) -> None:
    layer = make()
    a, b = layer.start(CLIENTS)
    steps = optimiser([a, b], lr=0.1, weight_decay=weight_decay)
    for _ in range(4):
        steps.zero_grad()
        layer(torch.randn(3, 2, N, dtype=torch.float64)).square().sum().backward()
        steps.step()
    for k, client in enumerate(CLIENTS):
        assert not a[k, client.rank :].any()
        assert not b[k, :, client.rank :].any()
        assert not torch.equal(a[k, : client.rank], client.a)
    assert [x.rank for x in layer.trained()] == [3, 1, 4]


def test_gradients_of_one_client_ignore_the_others() -> None:
    layer = make()
    x = torch.randn(3, 4, N, dtype=torch.float64)
    grads = []
    for change in (0.0, 100.0):
        layer.start(CLIENTS)
        changed = x.clone()
        changed[1] += change
        layer(changed).square().sum().backward()
        grads.append((layer.a.grad.clone(), layer.b.grad.clone()))
    (a0, b0), (a1, b1) = grads
    assert torch.equal(a0[[0, 2]], a1[[0, 2]])
    assert torch.equal(b0[[0, 2]], b1[[0, 2]])
    assert not torch.allclose(a0[1], a1[1])


def test_rows_must_divide_by_the_clients() -> None:
    layer = make()
    layer.start(CLIENTS)
    with pytest.raises(AdapterError, match="layer layer got 4 rows for 3 clients"):
        layer(torch.randn(4, N, dtype=torch.float64))


@pytest.mark.parametrize("clients", [1, 3])
def test_origin_cancels_at_the_start_and_lets_gradients_through(clients: int) -> None:
    layer = make()
    x = torch.randn(3, 4, N, dtype=torch.float64)
    plain = layer(x)
    layer.start(CLIENTS[:clients], origin=True)
    assert torch.allclose(layer(x), plain, atol=1e-12)
    layer(x).square().sum().backward()
    with_origin = layer.b.grad.clone()
    assert with_origin.abs().max() > 0.1
    # The same as if Δ held minus the origin.
    alone = make()
    alone.set_delta(CLIENTS[0].product().scaled(-1.0))
    alone.start([CLIENTS[0]])
    alone(x[: 3 // clients]).square().sum().backward()
    assert torch.allclose(with_origin[0, :, :3], alone.b.grad[0])


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_merged_equals_unmerged_and_restores_bit_for_bit(kind: str, dtype: torch.dtype) -> None:
    layer = make(kind, dtype)
    before = layer.weight.clone()
    x = torch.randn(2, 3, N, dtype=dtype)
    plain = layer(x)
    first = LowRank(torch.randn(M, 2), torch.randn(2, N))
    second = LowRank(torch.randn(M, 3), torch.randn(3, N))
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for delta in (first, second):  # Cumulative: the second replaces the first.
        layer.set_delta(delta)
        merged = layer(x)
        assert not torch.equal(layer.weight, before)
        layer.set_delta(delta, merge=False)
        assert torch.equal(layer.weight, before)
        assert torch.allclose(layer(x), merged, atol=tolerance)
        assert torch.allclose(merged, plain + x @ dense(delta, layer).T, atol=tolerance)
    layer.set_delta(second)
    layer.set_delta(None)
    assert torch.equal(layer.weight, before)
    assert torch.equal(layer(x), plain)


def test_a_bfloat16_base_keeps_small_deltas_and_float32_adapters() -> None:
    layer = make(dtype=torch.bfloat16)
    before = layer.weight.clone()
    delta = LowRank(torch.randn(M, 1) * 1e-4, torch.randn(1, N))
    layer.set_delta(delta)
    assert torch.equal(layer.weight, before)
    x = torch.randn(2, 3, N).bfloat16()
    assert layer(x).dtype == torch.bfloat16
    weight = before.float() + delta.dense()
    lost = weight.bfloat16().float() - before.float()
    assert (lost - delta.dense()).norm() > 0.2 * delta.norm()  # What merging would have lost.
    layer.base.weight.data.zero_()
    layer.base.bias.data.zero_()
    assert torch.allclose(layer(x).float(), x.float() @ delta.dense().T, rtol=0.01)
    layer.set_delta(None)
    a, b = layer.start([Factors(CLIENTS[0].b.float(), CLIENTS[0].a.float(), 2.0)])
    assert a.dtype == b.dtype == torch.float32
    assert layer(x).dtype == torch.bfloat16
    layer(x).float().square().sum().backward()
    assert a.grad.dtype == torch.float32


def test_dropout_is_inverted_comes_from_its_generator_and_spares_origin_and_delta() -> None:
    layer = make()
    x = torch.ones(3, 200, N, dtype=torch.float64)
    plain = layer(x)

    def generators(*seeds: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    state = torch.get_rng_state()
    layer.start(CLIENTS, dropout=0.5, generators=generators(1, 2, 3))
    batched = layer(x)
    assert torch.equal(torch.get_rng_state(), state)
    for k, client in enumerate(CLIENTS):
        layer.start([client], dropout=0.5, generators=generators(k + 1))
        assert torch.allclose(layer(x[k : k + 1]), batched[k : k + 1], atol=1e-12)
        mask = torch.empty(200, N, dtype=torch.float64)
        mask.bernoulli_(0.5, generator=torch.Generator().manual_seed(k + 1))
        expected = plain[k] + (2.0 * mask * x[k]) @ client.product().dense().T
        assert torch.allclose(batched[k], expected, atol=1e-9)
    layer.start([CLIENTS[0]], origin=True, dropout=0.5, generators=generators(1))
    update = CLIENTS[0].product().dense().T
    layer_without = batched[:1] - x[:1] @ update
    assert torch.allclose(layer(x[:1]), layer_without, atol=1e-9)


def test_rank_zero_and_odd_inputs() -> None:
    layer = make()
    layer.start([factors(0, 1), factors(2, 2)])
    x = torch.randn(4, 3, N, dtype=torch.float64).transpose(0, 1).contiguous().transpose(0, 1)
    out = layer(x)  # Not contiguous.
    assert torch.allclose(out[:2], layer.base(x)[:2])
    assert torch.allclose(out[2:], layer.base(x)[2:] + x[2:] @ factors(2, 2).product().dense().T)
    assert layer.trained()[0].rank == 0
    layer.start([factors(0, 1)])
    assert torch.allclose(layer(x), layer.base(x))


def test_refusals_name_the_layer() -> None:
    layer = make()
    wrong = Factors(torch.zeros(N, 2), torch.zeros(2, M), 1.0)
    with pytest.raises(AdapterError, match="layer layer of adapter 1 is for 5 × 7, expected 7 × 5"):
        layer.start([CLIENTS[0], wrong])
    with pytest.raises(AdapterError, match="delta of layer layer is 5 × 7, expected 7 × 5"):
        layer.set_delta(wrong.product())
    with pytest.raises(ValueError, match="dropout needs 1 generators"):
        layer.start([CLIENTS[0]], dropout=0.1)


def test_linear_like_modules() -> None:
    assert linear_shape(nn.Linear(3, 4)) == (4, 3)
    assert linear_shape(Conv1D(4, 3)) == (4, 3)
    assert linear_shape(nn.Embedding(4, 3)) is None
    assert linear_shape(nn.Conv1d(4, 3, 1)) is None


@pytest.mark.parametrize("merge", [True, False])
def test_a_delta_that_cannot_be_made_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, merge: bool
) -> None:
    """Out of memory half way: the layer keeps its old Δ, and takes the new one when asked again."""
    layer = make("linear", torch.float32)
    x = torch.randn(2, 3, N)
    first = LowRank(torch.randn(M, 2), torch.randn(2, N))
    second = LowRank(torch.randn(M, 3), torch.randn(3, N))
    layer.set_delta(first, merge=merge)
    before = layer(x)
    with monkeypatch.context() as patched:

        def exhausted(*_: object, **__: object) -> Tensor:
            raise torch.OutOfMemoryError("tried to allocate 3 GiB")

        patched.setattr(Tensor, "to", exhausted)
        with pytest.raises(torch.OutOfMemoryError):
            layer.set_delta(second, merge=merge)
    assert torch.equal(layer(x), before)
    layer.set_delta(second, merge=merge)
    assert torch.allclose(layer(x) - before, x @ (second - first).dense().T, atol=1e-4)
