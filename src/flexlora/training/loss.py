"""The language-model loss, with the output head applied only where a label counts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from flexlora.models.lora import LoRALinear
from flexlora.training.batches import IGNORED, Batch


class ResponseLoss:
    """Token-mean cross entropy of a causal model, equal to transformers' own loss with labels.

    Inside `with ResponseLoss(model).active() as loss:` the model's output head sees only the
    positions that predict a label: with a short response and a large vocabulary most of the head's
    work falls away. Whatever the model does to its logits afterwards (scaling, soft caps) still
    happens. A model whose head is not found, or adapted (its rows belong to clients), computes all
    logits. Padding stands on the right, so that no token of a causal model can attend to it and no
    mask is needed.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        getter: Any = getattr(model, "get_output_embeddings", None)
        head = getter() if getter is not None else None
        plain = isinstance(head, nn.Module) and not isinstance(head, LoRALinear)
        self._head: nn.Module | None = head if plain else None
        self._places: Tensor | None = None

    @contextmanager
    def active(self) -> Iterator[ResponseLoss]:
        """Select inside the head while the block runs."""
        handle = self._head.register_forward_pre_hook(self._select) if self._head else None
        try:
            yield self
        finally:
            if handle is not None:
                handle.remove()

    def __call__(self, batch: Batch) -> Tensor:
        """The mean over the batch's `learnt` tokens, as a scalar that carries gradients."""
        wanted = batch.labels[:, 1:].reshape(-1)
        counts = wanted != IGNORED
        rows, length = batch.labels.shape
        flat = torch.arange(rows * length, device=wanted.device).view(rows, length)
        places = flat[:, :-1].reshape(-1)[counts]
        self._places = places
        try:
            logits: Tensor = self._model(input_ids=batch.input_ids, use_cache=False).logits
        finally:
            self._places = None
        if logits.shape[:2] == (rows, length):  # The head was not reached: select here.
            logits = logits.reshape(rows * length, -1)[places]
        logits = logits.reshape(places.shape[0], -1)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return functional.cross_entropy(logits, wanted[counts])

    def _select(self, _head: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._places is None or not args or args[0].ndim != 3:
            return None
        hidden: Tensor = args[0]
        chosen = hidden.reshape(-1, hidden.shape[-1]).index_select(0, self._places)
        return (chosen.unsqueeze(0), *args[1:])
