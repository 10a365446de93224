"""A base model whose linear layers can carry Δ and the adapters of one or many clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from flexlora.adapters import Adapter, Factors, LayerSpec
from flexlora.errors import AdapterError, ModelError, nearest
from flexlora.lowrank import LowRank
from flexlora.models.base import BaseModel
from flexlora.models.lora import LoRALinear
from flexlora.models.targets import find_layers


class AdaptedModel:
    """Wraps the targeted layers of `base` in place, each as one `LoRALinear`.

    targets: "all-linear" (every linear-like module but the output head), or patterns as in
    `LayerSpec.matches`. `layers` are the adapted ones by name, as in the original model.
    Raises ModelError for a target that matches nothing or something that is not linear-like.
    """

    def __init__(self, base: BaseModel, targets: Sequence[str] = ("all-linear",)) -> None:
        if any(isinstance(module, LoRALinear) for module in base.model.modules()):
            raise ModelError(f"model {base.name} is adapted already; load the base model again")
        self.base = base
        self.layers: tuple[LayerSpec, ...] = find_layers(base.model, base.name, targets)
        self._wrapped: dict[str, LoRALinear] = {}
        for layer in self.layers:
            parent, _, last = layer.name.rpartition(".")
            module = base.model.get_submodule(layer.name)
            self._wrapped[layer.name] = LoRALinear(module, layer.name)
            setattr(base.model.get_submodule(parent), last, self._wrapped[layer.name])
        self._clients = 0

    @property
    def model(self) -> nn.Module:
        return self.base.model

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
            spec = self._spec(name, "delta")
            if delta.shape != (spec.m, spec.n):
                raise AdapterError(
                    f"delta of layer {name} is {delta.shape[0]} × {delta.shape[1]}, expected "
                    f"{spec.m} × {spec.n}; it was made for another base model"
                )
        for name, wrapped in self._wrapped.items():
            wrapped.set_delta(layers.get(name))

    def start(
        self,
        adapters: Sequence[Adapter],
        *,
        origin: bool = False,
        dropout: float = 0.0,
        generators: Sequence[torch.Generator] | None = None,
    ) -> list[list[nn.Parameter]]:
        """Carry copies of these K adapters; return their parameters as [all a, all b], by layer.

        Every parameter has the K clients on its first axis; input rows come in K equal blocks.
        SGD and AdamW work on each number alone, so one optimiser over these lists is K optimisers
        that step together; only a norm (gradient clipping) must be taken per index of axis 0.
        A loss that is the sum of the clients' own losses gives every client its own gradient.
        origin and dropout as in `LoRALinear.start`; dropout is drawn layer by layer in the order
        of the forward pass. Whatever was started before is dropped.
        Raises AdapterError for an adapter that does not name exactly the adapted layers.
        """
        if not adapters:
            raise AdapterError("start got no adapter; give one for each client")
        for k, adapter in enumerate(adapters):
            self._check(adapter, f"adapter {k}")
        groups: list[list[nn.Parameter]] = [[], []]
        for name, wrapped in self._wrapped.items():
            a, b = wrapped.start(
                [adapter[name] for adapter in adapters],
                origin=origin,
                dropout=dropout,
                generators=generators or (),
            )
            groups[0].append(a)
            groups[1].append(b)
        self._clients = len(adapters)
        return groups

    def live(self, client: int = 0) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Layer → (b, a) as they are being trained by this client, padding included."""
        pairs = {}
        for name, wrapped in self._wrapped.items():
            assert wrapped.a is not None, "no adapter is started"
            assert wrapped.b is not None, "no adapter is started"
            pairs[name] = (wrapped.b[client], wrapped.a[client])
        return pairs

    def trained(self) -> list[Adapter]:
        """Detached copies of what the K clients trained, at their own ranks and scales."""
        layers: list[dict[str, Factors]] = [{} for _ in range(self._clients)]
        for name, wrapped in self._wrapped.items():
            for mine, factors in zip(layers, wrapped.trained(), strict=True):
                mine[name] = factors
        return [Adapter(mine, self.base.name) for mine in layers]

    def stop(self) -> None:
        """Drop the adapters: the model is base + Δ again."""
        for wrapped in self._wrapped.values():
            wrapped.stop()
        self._clients = 0

    def _spec(self, name: str, what: str) -> LayerSpec:
        if name not in self._wrapped:
            raise AdapterError(
                f"{what} names layer {name}, which is not adapted in {self.base.name}; "
                f"{nearest(name, self._wrapped)}"
            )
        wrapped = self._wrapped[name]
        return LayerSpec(name, wrapped.m, wrapped.n)

    def _check(self, adapter: Adapter, what: str) -> None:
        for name, factors in adapter.items():
            spec = self._spec(name, what)
            if factors.shape != (spec.m, spec.n):
                raise AdapterError(
                    f"{what}, layer {name}: is for {factors.shape[0]} × {factors.shape[1]}, "
                    f"expected {spec.m} × {spec.n}; it was made for another base model"
                )
        for name in self._wrapped:
            if name not in adapter:
                raise AdapterError(
                    f"{what} lacks layer {name}, one of {len(self._wrapped)} adapted ones; "
                    "make it with the same targets as the model"
                )
