"""One client's factors while they train: views of one vector, and of one gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flexlora.adapters import Adapter, Factors, Sides

Live = Mapping[str, tuple[Tensor, Tensor]]
Penalty = Callable[[Live, Live], Tensor | None]


@dataclass(frozen=True, eq=False)
class Pair:
    """One layer's factors, b transposed, at a rank that may be padded beyond the client's own.

    Rows of `a` and of `bt` from `rank` on are zero. Each is the other's gradient factor, so that
    their gradients are exactly zero and SGD and AdamW leave them zero, with or without weight
    decay. A side that is not trained has no gradient. origin: the frozen start (a, bt) that is
    subtracted, or None.
    """

    a: Float[Tensor, "r n"]
    bt: Float[Tensor, "r m"]
    grad_a: Float[Tensor, "r n"] | None
    grad_bt: Float[Tensor, "r m"] | None
    rank: int
    scale: float
    origin: tuple[Tensor, Tensor] | None


class Trainable:
    """A copy of `adapter` in one vector, so that an optimiser has one tensor to step.

    vector: parameter (numbers,), its gradient beside it at all times; layers lie in the adapter's
    order, `a` before `bt`. sides: those that are trained; what is not trained lies in `frozen`, in
    the same order. pad: layer → rank to hold at least. origin: keep the start as well.
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
        sides: Sides = "both",
    ) -> None:
        self._adapter = adapter
        self.sides = sides
        self.received = Received(adapter, dtype, device)
        self._held = {name: max(f.rank, (pad or {}).get(name, 0)) for name, f in adapter.items()}
        self._origin: dict[str, tuple[Tensor, Tensor]] = {}
        size, rest = (sum(size for *_, size in self._layout(trained)) for trained in (True, False))
        self.vector = nn.Parameter(torch.zeros(size, dtype=dtype, device=device))
        self.frozen = torch.zeros(rest, dtype=dtype, device=device)
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

    def place(self, values: Tensor, gradient: Tensor, frozen: Tensor | None = None) -> None:
        """Live in these (numbers,) from now on: they hold what vector and `frozen` held."""
        self.vector.data, self.vector.grad = values, gradient
        self.frozen = self.frozen if frozen is None else frozen
        gradients = self._cut(gradient)
        held = {**self._cut(values), **self._cut(self.frozen, trained=False)}
        for name, factors in self._adapter.items():
            self.pairs[name] = Pair(
                a=held[name, "a"],
                bt=held[name, "b"],
                grad_a=gradients.get((name, "a")),
                grad_bt=gradients.get((name, "b")),
                rank=factors.rank,
                scale=factors.scale,
                origin=self._origin.get(name),
            )

    def _layout(self, trained: bool) -> Iterator[tuple[str, str, int, int, int]]:
        """(layer, side, rows, columns, numbers) of what is trained, or of what is not, in order."""
        for name, factors in self._adapter.items():
            held, (m, n) = self._held[name], factors.shape
            for side, width in (("a", n), ("b", m)):
                if (self.sides in ("both", side)) == trained:
                    yield name, side, held, width, held * width

    def _cut(self, values: Tensor, *, trained: bool = True) -> dict[tuple[str, str], Tensor]:
        """(Layer, side) → its view (`a`, or b transposed) of (numbers,), as they are laid out."""
        views, begin = {}, 0
        for name, side, rows, columns, size in self._layout(trained):
            views[name, side] = values[begin : begin + size].view(rows, columns)
            begin += size
        return views

    def add_gradient_of(self, penalty: Penalty) -> None:
        """Add the gradient of a scalar function of layer → (b, a), live and as received.

        Both at the client's own ranks.
        """
        live, leaves, gradients = {}, [], []
        for name, p in self.pairs.items():
            b, a = p.bt[: p.rank].T.detach(), p.a[: p.rank].detach()
            if p.grad_bt is not None:
                leaves.append(b.requires_grad_())
                gradients.append(p.grad_bt[: p.rank].T)
            if p.grad_a is not None:
                leaves.append(a.requires_grad_())
                gradients.append(p.grad_a[: p.rank])
            live[name] = b, a
        with torch.enable_grad():
            value = penalty(live, self.received)
        if value is None or not value.requires_grad:
            return
        found = torch.autograd.grad(value, leaves, allow_unused=True)
        for gradient, more in zip(gradients, found, strict=True):
            if more is not None:
                gradient += more

    def trained(self, base: str) -> Adapter:
        """What was trained so far, copied to the CPU, at its own ranks and scales.

        A side that is not trained is the one that was given.
        """
        cut = self._cut(self.vector.detach().cpu())  # In one piece: each transfer takes its time.

        def of(name: str, f: Factors) -> Factors:
            b = f.b if self.sides == "a" else cut[name, "b"][: f.rank].T.clone()
            a = f.a if self.sides == "b" else cut[name, "a"][: f.rank].clone()
            return Factors(b, a, f.scale)

        return Adapter({name: of(name, f) for name, f in self._adapter.items()}, base)


class Received(Mapping[str, tuple[Tensor, Tensor]]):
    """Layer → (b, a) as they were given, brought to where they train when first asked for."""

    def __init__(self, adapter: Adapter, dtype: torch.dtype, device: torch.device) -> None:
        self._adapter = adapter
        self._dtype = dtype
        self._device = device
        self._brought: dict[str, tuple[Tensor, Tensor]] = {}

    def __getitem__(self, name: str) -> tuple[Tensor, Tensor]:
        if name not in self._brought:
            f = self._adapter[name]
            b, a = (x.detach().to(self._device, self._dtype) for x in (f.b, f.a))
            self._brought[name] = b, a
        return self._brought[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._adapter)

    def __len__(self) -> int:
        return len(self._adapter)
