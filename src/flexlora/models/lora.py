"""The one LoRA layer: a frozen linear-like layer, Δ, and the branches of the clients it carries."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flexlora.errors import AdapterError, ModelError
from flexlora.lowrank import LowRank
from flexlora.models.branch import Branch, Plain, Work
from flexlora.models.carried import Carried
from flexlora.models.dropping import kept
from flexlora.models.linear_like import is_matrix, linear_shape
from flexlora.models.standing import Form, Standing, factors_of, form_of, summed
from flexlora.models.widened import back, lacks_instructions, product

# Rows that are widened to float32 at a time, where there is no way back: what a CPU's caches hold.
# 3,000 rows of 1,536 numbers take a quarter of the time.
_BLOCK = 256


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
    of any layer. index: of the layer in its model, for dropout of its own. tied: whether another
    module has its weight, too.
    """

    def __init__(self, base: nn.Module, name: str, index: int = 0, *, tied: bool = False) -> None:
        super().__init__()
        shape = linear_shape(base)
        assert shape is not None, f"{name} is no linear-like module"
        self.base = base
        self.name = name
        self.index = index
        self.tied = tied
        self.m, self.n = shape
        self._carried: Carried | None = None
        self._standing: Standing | None = None
        self._pristine: Tensor | None = None  # W₀, where the weight has Δ in it.

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
        return None if self._standing is None else self._standing.delta

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

    def set_delta(self, delta: LowRank | None, *, form: Form | None = None) -> None:
        """Stand on W₀ + Δ; None or width 0 goes back to W₀, bit for bit.

        form: as `form_of` says; default: what it finds best.
        """
        if delta is not None and delta.width == 0:
            delta = None
        if delta is not None:
            self.require_fit(delta)
            form = form or form_of(self.base, delta, tied=self.tied)
        if delta is self.delta and (delta is None or form == self._form):
            return
        weight = self.weight
        pristine = weight.data if self._pristine is None else self._pristine
        made, merged = None, None
        if delta is not None and form is not None:
            # All that can run out of memory comes before the first change.
            made = Standing.on(self.base, pristine, delta, form, self.dtype)
            if form == "merged":
                merged = summed(self.base, pristine, delta, self.dtype).to(weight.dtype)
        weight.data = pristine if merged is None else merged
        self._standing, self._pristine = made, None if merged is None else pristine

    @property
    def _form(self) -> Form:
        """Without any Δ the weight has all of it."""
        return "merged" if self._standing is None else self._standing.form

    def carry(self, carried: Carried | None) -> None:
        """Add these clients' branches to their rows; None: base + Δ alone."""
        self._carried = carried

    def forward(self, x: Float[Tensor, "*rows n"]) -> Float[Tensor, "*rows m"]:
        if self._carried is not None:
            return self._with_clients(x, self._carried)
        if self._form == "merged":
            y: Tensor = self.base(x)
            return y
        inner = x.reshape(-1, self.n)
        whole = self._plain() if self._form == "dense" else None
        outer: Tensor
        if whole is None:
            outer = self.base(x).reshape(-1, self.m)
        else:
            outer = inner.new_empty(len(inner), self.m)

        def made(ours: Tensor, theirs: Tensor) -> Tensor:
            if whole is None:
                return self._on_branch(ours, theirs)
            return whole.there(theirs.to(self.dtype)).to(x.dtype)

        if x.device.type != "cpu" or x.dtype == self.dtype or torch.is_grad_enabled():
            return made(outer, inner).view(*x.shape[:-1], self.m)
        for ours, theirs in zip(*(torch.split(t, _BLOCK) for t in (outer, inner)), strict=True):
            ours.copy_(made(ours, theirs))
        return outer.view(*x.shape[:-1], self.m)

    def _on_branch(self, outer: Tensor, inner: Tensor) -> Tensor:
        """What the base made of these rows, and Δ as a branch; in the base's dtype."""
        beside = self._beside()
        assert beside is not None
        right, left = beside
        wide = torch.addmm(outer.to(self.dtype), inner.to(self.dtype) @ right.T, left.T)
        return wide.to(outer.dtype)

    def _with_clients(self, x: Tensor, carried: Carried) -> Tensor:
        flat = x.reshape(-1, self.n)
        rows = carried.rows(flat.shape[0], self.name)
        plain = self._plain()
        stack = carried.stack(self.name) if len(set(rows)) == 1 else None
        work = Work(
            base=plain,
            delta=self._beside(plain),
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

    def _plain(self) -> Plain | None:
        """What is a matrix and nothing else, Δ included where that is dense; None: ask the base's
        autograd."""
        base = self.base
        if base._forward_hooks or base._forward_pre_hooks or not is_matrix(base):
            return None
        weight, bias, wide = self.weight, self.bias, lacks_instructions(self.weight)
        held = self._standing
        if held is not None and held.matrix is not None:
            weight, bias, wide = held.matrix, None if bias is None else bias.to(self.dtype), True
        weight = weight if isinstance(base, nn.Linear) else weight.T
        return Plain(partial(product, weight=weight, bias=bias), partial(back, weight=weight), wide)

    def _beside(self, plain: object = None) -> tuple[Tensor, Tensor] | None:
        """(right, left) of a Δ that is a branch beside the base; None: it has none.

        So is a dense one where the base cannot be passed over.
        """
        held = self._standing
        if held is not None and held.form == "dense" and plain is None:
            return factors_of(held.delta, self.weight.device, self.dtype)
        return None if held is None else held.factors

    def _mask(self, carried: Carried, like: Tensor) -> Tensor:
        """Inverted dropout: 0 or 1 / keep, client k's rows from its own seed.

        A seed rather than a generator's state, so that activations made anew in the backward pass
        (checkpointing) are dropped alike. torch lets 32 of its bits count: two masks in 2³² are
        one, on which nothing rests. Drawn place by place for all of a client's own sequences, so
        that the padding which others bring about comes last and changes nothing; drawn for all
        rows where only some are computed, for these are dropped alike then too.
        """
        read = carried.read
        places = (like.shape[0] if read is None else read.total) // max(1, sum(carried.shares))
        mask = torch.empty(sum(carried.shares) * places, self.n, dtype=self.dtype)
        shares = torch.split(mask, [share * places for share in carried.shares])
        for rows, own, seed in zip(shares, carried.own, carried.seeds, strict=True):
            mine = kept((places, own, self.n), carried.dropout, seed + self.index)
            rows[: own * places].view(own, places, self.n).copy_(mine.transpose(0, 1))
            rows[own * places :] = 1.0
        mask = mask.div_(1.0 - carried.dropout).to(like.device)
        return mask if read is None else mask.index_select(0, read.places)
