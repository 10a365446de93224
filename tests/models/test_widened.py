"""Products in bfloat16 by way of float32: what instructions for bfloat16 give, on any processor."""

from __future__ import annotations

import copy
import platform
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from flexlora.models import packing, widened
from flexlora.models.linear_like import linear_shape
from flexlora.models.lora import LoRALinear
from flexlora.models.widened import WideLinear, attended, back, lacks_bfloat16, product, widen

HALF_A_STEP = 2.0**-8  # Of what is rounded to bfloat16.


@pytest.fixture(autouse=True)
def without_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widened, "lacks_bfloat16", lambda: True)
    monkeypatch.setattr(widened, "_BLOCK", 64)  # A few rows of a weight.


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(torch.bfloat16)


def rounded_once(found: Tensor, exact: Tensor, terms: Tensor) -> bool:
    """Whether nothing but one rounding, and float32's own, lies between them."""
    allowed = exact.abs() * HALF_A_STEP * 1.01 + terms * 1e-5
    return found.dtype == torch.bfloat16 and bool(((found.double() - exact).abs() <= allowed).all())


@given(rows=st.integers(0, 9), n=st.integers(1, 40), m=st.integers(1, 40), biased=st.booleans())
def test_a_product_is_rounded_once(rows: int, n: int, m: int, biased: bool) -> None:
    x, weight = normal(rows, n, seed=1), normal(m, n, seed=2)
    bias = normal(m, seed=3) if biased else None
    exact = functional.linear(x.double(), weight.double(), None if bias is None else bias.double())
    terms = x.double().abs() @ weight.double().abs().T + (0 if bias is None else bias.abs())
    assert rounded_once(product(x, weight, bias), exact, terms)


@given(rows=st.integers(0, 9), n=st.integers(1, 40), m=st.integers(1, 40))
def test_the_way_back_is_rounded_once(rows: int, n: int, m: int) -> None:
    y, weight = normal(rows, m, seed=1), normal(m, n, seed=2)
    terms = y.double().abs() @ weight.double().abs()
    assert rounded_once(back(y, weight), y.double() @ weight.double(), terms)


def test_a_turned_weight_has_the_same_products() -> None:
    x, weight = normal(2, 3, 24), normal(24, 40)  # As Conv1D holds it.
    assert torch.equal(product(x, weight.T, None), product(x, weight.T.contiguous(), None))


def test_a_layer_and_its_gradient() -> None:
    plain = nn.Linear(24, 40).to(torch.bfloat16).requires_grad_(False)
    wide = copy.deepcopy(plain)
    widen(wide)
    assert type(wide) is WideLinear
    x = normal(2, 3, 24).requires_grad_()
    y = wide(x)
    above = normal(2, 3, 40, seed=4)
    y.backward(above)
    assert x.grad is not None
    assert torch.equal(y, product(x.detach(), plain.weight, plain.bias))
    assert torch.equal(x.grad, back(above, plain.weight))


@given(rows=st.integers(0, 9), n=st.integers(1, 40), m=st.integers(1, 40))
def test_a_weight_that_is_trained_has_a_gradient_rounded_once(rows: int, n: int, m: int) -> None:
    wide = nn.Linear(n, m).to(torch.bfloat16)
    widen(wide)
    wide.weight.requires_grad_(True)
    x, above = normal(1, rows, n, seed=1), normal(1, rows, m, seed=2)
    wide(x).backward(above)
    assert wide.weight.grad is not None
    exact = above[0].double().T @ x[0].double()
    assert rounded_once(wide.weight.grad, exact, above[0].double().abs().T @ x[0].double().abs())


def test_what_is_kept_for_the_way_back_is_the_weight_itself() -> None:
    """A float32 copy of every layer would be twice the model."""
    wide = nn.Linear(24, 40).to(torch.bfloat16).requires_grad_(False)
    widen(wide)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        wide(normal(5, 24).requires_grad_())
    assert [t.data_ptr() for t in kept] == [wide.weight.data_ptr()]


def test_only_plain_layers_in_bfloat16_change() -> None:
    class Own(nn.Linear):
        pass

    model = nn.ModuleList(
        [nn.Linear(4, 4).to(torch.bfloat16), nn.Linear(4, 4), Own(4, 4).to(torch.bfloat16)]
    )
    widen(model)
    assert [type(x) for x in model] == [WideLinear, nn.Linear, Own]


def test_other_dtypes_are_torch_s_own() -> None:
    wide = nn.Linear(24, 40).to(torch.bfloat16).requires_grad_(False)
    widen(wide)
    wide.to(torch.float32)
    x = normal(5, 24).float()
    assert torch.equal(wide(x), functional.linear(x, wide.weight, wide.bias))


def test_a_wide_layer_can_be_adapted_without_a_trial() -> None:
    wide = nn.Linear(24, 40).to(torch.bfloat16).requires_grad_(False)
    widen(wide)
    wide.weight.data.fill_(torch.nan)  # Whoever tried it would see.
    assert linear_shape(wide) == (40, 24)
    assert LoRALinear(wide, "layer")._plain() is not None


def test_what_this_processor_can_do_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with_instructions = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    on_x86 = platform.machine().lower() in ("x86_64", "amd64")
    assert lacks_bfloat16() == (on_x86 and not with_instructions)


def causal(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(query, key, value, is_causal=True)


def row(seed: int) -> list[Tensor]:
    return [normal(1, 2, 40, 8, seed=seed + k).requires_grad_() for k in range(3)]


def test_attention_s_gradients_are_those_of_float32_rounded_once() -> None:
    leaves, above = row(seed=1), normal(1, 2, 40, 8, seed=9)
    y = attended(causal, *leaves)
    assert torch.equal(y, causal(*leaves))
    found = torch.autograd.grad(y, leaves, above)
    wide = [x.detach().float().requires_grad_() for x in leaves]
    wanted = torch.autograd.grad(causal(*wide), wide, above.float())
    for got, exact in zip(found, wanted, strict=True):
        assert got.dtype == torch.bfloat16
        assert torch.equal(got, exact.to(torch.bfloat16))


def test_attention_keeps_its_arguments_and_no_float32_copies() -> None:
    leaves, kept = row(seed=1), []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        attended(causal, *leaves)
    assert [t.data_ptr() for t in kept] == [x.data_ptr() for x in leaves]


def test_a_long_row_of_a_model_attends_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_SHORT", 16)
    leaves, seen = row(seed=1), []
    inner = functional.scaled_dot_product_attention

    def noted(query: Tensor, *rest: Any, **more: Any) -> Tensor:
        seen.append(query.dtype)
        return inner(query, *rest, **more)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", noted)
    attend = partial(packing._causal, window=None, options={})
    attend(*leaves).sum().backward()
    with torch.no_grad():
        attend(*leaves)
    assert seen == [torch.bfloat16, torch.float32, torch.bfloat16]
