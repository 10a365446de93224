"""The clients' branches of one layer as one node of autograd.

y = base(x) + x Δᵀ + scale_k · drop(x) A_kᵀ B_kᵀ − scale_k · x A⁰_kᵀ B⁰_kᵀ, rows of client k alone.

One node in place of a dozen: for a small model their bookkeeping costs more than the products.
Gradients of the factors are added where the optimiser looks for them, `Pair.grad_a` and `grad_bt`;
a side that is not trained has no such place, and none is made for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from flexlora.models.carried import Stacked
from flexlora.models.joined import Joined
from flexlora.models.trainable import Pair


@dataclass(frozen=True, eq=False)
class Plain:
    """A frozen layer that is a matrix: x → y, and ∂y → ∂x, each in the dtype that it is given.

    wide: give numbers of the branches' dtype, which are no slower to multiply, and need not be
    rounded.
    """

    there: Callable[[Tensor], Tensor]
    back: Callable[[Tensor], Tensor]
    wide: bool


@dataclass(frozen=True, eq=False)
class Work:
    """One forward pass of one layer.

    base: of a layer that is a matrix, or None where its own autograd node runs before.
    delta: (right, left) of Δ as a branch. rows: of each client. dtype: of the branches' numbers.
    stack: the same factors as batched views, where rows are equal; joined: side by side, where
    there is no way back. drop: inverted mask (rows, n).
    """

    base: Plain | None
    delta: tuple[Tensor, Tensor] | None
    pairs: Sequence[Pair]
    stack: Stacked | None
    joined: Joined | None
    rows: Sequence[int]
    dtype: torch.dtype
    drop: Tensor | None


class Branch(torch.autograd.Function):
    """(x (rows, n), what the base made of it or None, anchor, work) → y (rows, m)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, made: Tensor | None, _anchor: Tensor, work: Work
    ) -> Float[Tensor, "rows m"]:
        inner = x.to(work.dtype)
        if work.base is not None:
            out = work.base.there(inner if work.base.wide else x).to(work.dtype)
        else:
            assert made is not None
            out = made.to(work.dtype, copy=True)
        if work.delta is not None:
            right, left = work.delta
            out.addmm_(inner @ right.T, left.T)
        middles = _add(out, inner, work)
        # The mask is saved, not held: a layer that is checkpointed lets go of what is saved.
        ctx.work, ctx.dropped = replace(work, drop=None), work.drop is not None
        ctx.save_for_backward(x, *([] if work.drop is None else [work.drop]), *middles)
        return out.to(x.dtype if made is None else made.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (above,) = gradients
        work: Work = ctx.work
        x, *middles = ctx.saved_tensors
        drop = middles.pop(0) if ctx.dropped else None
        wanted = ctx.needs_input_grad[0]
        inner, outer = x.to(work.dtype), above.to(work.dtype)
        back: Tensor | None = None
        if wanted and work.base is not None:
            back = work.base.back(outer if work.base.wide else above).to(work.dtype)
        elif wanted:
            back = torch.zeros_like(inner)
        if back is not None and work.delta is not None:
            right, left = work.delta
            back.addmm_(outer @ left, right)
        _add_gradients(back, inner, outer, middles, drop, work)
        return (
            back.to(x.dtype) if back is not None else None,
            above if ctx.needs_input_grad[1] else None,
            None,
            None,
        )


def _add(out: Tensor, inner: Tensor, work: Work) -> list[Tensor]:
    """Add every client's branch to its own rows; the inner products, scaled, for the way back."""
    if work.joined is not None:
        work.joined.add(out, inner)
        return []
    dropped = inner if work.drop is None else inner * work.drop
    if work.stack is not None:
        stack, clients = work.stack, len(work.rows)
        a, bt = _wide(stack.a, stack.bt, stack.origin, apart=work.drop is not None)
        middle = torch.bmm(dropped.view(clients, -1, dropped.shape[1]), a.mT)
        if stack.origin is not None and work.drop is not None:
            whole = torch.bmm(inner.view(clients, -1, inner.shape[1]), stack.origin[0].mT)
            middle = torch.cat((middle, whole), dim=2)
        middle.mul_(stack.scales)
        sums = out.view(clients, -1, out.shape[1])
        sums.baddbmm_(middle, bt)
        return [middle]
    middles = []
    for pair, mine, seen, sums in _by_client(work, inner, dropped, out):
        a, bt = _wide(pair.a, pair.bt, pair.origin, apart=work.drop is not None)
        middle = seen @ a.T
        if pair.origin is not None and work.drop is not None:
            middle = torch.cat((middle, mine @ pair.origin[0].T), dim=1)
        sums.addmm_(middle, bt, alpha=pair.scale)
        middles.append(middle)
    return middles


def _add_gradients(
    back: Tensor | None,
    inner: Tensor,
    outer: Tensor,
    middles: Sequence[Tensor],
    drop: Tensor | None,
    work: Work,
) -> None:
    """Add to every client's factors' gradients, and to the input's where `back` is one."""
    dropped = inner if drop is None else inner * drop
    if work.stack is not None:
        stack, clients, rank = work.stack, len(work.rows), work.stack.a.shape[1]
        a, bt = _wide(stack.a, stack.bt, stack.origin)
        above = outer.view(clients, -1, outer.shape[1])
        if stack.grad_bt is not None:
            stack.grad_bt.baddbmm_(middles[0][:, :, :rank].mT, above)
        if stack.grad_a is None and back is None:
            return
        down = torch.bmm(above, bt.mT).mul_(stack.scales)
        seen = dropped.view(clients, -1, dropped.shape[1])
        if stack.grad_a is not None:
            stack.grad_a.baddbmm_(down[:, :, :rank].mT, seen)
        if back is not None and drop is None:
            back.view_as(seen).baddbmm_(down, a)
        elif back is not None and drop is not None:
            back.addcmul_(torch.bmm(down[:, :, :rank], stack.a).view_as(back), drop)
            if stack.origin is not None:
                back.view_as(seen).baddbmm_(down[:, :, rank:], stack.origin[0])
        return
    begin = 0
    for place, (pair, _, seen, above) in enumerate(_by_client(work, inner, dropped, outer)):
        rank, rows = pair.a.shape[0], slice(begin, begin + work.rows[place])
        begin = rows.stop
        if pair.grad_bt is not None:
            pair.grad_bt.addmm_(middles[place][:, :rank].T, above, alpha=pair.scale)
        if pair.grad_a is None and back is None:
            continue
        a, bt = _wide(pair.a, pair.bt, pair.origin)
        down = above @ bt.T
        if pair.grad_a is not None:
            pair.grad_a.addmm_(down[:, :rank].T, seen, alpha=pair.scale)
        if back is not None and drop is None:
            back[rows].addmm_(down, a, alpha=pair.scale)
        elif back is not None and drop is not None:
            back[rows].addcmul_(down[:, :rank] @ pair.a, drop[rows], value=pair.scale)
            if pair.origin is not None:
                back[rows].addmm_(down[:, rank:], pair.origin[0], alpha=pair.scale)


def _wide(
    a: Tensor, bt: Tensor, origin: tuple[Tensor, Tensor] | None, *, apart: bool = False
) -> tuple[Tensor, Tensor]:
    """Trainable − origin as one branch of at most twice the rank.

    apart: leave `a` alone, for the origin's is applied to another input (it sees no dropout).
    """
    if origin is None:
        return a, bt
    a0, bt0 = origin
    return a if apart else torch.cat((a, a0), dim=-2), torch.cat((bt, -bt0), dim=-2)


def _by_client(work: Work, *tensors: Tensor) -> Iterator[tuple[Pair, Tensor, Tensor, Tensor]]:
    """Each client's pair with its rows of each of three tensors."""
    first, second, third = (torch.split(tensor, list(work.rows)) for tensor in tensors)
    yield from zip(work.pairs, first, second, third, strict=True)
