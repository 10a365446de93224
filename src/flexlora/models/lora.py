"""The one LoRA layer, for one client or for many at once: factors with a leading client axis."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flexlora.adapters import Factors
from flexlora.errors import AdapterError
from flexlora.lowrank import LowRank


def linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """(m outputs, n inputs) of a linear-like module: `nn.Linear`, or GPT-2's Conv1D (x @ W).

    None for any other module.
    """
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    weight = getattr(module, "weight", None)
    if type(module).__name__ == "Conv1D" and isinstance(weight, Tensor) and weight.ndim == 2:
        return weight.shape[1], weight.shape[0]
    return None


class LoRALinear(nn.Module):
    """A frozen linear-like layer plus Δ, plus what each of K clients trains, minus its origin.

    y = base(x) + x Δᵀ + scale_k · (dropout(x) A_kᵀ) B_kᵀ − scale_k · (x A⁰_kᵀ) B⁰_kᵀ

    Input (K·B, …, n), the rows of client k contiguous; output (K·B, …, m). Parameters a: (K, r, n)
    and b: (K, m, r) at the largest rank r of the K clients. A smaller rank is padded with zero
    rows of A and zero columns of B: each is the other's gradient factor, so that both gradients are
    exactly zero and the padding stays zero under SGD and AdamW, with or without weight decay.
    Adapters are held and computed in float32 or better; the result has the dtype of the base.
    """

    a: nn.Parameter | None
    b: nn.Parameter | None

    def __init__(self, base: nn.Module, name: str) -> None:
        super().__init__()
        shape = linear_shape(base)
        assert shape is not None, f"{name} is no linear-like module"
        self.base = base
        self.name = name
        self.m, self.n = shape
        self.register_parameter("a", None)
        self.register_parameter("b", None)
        self._scales: tuple[float, ...] = ()
        self._factors: Tensor = torch.zeros(0)  # The scales, where the branch is computed.
        self._ranks: tuple[int, ...] = ()
        self._origin: tuple[Tensor, Tensor] | None = None
        self._dropout = 0.0
        self._generators: tuple[torch.Generator, ...] = ()
        self._delta: LowRank | None = None
        self._branch: tuple[Tensor, Tensor] | None = None
        self._pristine: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        """The base's weight, Δ included where it is merged: model code may look at its dtype."""
        weight = self.base.weight
        assert isinstance(weight, Tensor)
        return weight

    @property
    def bias(self) -> Tensor | None:
        bias = self.base.bias
        return bias if isinstance(bias, Tensor) else None

    @property
    def in_features(self) -> int:
        return self.n

    @property
    def out_features(self) -> int:
        return self.m

    @property
    def dtype(self) -> torch.dtype:
        """The dtype adapters are trained in: float64 on a float64 base, else float32."""
        return torch.float64 if self.weight.dtype == torch.float64 else torch.float32

    def set_delta(self, delta: LowRank | None, *, merge: bool | None = None) -> None:
        """Stand on W₀ + Δ; None or width 0 goes back to W₀, bit for bit.

        Merged into a float32 or float64 weight (W₀ is kept beside it), else run as a branch of its
        own, because rounding to fewer bits would lose small deltas. `merge` overrides the choice.
        """
        if delta is not None and delta.width == 0:
            delta = None
        if delta is not None and delta.shape != (self.m, self.n):
            raise AdapterError(
                f"delta of layer {self.name} is {delta.shape[0]} × {delta.shape[1]}, expected "
                f"{self.m} × {self.n}; it was made for another base model"
            )
        weight = self.weight
        if merge is None:
            merge = weight.dtype in (torch.float32, torch.float64)
        merged = self._pristine is not None
        if delta is self._delta and (delta is None or merged == merge):
            return
        pristine = weight.data if self._pristine is None else self._pristine
        changed, branch = pristine, None
        # All that can run out of memory comes before the first change.
        if delta is not None:
            left = delta.left.detach().to(weight.device, self.dtype)
            right = delta.right.detach().to(weight.device, self.dtype)
            if merge:
                dense = left @ right if isinstance(self.base, nn.Linear) else right.T @ left.T
                changed = pristine + dense.to(weight.dtype)
            else:
                branch = (right, left)
        weight.data = changed
        self._delta, self._branch = delta, branch
        self._pristine = pristine if delta is not None and merge else None

    def start(
        self,
        clients: Sequence[Factors],
        *,
        origin: bool = False,
        dropout: float = 0.0,
        generators: Sequence[torch.Generator] = (),
    ) -> tuple[nn.Parameter, nn.Parameter]:
        """Take copies of these clients' factors as parameters (a, b) and add their branch.

        origin: subtract the starting factors, frozen. dropout: on the input of the trained branch
        alone, inverted (PEFT's), drawn for client k from generators[k], in every forward pass.
        Raises AdapterError for factors of another shape.
        """
        for k, factors in enumerate(clients):
            if factors.shape != (self.m, self.n):
                raise AdapterError(
                    f"layer {self.name} of adapter {k} is for {factors.shape[0]} × "
                    f"{factors.shape[1]}, expected {self.m} × {self.n}; "
                    "it was made for another base model"
                )
        if dropout > 0.0 and len(generators) != len(clients):
            raise ValueError(f"dropout needs {len(clients)} generators, one each; got {generators}")
        device = self.weight.device
        rank = max(factors.rank for factors in clients)
        a = torch.zeros(len(clients), rank, self.n, dtype=self.dtype, device=device)
        b = torch.zeros(len(clients), self.m, rank, dtype=self.dtype, device=device)
        for k, factors in enumerate(clients):
            a[k, : factors.rank] = factors.a.detach()
            b[k, :, : factors.rank] = factors.b.detach()
        self.a, self.b = nn.Parameter(a), nn.Parameter(b)
        self._origin = (a.clone(), b.clone()) if origin else None
        self._scales = tuple(factors.scale for factors in clients)
        self._factors = torch.tensor(self._scales, dtype=self.dtype, device=device)
        self._ranks = tuple(factors.rank for factors in clients)
        self._dropout, self._generators = dropout, tuple(generators)
        return self.a, self.b

    def trained(self) -> list[Factors]:
        """Detached copies of every client's factors, cut back to its own rank, scale unchanged."""
        assert self.a is not None, "no adapter is started"
        assert self.b is not None, "no adapter is started"
        a, b = self.a.detach(), self.b.detach()
        return [
            Factors(b[k, :, :rank].clone(), a[k, :rank].clone(), scale)
            for k, (rank, scale) in enumerate(zip(self._ranks, self._scales, strict=True))
        ]

    def stop(self) -> None:
        """Drop what is trained: the layer is base + Δ again."""
        self.a = self.b = None
        self._origin, self._scales, self._ranks, self._generators = None, (), (), ()

    def forward(self, x: Float[Tensor, "*rows n"]) -> Float[Tensor, "*rows m"]:
        y: Tensor = self.base(x)
        if self.a is None and self._branch is None:
            return y
        inner = x.reshape(-1, self.n).to(self.dtype)
        outer = y.reshape(-1, self.m).to(self.dtype)
        if self._branch is not None:
            right, left = self._branch
            outer = torch.addmm(outer, inner @ right.T, left.T)
        if self.a is not None and self.b is not None:
            outer = self._clients(outer, inner, self.a, self.b)
        return outer.view(y.shape).to(y.dtype)

    def _clients(self, outer: Tensor, inner: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """Add every client's branch to its own rows."""
        clients = len(self._scales)
        if inner.shape[0] % clients:
            raise AdapterError(
                f"layer {self.name} got {inner.shape[0]} rows for {clients} clients; "
                "give every client the same number of rows"
            )
        if self._origin is not None:
            a0, b0 = self._origin
            if self._dropout > 0.0:  # The origin sees its input whole.
                outer = _added(outer, inner, a0, -b0, self._factors)
            else:  # One pass at twice the rank is cheaper than two.
                a, b = torch.cat((a, a0), dim=1), torch.cat((b, -b0), dim=2)
        return _added(outer, self._dropped(inner), a, b, self._factors)

    def _dropped(self, inner: Tensor) -> Tensor:
        """Inverted dropout, client k's rows from its own generator."""
        if self._dropout == 0.0:
            return inner
        keep = 1.0 - self._dropout
        shape = (inner.shape[0] // len(self._generators), self.n)
        masks = [
            torch.empty(shape, dtype=inner.dtype, device=generator.device)
            .bernoulli_(keep, generator=generator)
            .to(inner.device)
            for generator in self._generators
        ]
        return inner * torch.cat(masks).div_(keep)


def _added(
    outer: Float[Tensor, "rows m"],
    inner: Float[Tensor, "rows n"],
    a: Float[Tensor, "k r n"],
    b: Float[Tensor, "k m r"],
    scales: Float[Tensor, " k"],
) -> Tensor:
    """outer + scale_k · inner A_kᵀ B_kᵀ for each client's own rows."""
    clients = a.shape[0]
    if clients == 1:  # The same sums without the batched kernels' overhead.
        return torch.addmm(outer, (inner @ a[0].T) * scales, b[0].T)
    middle = torch.bmm(inner.view(clients, -1, inner.shape[1]), a.mT) * scales.view(clients, 1, 1)
    sums = outer.view(clients, -1, outer.shape[1])
    return torch.baddbmm(sums, middle, b.mT).view_as(outer)
