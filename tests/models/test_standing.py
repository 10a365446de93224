"""W₀ + Δ of a layer in half precision: by Δ's factors while these are few, else as one matrix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from flexlora.lowrank import LowRank
from flexlora.models.lora import LoRALinear
from flexlora.models.standing import Form, form_of
from models.layers import CLIENTS, KERNELS, M, N, carry, draw, make
from reference import there

HALF = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
PLAIN = pytest.mark.parametrize("kind", ["linear", "conv1d"])


def of_width(width: int) -> LowRank:
    return LowRank(draw(M, width, seed=3).float(), draw(width, N, seed=4).float())


def trained(layer: LoRALinear, x: Tensor, *, stacked: bool = False) -> dict[str, Tensor]:
    """What three clients' rows come to, there and back."""
    carried = carry(layer, CLIENTS, stacked=stacked)
    seen = x.clone().requires_grad_()
    y = layer(seen)
    y.float().square().sum().backward()
    found = {"y": y.detach(), "x": there(seen.grad)}
    layer.carry(None)
    return found | {f"client {k}": t.gradient for k, t in enumerate(carried.trainables)}


@HALF
@PLAIN
@pytest.mark.parametrize("lacks", [False, True])
def test_the_matrix_is_taken_where_it_saves_memory_or_time(
    kind: str, dtype: torch.dtype, lacks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flexlora.models.widened.lacks_bfloat16", lambda: lacks)
    base = make(kind, dtype).base
    forms: list[Form] = [form_of(base, of_width(width)) for width in range(1, N + 1)]
    most = 1 if lacks and dtype == torch.bfloat16 else M * N // (M + N)
    assert forms == ["branch"] * most + ["dense"] * (N - most)


def test_it_is_never_taken_of_what_is_no_plain_matrix_or_can_hold_the_sum() -> None:
    wide = of_width(N)
    assert form_of(make("subclass", torch.bfloat16).base, wide) == "branch"
    assert form_of(make("linear", torch.float32).base, wide) == "merged"
    assert form_of(make("linear", torch.float64).base, wide) == "merged"


@HALF
@PLAIN
@KERNELS
def test_both_forms_are_one_layer_but_for_rounding(
    kind: str, dtype: torch.dtype, stacked: bool
) -> None:
    layer, x = make(kind, dtype), draw(6, N, seed=1).to(dtype)
    before, delta = layer.weight.clone(), of_width(4)
    found = {}
    for form in ("branch", "dense"):
        layer.set_delta(delta, form=form)
        assert torch.equal(layer.weight, before)
        found[form] = trained(layer, x, stacked=stacked)
        with torch.no_grad():
            found[form]["alone"] = layer(x)
    rounding = 3 * torch.finfo(dtype).eps
    for name, one in found["branch"].items():
        other = found["dense"][name]
        assert one.dtype == other.dtype, name
        off = (one.double() - other.double()).norm() / one.double().norm()
        assert off < rounding, name
    layer.set_delta(None)
    with torch.no_grad():
        assert torch.equal(layer(x), make(kind, dtype)(x))


@HALF
@PLAIN
def test_small_deltas_are_not_lost(kind: str, dtype: torch.dtype) -> None:
    """One that is an eighth of the weight's last bit, and would be rounded away in it."""
    layer = make(kind, dtype)
    weight = layer.weight if kind == "linear" else layer.weight.T
    dense = weight.double() * torch.finfo(dtype).eps / 8
    u, s, v = torch.linalg.svd(dense, full_matrices=False)
    layer.set_delta(LowRank((u * s).float(), v.float()))
    bias = there(layer.bias).double()
    x = draw(N, N, seed=1).to(dtype)
    # In float32 what is computed is seen before the result is rounded.
    plain = layer._plain()
    assert plain is not None
    assert plain.wide
    found = plain.there(x.float()).double() - bias
    wanted = x.double() @ (weight.double() + dense).T
    assert (found - wanted).norm() < 1e-5 * wanted.norm()
    assert (x.double() @ dense.T).norm() > 1e-5 * wanted.norm()


def test_it_takes_the_products_of_a_float32_layer() -> None:
    """Whose Δ is in its weight."""
    counted = []
    for dtype in (torch.float32, torch.bfloat16):
        layer, x = make("linear", dtype), draw(6, N).to(dtype)
        layer.set_delta(of_width(N))
        with FlopCounterMode(display=False) as counter:
            trained(layer, x)
        counted.append(counter.get_total_flops())
    assert counted[0] == counted[1] > 0


def test_a_hook_on_the_base_is_not_passed_over() -> None:
    """Libraries that move or watch weights hang hooks on layers."""
    layer, x = make("linear", torch.bfloat16), draw(6, N).bfloat16()
    layer.set_delta(of_width(N))
    calls = []
    wanted = trained(layer, x) | {"alone": layer(x)}
    with layer.base.register_forward_hook(lambda *_: calls.append(0)):
        found = trained(layer, x) | {"alone": layer(x)}
    assert len(calls) == 2
    for name, one in wanted.items():
        assert torch.allclose(one.float(), found[name].float(), rtol=0.05, atol=0.05), name
