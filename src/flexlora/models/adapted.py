"""A base model whose linear layers can carry Δ and the adapters of one or many clients."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import nn

from flexlora.adapters import Adapter, LayerSpec, Sides
from flexlora.errors import AdapterError, nearest
from flexlora.lowrank import LowRank
from flexlora.models.base import BaseModel
from flexlora.models.branching import can_branch
from flexlora.models.carried import Carried
from flexlora.models.lora import LoRALinear, require_bare
from flexlora.models.packing import asking, can_pack
from flexlora.models.read_rows import ReadRows, narrowed
from flexlora.models.rowwise import find_asking, find_rowwise
from flexlora.models.targets import find_layers, linear_width
from flexlora.models.tied import tied_modules
from flexlora.models.trainable import Trainable

_WORTH = 0.75  # Of all rows: where more are read, picking them out costs more than it saves.


class AdaptedModel:
    """Wraps the targeted layers of `base` in place, each as one `LoRALinear`.

    targets: "all-linear" (every linear-like module but the output head), or patterns as in
    `LayerSpec.matches`. `layers` are the adapted ones by name, as in the original model. `width`:
    numbers that a token brings into and out of all linear layers but the output head.
    Raises ModelError for a target that matches nothing or something that is not linear-like.
    """

    def __init__(self, base: BaseModel, targets: Sequence[str] = ("all-linear",)) -> None:
        require_bare(base.model, base.name)
        self.base = base
        self.layers: tuple[LayerSpec, ...] = find_layers(base.model, base.name, targets)
        self.width = linear_width(base.model)
        self._wrapped: dict[str, LoRALinear] = {}
        self._carried: Carried | None = None
        tied = tied_modules(base.model)
        for index, layer in enumerate(self.layers):
            parent, _, last = layer.name.rpartition(".")
            module = base.model.get_submodule(layer.name)
            self._wrapped[layer.name] = LoRALinear(
                module, layer.name, index, tied=layer.name in tied
            )
            setattr(base.model.get_submodule(parent), last, self._wrapped[layer.name])

    @property
    def model(self) -> nn.Module:
        return self.base.model

    @property
    def wrapped(self) -> Mapping[str, LoRALinear]:
        """The adapted layers by name."""
        return self._wrapped

    @property
    def tokenizer(self) -> Any:
        return self.base.tokenizer

    @property
    def fan_in_fan_out(self) -> bool:
        """True where adapted layers keep their weights as (n, m): GPT-2's Conv1D."""
        return any(not isinstance(x.base, nn.Linear) for x in self._wrapped.values())

    @property
    def context(self) -> int:
        """The most positions a sequence may have."""
        return self.base.context

    @property
    def embeddings(self) -> int:
        """Token ids below this number have an embedding."""
        base: Any = self.base.model
        return int(base.get_input_embeddings().weight.shape[0])

    @property
    def device(self) -> torch.device:
        return next(self.base.model.parameters()).device

    @cached_property
    def packs(self) -> bool:
        """Whether sequences can share a row without padding; found out on first use."""
        with self.alone():
            return can_pack(self.base.model)

    @cached_property
    def branches(self) -> bool:
        """Whether what sequences of a row begin with alike can be there once, and that pays; found
        out on first use.

        On a CPU alone: elsewhere a call of the attention for each piece is not the faster way.
        """
        if not self.packs or self.device.type != "cpu":
            return False
        with self.alone():
            return can_branch(self.base.model)

    @cached_property
    def _rowwise(self) -> list[nn.Module]:
        with self.alone():
            return find_rowwise(self.base.model)

    @cached_property
    def _asking(self) -> list[nn.Module]:
        if not self.packs:
            return []
        with self.alone():
            return find_asking(self.base.model, self._rowwise)

    @contextmanager
    def reading(self, read: ReadRows) -> Iterator[None]:
        """While the block runs (backward pass included), no other rows' logits are right.

        Past the last attention the others are not computed, so nothing may be made of them.
        """
        if self._carried is None or len(read.places) > _WORTH * read.total:
            yield
            return
        # Found on first use, by trials that must see the model whole.
        rowwise, ask = self._rowwise, self._asking
        with narrowed(rowwise, read, self._carried.narrow), asking(ask, read.places):
            yield

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The underlying model's forward."""
        return self.base.model(*args, **kwargs)

    __call__ = forward

    def set_delta(self, layers: Mapping[str, LowRank]) -> None:
        """Stand on W₀ + Δ, whatever Δ was before; layers that are not named go back to W₀.

        Cumulative against the pristine W₀, which an empty mapping restores bit for bit. Raises
        AdapterError, before anything is changed, for an unknown layer or another shape.
        """
        for name, delta in layers.items():
            self._spec(name, "delta")
            self._wrapped[name].require_fit(delta)
        for name, wrapped in self._wrapped.items():
            wrapped.set_delta(layers.get(name))

    def start(
        self,
        adapters: Sequence[Adapter],
        *,
        origin: bool = False,
        dropout: float = 0.0,
        stacked: bool | None = None,
        sides: Sides = "both",
    ) -> Carried:
        """Carry copies of these K adapters: client k's rows get its branch, and no other's.

        origin: subtract the starting factors, frozen. dropout: on the input of the trained branch
        alone, inverted (PEFT's), drawn from `Carried.sow`. stacked: pad ranks to the largest and
        batch products (default: off the CPU, where each call costs more than the padding). sides:
        those that get gradients.
        A loss that is the sum of the clients' own losses gives every client its own gradient.
        Whatever was started before is dropped. Raises AdapterError for an adapter that does not
        name exactly the adapted layers.
        """
        if not adapters:
            raise AdapterError("start got no adapter; give one for each client")
        for k, adapter in enumerate(adapters):
            self.check(adapter, f"adapter {k}")
        first = next(iter(self._wrapped.values()))
        if stacked is None:
            stacked = first.weight.device.type != "cpu"
        pad = {name: max(x[name].rank for x in adapters) for name in self._wrapped}
        carried = Carried(
            [
                Trainable(
                    adapter,
                    dtype=first.dtype,
                    device=first.weight.device,
                    pad=pad if stacked else None,
                    origin=origin,
                    sides=sides,
                )
                for adapter in adapters
            ],
            dropout=dropout,
            stacked=stacked,
        )
        self._carry(carried)
        return carried

    def stop(self) -> None:
        """Drop the adapters: the model is base + Δ again."""
        self._carry(None)

    def _carry(self, carried: Carried | None) -> None:
        self._carried = carried
        for wrapped in self._wrapped.values():
            wrapped.carry(carried)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """W₀ while the block runs, for trials: a Δ that is not finite would spoil their answer."""
        carried = self._carried
        held = {name: x.delta for name, x in self._wrapped.items() if x.delta is not None}
        self._carry(None)
        self.set_delta({})
        try:
            yield
        finally:
            self.set_delta(held)
            self._carry(carried)

    def _spec(self, name: str, what: str) -> LayerSpec:
        if name not in self._wrapped:
            raise AdapterError(
                f"{what} names layer {name}, which is not adapted in {self.base.name}; "
                f"{nearest(name, self._wrapped)}"
            )
        wrapped = self._wrapped[name]
        return LayerSpec(name, wrapped.m, wrapped.n)

    def check(self, adapter: Adapter, what: str) -> None:
        """Raise AdapterError, naming `what`, unless it fits exactly the adapted layers."""
        for name, factors in adapter.items():
            spec = self._spec(name, what)
            if factors.shape != (spec.m, spec.n):
                raise AdapterError(
                    f"{what}, layer {name}: is for {factors.shape[0]} × {factors.shape[1]}, "
                    f"expected {spec.m} × {spec.n}; it was made for another base model"
                )
            if factors.sides != "both":
                raise AdapterError(
                    f"{what}, layer {name}: holds {factors.sides} alone, expected both sides; fill "
                    "the other one first"
                )
        for name in self._wrapped:
            if name not in adapter:
                raise AdapterError(
                    f"{what} lacks layer {name}, one of {len(self._wrapped)} adapted ones; "
                    "make it with the same targets as the model"
                )
