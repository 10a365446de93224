"""Products and attention in bfloat16 on a processor that has no instructions for them.

torch then multiplies number by number: 9 GFLOP/s on a core that makes 65 in float32. A float32
product of the same numbers, rounded once, is what the instructions give too, so here a block of
the weight at a time becomes float32 for as long as it is multiplied.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

# Numbers of a weight that are float32 at once: 4 MiB, which a core's cache holds or nearly. A head
# of 49,152 × 576 in one piece takes three times as long for 16 rows.
_BLOCK = 1 << 20
_AS_IF_NOT = ContextVar("_AS_IF_NOT", default=False)


@cache
def lacks_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 without instructions for it.

    Known for x86 alone, where oneDNN says so; of others nothing is claimed.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supported is not None and not supported()


@contextmanager
def with_instructions() -> Iterator[None]:
    """What is computed in here is that of a processor with instructions for bfloat16."""
    token = _AS_IF_NOT.set(True)
    try:
        yield
    finally:
        _AS_IF_NOT.reset(token)


def widen(model: nn.Module) -> None:
    """Give the plain linear layers of a model in bfloat16 products by way of float32.

    They stay `nn.Linear` to whoever looks, with the same weights. Other layers stay as they are.
    """
    for module in model.modules():
        if type(module) is nn.Linear and module.weight.dtype == torch.bfloat16:
            module.__class__ = WideLinear


class WideLinear(nn.Linear):
    """`nn.Linear` whose products of bfloat16 are made in float32 and rounded once.

    On another device, or cast to another dtype, it is `nn.Linear`. The bias has no gradient.
    """

    def forward(self, x: Float[Tensor, "*rows n"]) -> Float[Tensor, "*rows m"]:
        if not _is_wide(x, self.weight):
            return super().forward(x)
        y: Tensor = _Product.apply(x, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return y


def product(
    x: Float[Tensor, "*rows n"], weight: Float[Tensor, "m n"], bias: Tensor | None
) -> Float[Tensor, "*rows m"]:
    """x Wᵀ + b, in x's dtype, which may have more bits than the weight's."""
    if x.dtype == weight.dtype and not lacks_instructions(x):
        return functional.linear(x, weight, bias)
    blocks = _blocks(weight)
    if len(blocks) == 1:
        whole = None if bias is None else bias.float()
        return functional.linear(x.float(), weight.float(), whole).to(x.dtype)
    inner = x.reshape(-1, x.shape[-1]).float()
    y = x.new_empty(inner.shape[0], weight.shape[0])
    for rows in blocks:
        part = None if bias is None else bias[rows].float()
        y[:, rows] = functional.linear(inner, weight[rows].float(), part)
    return y.view(*x.shape[:-1], weight.shape[0])


def back(y: Float[Tensor, "*rows m"], weight: Float[Tensor, "m n"]) -> Float[Tensor, "*rows n"]:
    """y W, in y's dtype, which may have more bits than the weight's."""
    if y.dtype == weight.dtype and not lacks_instructions(y):
        return y @ weight
    blocks = _blocks(weight)
    if len(blocks) == 1:
        return (y.float() @ weight.float()).to(y.dtype)
    outer = y.reshape(-1, y.shape[-1])
    x = torch.zeros(outer.shape[0], weight.shape[1], device=y.device)
    for rows in blocks:
        x.addmm_(outer[:, rows].float(), weight[rows].float())
    return x.to(y.dtype).view(*y.shape[:-1], weight.shape[1])


class _Product(torch.autograd.Function):
    """(x, weight, frozen bias) → y; keeps no float32 copy of any for the way back, and x only where
    the weight is trained."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight, x if ctx.needs_input_grad[1] else None)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (weight, x), (y,) = ctx.saved_tensors, gradients
        for_x = back(y, weight) if ctx.needs_input_grad[0] else None
        for_weight = None if x is None else _outer(y, x).to(weight.dtype)
        return for_x, for_weight, None


def _outer(y: Float[Tensor, "*rows m"], x: Float[Tensor, "*rows n"]) -> Float[Tensor, "m n"]:
    """yᵀ x over all rows, in float32."""
    return y.reshape(-1, y.shape[-1]).float().T @ x.reshape(-1, x.shape[-1]).float()


def attended(
    attend: Callable[[Tensor, Tensor, Tensor], Tensor], query: Tensor, key: Tensor, value: Tensor
) -> Tensor:
    """attend(query, key, value), in their dtype; its gradients are made in float32, rounded once.

    torch's own way back takes six times as long for 512 tokens, its way there no longer than
    float32's. No more is kept than the three; attention is computed anew on the way back.
    """
    if not lacks_instructions(query) or not torch.is_grad_enabled():
        return attend(query, key, value)
    y: Tensor = _Attended.apply(query, key, value, attend)  # type: ignore[no-untyped-call]
    return y


class _Attended(torch.autograd.Function):
    """(query, key, value, attend) → what they see."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, attend: Any) -> Tensor:
        ctx.attend = attend
        ctx.save_for_backward(query, key, value)
        found: Tensor = attend(query, key, value)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        leaves = [x.float().requires_grad_() for x in ctx.saved_tensors]
        with torch.enable_grad():
            seen = ctx.attend(*leaves)
        found = torch.autograd.grad(seen, leaves, gradients[0].float())
        return *(x.to(gradients[0].dtype) for x in found), None


def _is_wide(x: Tensor, weight: Tensor) -> bool:
    """Whether the product is made here."""
    return x.dtype == weight.dtype and lacks_instructions(x)


def lacks_instructions(x: Tensor) -> bool:
    """Whether what computes with it has none for its numbers, and makes them float32."""
    on_cpu = x.dtype == torch.bfloat16 and x.device.type == "cpu"
    return on_cpu and lacks_bfloat16() and not _AS_IF_NOT.get()


def _blocks(weight: Tensor) -> list[slice]:
    """Rows of a weight, few enough to be widened at once."""
    few = max(1, _BLOCK // max(1, weight.shape[1]))
    return [slice(begin, begin + few) for begin in range(0, weight.shape[0], few)]
