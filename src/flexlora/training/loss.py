"""The clients' language-model losses, with the output head applied only where a token is learnt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from flexlora.models.lora import LoRALinear
from flexlora.models.targets import output_head
from flexlora.training.batches import Batch

_LOGITS = 1 << 24  # At most so many are held at once: 64 MiB in float32, and as much again.


class ResponseLoss:
    """Each client's mean cross entropy over its learnt tokens: transformers' own loss with labels.

    Inside `with ResponseLoss(model).active() as losses_of:` the output head sees only the places
    before a learnt token, a part of them at a time, so that neither a long prompt nor a large
    vocabulary costs memory. A model that changes its logits after the head (scaling, soft caps) is
    found out on first use and computes all learnt places at once; one whose head is not found, or
    adapted (its rows belong to clients), computes all logits.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        head = output_head(model)
        self._head: nn.Module | None = None if isinstance(head, LoRALinear) else head
        self._last = True  # The head makes the logits, and nothing comes after it.
        self._places: Tensor | None = None
        self._hidden: Tensor | None = None

    @contextmanager
    def active(self) -> Iterator[ResponseLoss]:
        """Select inside the head while the block runs."""
        handle = self._head.register_forward_pre_hook(self._select) if self._head else None
        try:
            yield self
        finally:
            if handle is not None:
                handle.remove()

    def __call__(self, batch: Batch) -> Float[Tensor, " k"]:
        """The loss of each client, with gradients."""
        counts = torch.tensor(batch.learnt, device=batch.places.device)
        logits = self._forward(batch)
        hidden, self._hidden = self._hidden, None
        if hidden is not None and self._last:
            each: Tensor = _Chunked.apply(  # type: ignore[no-untyped-call]
                hidden, self._head, batch.targets
            )
        else:
            logits = logits.reshape(-1, logits.shape[-1])
            each = _losses(logits if hidden is not None else logits[batch.places], batch.targets)
        sums = each.new_zeros(counts.shape).index_add(0, batch.owners, each)
        return sums / counts

    def _forward(self, batch: Batch) -> Tensor:
        options = {} if batch.positions is None else {"position_ids": batch.positions}
        self._places = batch.places
        try:
            logits: Tensor = self._model(
                input_ids=batch.input_ids, use_cache=False, **options
            ).logits
        finally:
            self._places = None
        if self._hidden is not None and self._last and self._head is not None:
            with torch.no_grad():
                row: Tensor = self._head(_trial(self._hidden))
            if not torch.equal(row.float(), logits.float()):
                self._last = False
                return self._forward(batch)
        return logits

    def _select(self, _head: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Keep the learnt places' hidden states; a trial row goes on if the head comes last."""
        if self._places is None or not args or args[0].ndim != 3:
            return None
        hidden: Tensor = args[0]
        chosen = hidden.reshape(-1, hidden.shape[-1]).index_select(0, self._places)
        self._hidden = chosen
        return (_trial(chosen) if self._last else chosen[None], *args[1:])


def _trial(hidden: Tensor) -> Tensor:
    """(1, 1, width): large enough for caps to show, and no client's, whose row may be NaN."""
    return torch.full_like(hidden[:1], 100.0)[None]


def _losses(logits: Float[Tensor, "p v"], targets: Tensor) -> Float[Tensor, " p"]:
    """Each place's cross entropy, in float32 or better."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return functional.cross_entropy(logits, targets, reduction="none")


class _Chunked(torch.autograd.Function):
    """(hidden states, head, targets) → losses; gradients are made on the way, logits dropped."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: nn.Module, targets: Tensor) -> Tensor:
        width = head.weight.shape[0] if isinstance(head.weight, Tensor) else 1
        losses: list[Tensor] = []
        gradients: list[Tensor] = []
        few = max(1, _LOGITS // width)
        for part, wanted in zip(torch.split(hidden, few), torch.split(targets, few), strict=True):
            leaf = part.detach().requires_grad_(ctx.needs_input_grad[0])
            with torch.enable_grad():
                found = _losses(head(leaf), wanted)
                if leaf.requires_grad:
                    gradients += torch.autograd.grad(found.sum(), leaf)
            losses.append(found.detach())
        ctx.save_for_backward(*([torch.cat(gradients)] if gradients else []))
        return torch.cat(losses)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (above,) = gradients
        (made,) = ctx.saved_tensors
        return made * above[:, None].to(made.dtype), None, None
