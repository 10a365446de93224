"""The one LoRA layer: a frozen linear-like layer, Δ, and the branches of the clients it carries."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flexlora.errors import AdapterError, ModelError
from flexlora.lowrank import LowRank
from flexlora.models.branch import Branch, Linear, Work
from flexlora.models.carried import Carried
from flexlora.models.device import out_of_memory
from flexlora.models.widened import WideLinear, back, product

# Rows that are widened to float32 at a time, where there is no way back: what a CPU's caches hold.
# 3,000 rows of 1,536 numbers take a quarter of the time.
_BLOCK = 256


def linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """(m outputs, n inputs) of a linear-like module: `nn.Linear`, or GPT-2's Conv1D (x @ W).

    bitsandbytes' layers are of the former, whatever the shape of their packed weights. None for
    any other module, and for a layer of the former's kind that gives something else than (…, m)
    for (…, n): routers and grouped layers of some mixtures of experts.
    """
    if isinstance(module, nn.Linear):
        own = type(module).forward not in (nn.Linear.forward, WideLinear.forward)
        if own and not type(module).__module__.startswith("bitsandbytes") and _odd(module):
            return None
        return module.out_features, module.in_features
    weight = getattr(module, "weight", None)
    if type(module).__name__ == "Conv1D" and isinstance(weight, Tensor) and weight.ndim == 2:
        return weight.shape[1], weight.shape[0]
    return None


def _odd(module: nn.Linear) -> bool:
    """Whether it maps a row of zeros to anything but one row."""
    try:
        with torch.no_grad():
            found: object = module(module.weight.new_zeros(1, module.in_features))
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        if out_of_memory(error):
            raise
        return True
    return not isinstance(found, Tensor) or found.shape != (1, module.out_features)


def require_bare(model: nn.Module, name: str) -> None:
    """Raise ModelError for a model whose layers are wrapped already. name: what it is called."""
    if any(isinstance(module, LoRALinear) for module in model.modules()):
        raise ModelError(f"model {name} is adapted already; load the base model again")


class LoRALinear(nn.Module):
    """A frozen linear-like layer plus Δ, plus what each of K clients trains, minus its origin.

    y = base(x) + x Δᵀ + scale_k · (drop(x) A_kᵀ) B_kᵀ − scale_k · (x A⁰_kᵀ) B⁰_kᵀ

    Input (…, n), the rows of client k contiguous and as many as `Carried.rows` says; output
    (…, m). Branches are held and computed in float32 or better; the result has the dtype of the
    base. `backward` adds the factors' gradients to `Pair.grad_a` and `grad_bt`; for x it is that
    of any layer. index: of the layer in its model, for dropout of its own.
    """

    def __init__(self, base: nn.Module, name: str, index: int = 0) -> None:
        super().__init__()
        shape = linear_shape(base)
        assert shape is not None, f"{name} is no linear-like module"
        self.base = base
        self.name = name
        self.index = index
        self.m, self.n = shape
        self._carried: Carried | None = None
        self._delta: LowRank | None = None
        self._branch: tuple[Tensor, Tensor] | None = None
        self._pristine: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        """The base's weight, Δ included where it is merged: model code may look at its dtype.

        Of a quantised base, its bits.
        """
        weight = self.base.weight
        assert isinstance(weight, Tensor)
        return weight

    @property
    def bias(self) -> Tensor | None:
        bias = self.base.bias
        return bias if isinstance(bias, Tensor) else None

    @property
    def delta(self) -> LowRank | None:
        """What it stands on beside W₀."""
        return self._delta

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

    def require_fit(self, delta: LowRank) -> None:
        """Raise AdapterError for a Δ of another shape."""
        if delta.shape != (self.m, self.n):
            raise AdapterError(
                f"delta of layer {self.name} is {delta.shape[0]} × {delta.shape[1]}, expected "
                f"{self.m} × {self.n}; it was made for another base model"
            )

    def set_delta(self, delta: LowRank | None, *, merge: bool | None = None) -> None:
        """Stand on W₀ + Δ; None or width 0 goes back to W₀, bit for bit.

        Merged into a float32 or float64 weight (W₀ is kept beside it), else run as a branch of its
        own, because rounding to fewer bits would lose small deltas. `merge` overrides the choice.
        """
        if delta is not None and delta.width == 0:
            delta = None
        if delta is not None:
            self.require_fit(delta)
        weight = self.weight
        if merge is None:
            plain = weight.numel() == self.m * self.n  # Four bits are packed into anything.
            merge = plain and weight.dtype in (torch.float32, torch.float64)
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

    def carry(self, carried: Carried | None) -> None:
        """Add these clients' branches to their rows; None: base + Δ alone."""
        self._carried = carried

    def forward(self, x: Float[Tensor, "*rows n"]) -> Float[Tensor, "*rows m"]:
        if self._carried is not None:
            return self._with_clients(x, self._carried)
        y: Tensor = self.base(x)
        if self._branch is None:
            return y
        outer, inner = y.reshape(-1, self.m), x.reshape(-1, self.n)
        if y.device.type != "cpu" or y.dtype == self.dtype or torch.is_grad_enabled():
            return self._on_branch(outer, inner).view(y.shape)
        for ours, theirs in zip(*(torch.split(t, _BLOCK) for t in (outer, inner)), strict=True):
            ours.copy_(self._on_branch(ours, theirs))
        return outer.view(y.shape)

    def _on_branch(self, outer: Tensor, inner: Tensor) -> Tensor:
        """What the base made of these rows, and Δ as a branch; in the base's dtype."""
        assert self._branch is not None
        right, left = self._branch
        wide = torch.addmm(outer.to(self.dtype), inner.to(self.dtype) @ right.T, left.T)
        return wide.to(outer.dtype)

    def _with_clients(self, x: Tensor, carried: Carried) -> Tensor:
        flat = x.reshape(-1, self.n)
        rows = carried.rows(flat.shape[0], self.name)
        plain = self._plain()
        stack = carried.stack(self.name) if len(set(rows)) == 1 else None
        work = Work(
            base=plain,
            delta=self._branch,
            pairs=carried.pairs(self.name),
            stack=stack,
            joined=carried.joined(self.name, flat.shape[0]) if stack is None else None,
            rows=rows,
            dtype=self.dtype,
            drop=self._mask(carried, flat) if carried.dropout else None,
        )
        made = self.base(flat) if plain is None else None
        y: Tensor = Branch.apply(flat, made, carried.anchor, work)  # type: ignore[no-untyped-call]
        return y.view(*x.shape[:-1], self.m)

    def _plain(self) -> tuple[Linear, Linear] | None:
        """(x → y, ∂y → ∂x) of a base that is a matrix and nothing else; None: ask its autograd."""
        base, weight, bias = self.base, self.weight, self.bias
        if not weight.is_floating_point() or base._forward_hooks or base._forward_pre_hooks:
            return None
        if type(base) in (nn.Linear, WideLinear):
            return lambda x: product(x, weight, bias), lambda y: back(y, weight)
        if type(base).__name__ == "Conv1D" and bias is not None:
            return lambda x: product(x, weight.T, bias), lambda y: back(y, weight.T)
        return None

    def _mask(self, carried: Carried, like: Tensor) -> Tensor:
        """Inverted dropout: 0 or 1 / keep, client k's rows from its own seed.

        A seed rather than a generator's state, so that activations made anew in the backward pass
        (checkpointing) are dropped alike. torch lets 32 of its bits count: two masks in 2³² are
        one, on which nothing rests. Drawn place by place for all of a client's own sequences, so
        that the padding which others bring about comes last and changes nothing; drawn for all
        rows where only some are computed, for these are dropped alike then too.
        """
        keep = 1.0 - carried.dropout
        read = carried.read
        places = (like.shape[0] if read is None else read.total) // max(1, sum(carried.shares))
        masks = []
        for share, own, seed in zip(carried.shares, carried.own, carried.seeds, strict=True):
            generator = torch.Generator().manual_seed((seed + self.index) % 2**63)
            mine = torch.empty(places, own, self.n, dtype=self.dtype)
            mine.bernoulli_(keep, generator=generator)
            padding = mine.new_ones((share - own) * places, self.n)
            masks += [mine.transpose(0, 1).reshape(-1, self.n), padding]
        mask = torch.cat(masks).div_(keep).to(like.device)
        return mask if read is None else mask.index_select(0, read.places)
