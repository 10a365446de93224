"""One client's factors while they train: views of one vector, and of one gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flexlora.adapters import Adapter, Factors

Live = Mapping[str, tuple[Tensor, Tensor]]
Penalty = Callable[[Live], Tensor | None]


@dataclass(frozen=True, eq=False)
class Pair:
    """One layer's factors, b transposed, at a rank that may be padded beyond the client's own.

    Rows of `a` and of `bt` from `rank` on are zero. Each is the other's gradient factor, so that
    their gradients are exactly zero and SGD and AdamW leave them zero, with or without weight
    decay. origin: the frozen start (a, bt) that is subtracted, or None.
    """

    a: Float[Tensor, "r n"]
    bt: Float[Tensor, "r m"]
    grad_a: Float[Tensor, "r n"]
    grad_bt: Float[Tensor, "r m"]
    rank: int
    scale: float
    origin: tuple[Tensor, Tensor] | None


class Trainable:
    """A copy of `adapter` in one vector, so that an optimiser has one tensor to step.

    vector: parameter (numbers,), its gradient beside it at all times; layers lie in the adapter's
    order, `a` before `bt`. pad: layer → rank to hold at least. origin: keep the start as well.
    Numbers are held in `dtype` on `device`.
    """

    def __init__(
        self,
        adapter: Adapter,
        *,
        dtype: torch.dtype,
        device: torch.device,
        pad: Mapping[str, int] | None = None,
        origin: bool = False,
    ) -> None:
        self._adapter = adapter
        self._held = {name: max(f.rank, (pad or {}).get(name, 0)) for name, f in adapter.items()}
        self._origin: dict[str, tuple[Tensor, Tensor]] = {}
        size = sum(self._held[name] * sum(f.shape) for name, f in adapter.items())
        self.vector = nn.Parameter(torch.zeros(size, dtype=dtype, device=device))
        self.pairs: dict[str, Pair] = {}
        self.place(self.vector.detach(), torch.zeros_like(self.vector))
        for name, factors in adapter.items():
            pair = self.pairs[name]
            pair.a[: factors.rank] = factors.a.detach()
            pair.bt[: factors.rank] = factors.b.detach().T
        if origin:
            self._origin = {x: (pair.a.clone(), pair.bt.clone()) for x, pair in self.pairs.items()}
            self.place(self.vector.detach(), self.gradient)

    @property
    def gradient(self) -> Tensor:
        gradient = self.vector.grad
        assert gradient is not None
        return gradient

    def place(self, values: Tensor, gradient: Tensor) -> None:
        """Live in these (numbers,) from now on: `values` holds what the vector held."""
        self.vector.data, self.vector.grad = values, gradient
        held, gradients = self._cut(values), self._cut(gradient)
        for name, factors in self._adapter.items():
            (a, bt), (grad_a, grad_bt) = held[name], gradients[name]
            self.pairs[name] = Pair(
                a=a,
                bt=bt,
                grad_a=grad_a,
                grad_bt=grad_bt,
                rank=factors.rank,
                scale=factors.scale,
                origin=self._origin.get(name),
            )

    def _cut(self, values: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Layer → views (a, bt) of (numbers,) as the vector holds them."""
        views = {}
        begin = 0
        for name, factors in self._adapter.items():
            held, (m, n) = self._held[name], factors.shape
            middle, end = begin + held * n, begin + held * (n + m)
            views[name] = values[begin:middle].view(held, n), values[middle:end].view(held, m)
            begin = end
        return views

    def add_gradient_of(self, penalty: Penalty) -> None:
        """Add the gradient of a scalar function of layer → (b, a), at the client's own ranks."""
        cut = {name: (p.bt[: p.rank].T, p.a[: p.rank]) for name, p in self.pairs.items()}
        live = {
            x: (b.detach().requires_grad_(), a.detach().requires_grad_())
            for x, (b, a) in cut.items()
        }
        with torch.enable_grad():
            value = penalty(live)
        if value is None or not value.requires_grad:
            return
        leaves = [leaf for both in live.values() for leaf in both]
        found = iter(torch.autograd.grad(value, leaves, allow_unused=True))
        for pair in self.pairs.values():
            b, a = next(found), next(found)
            if b is not None:
                pair.grad_bt[: pair.rank] += b.T
            if a is not None:
                pair.grad_a[: pair.rank] += a

    def trained(self, base: str) -> Adapter:
        """A copy of what was trained so far on the CPU, at its own ranks and scales."""
        cut = self._cut(self.vector.detach().cpu())  # In one piece: each transfer takes its time.
        return Adapter(
            {
                name: Factors(
                    cut[name][1][: f.rank].T.clone(), cut[name][0][: f.rank].clone(), f.scale
                )
                for name, f in self._adapter.items()
            },
            base,
        )
