"""One client's factors while they train: views of one vector, and of one gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flexlora.adapters import Adapter, Factors, Sides

Live = Mapping[str, tuple[Tensor, Tensor]]
Penalty = Callable[[Live, Live], Tensor | None]
# (Layer, side), first and last number, and the shape that they have.
_Place = tuple[tuple[str, str], int, int, tuple[int, int]]


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
        self._trained, size = self._layout(trained=True)
        self._rest, rest = ([], 0) if sides == "both" else self._layout(trained=False)
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
        held, gradients = _cut(values, self._trained), _cut(gradient, self._trained)
        if self._rest:
            held |= _cut(self.frozen, self._rest)
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

    def _layout(self, *, trained: bool) -> tuple[list[_Place], int]:
        """Where what is trained lies in the vector, or the rest in `frozen`; how much it is."""
        places: list[_Place] = []
        begin = 0
        for name, factors in self._adapter.items():
            held, (m, n) = self._held[name], factors.shape
            for side, width in (("a", n), ("b", m)):
                if (self.sides in ("both", side)) == trained:
                    end = begin + held * width
                    places.append(((name, side), begin, end, (held, width)))
                    begin = end
        return places, begin

    def add_gradient_of(self, penalty: Penalty) -> None:
        """Add the gradient of a scalar function of layer → (b, a), live and as received.

        Both at the client's own ranks.
        """
        a_too, b_too = self.sides != "b", self.sides != "a"
        live, leaves = {}, []
        for name, p in self.pairs.items():
            b, a = p.bt[: p.rank].T.detach(), p.a[: p.rank].detach()
            leaves += [b.requires_grad_()] if b_too else []
            leaves += [a.requires_grad_()] if a_too else []
            live[name] = b, a
        with torch.enable_grad():
            value = penalty(live, self.received)
        if value is None or not value.requires_grad:
            return
        found = iter(torch.autograd.grad(value, leaves, allow_unused=True))
        for p in self.pairs.values():
            if p.grad_bt is not None and (more := next(found)) is not None:
                p.grad_bt[: p.rank] += more.T
            if p.grad_a is not None and (more := next(found)) is not None:
                p.grad_a[: p.rank] += more

    def trained(self, base: str) -> Adapter:
        """What was trained so far, copied to the CPU, at its own ranks and scales.

        A side that is not trained is the one that was given.
        """
        whole = self.vector.detach().cpu()  # In one piece: each transfer takes its time.
        cut = _cut(whole, self._trained)

        def of(name: str, f: Factors) -> Factors:
            b = f.b if self.sides == "a" else cut[name, "b"][: f.rank].T.clone()
            a = f.a if self.sides == "b" else cut[name, "a"][: f.rank].clone()
            return Factors(b, a, f.scale)

        return Adapter({name: of(name, f) for name, f in self._adapter.items()}, base)


def _cut(values: Tensor, places: Sequence[_Place]) -> dict[tuple[str, str], Tensor]:
    """(Layer, side) → its view (`a`, or b transposed) of (numbers,)."""
    return {key: values[begin:end].view(shape) for key, begin, end, shape in places}


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
