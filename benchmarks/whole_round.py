"""A round of a whole model: its layers, its clients, and their replies.

Trained replies of a few layers of each shape (one_layer.py) stand for all layers of that shape:
each further layer is one of them under random permutations and sign flips of its rows and columns,
which leaves its spectrum, and the work, as they are.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flexlora.adapters import Factors, LayerSpec
from flexlora.federation.streams import Streams
from flexlora.rules import Spec
from flexlora.runs.environment import environment
from measuring import gpu
from one_layer import clients_of, examples_of, ranks_of, train

Row = dict[str, Any]


@dataclass(frozen=True)
class Model:
    """A LLaMA's adapted layers. key_value: outputs of k and v, fewer where heads share them."""

    layers: int
    hidden: int
    ffn: int
    key_value: int

    def specs(self) -> tuple[LayerSpec, ...]:
        h, f, kv = self.hidden, self.ffn, self.key_value
        attention = {"q_proj": (h, h), "k_proj": (kv, h), "v_proj": (kv, h), "o_proj": (h, h)}
        mlp = {"gate_proj": (f, h), "up_proj": (f, h), "down_proj": (h, f)}
        return tuple(
            LayerSpec(f"model.layers.{index}.{part}.{name}", *shape)
            for index in range(self.layers)
            for part, group in (("self_attn", attention), ("mlp", mlp))
            for name, shape in group.items()
        )


LLAMA_1B = Model(layers=24, hidden=2048, ffn=5504, key_value=2048)
LLAMA_8B = Model(layers=32, hidden=4096, ffn=14336, key_value=1024)


@dataclass(frozen=True)
class Plan:
    """All that both sides need to know of the round. Sent to their processes as it is."""

    model: Model
    clients: int
    rank_scale: float
    seeds: int
    dtype: str
    seed: int
    folder: Path

    @cached_property
    def layers(self) -> tuple[LayerSpec, ...]:
        return self.model.specs()

    @cached_property
    def ranks(self) -> list[dict[str, int]]:
        """Of each client: layer name → rank."""
        by_layer = {x.name: ranks_of(self.clients, x, self.rank_scale) for x in self.layers}
        return [{name: r[client] for name, r in by_layer.items()} for client in range(self.clients)]

    @cached_property
    def spec(self) -> Spec:
        return Spec.of(self.layers, self.ranks)

    @cached_property
    def names(self) -> list[str]:
        return [name for name, _ in clients_of(self.clients)]

    def distinct(self, layer: LayerSpec) -> list[int]:
        return sorted({ranks[layer.name] for ranks in self.ranks})

    def examples(self) -> dict[str, int]:
        return dict(zip(self.names, examples_of(self.clients), strict=True))

    def sample(self, index: int) -> Path:
        """Folder of the trained layer that this one is made of."""
        layer = self.layers[index]
        return self.folder / f"{layer.kind}-{layer.m}x{layer.n}-{index % self.seeds}"

    def train(self) -> None:
        for index, layer in enumerate(self.layers):
            if not self.sample(index).exists():
                ranks = ranks_of(self.clients, layer, self.rank_scale)
                train(self.sample(index), layer, ranks, self.seed + index % self.seeds)

    def turned(self, index: int, device: str = "cpu") -> Turned:
        layer = self.layers[index]
        return Turned(layer, Streams(self.seed).generator(layer.name), device)


class Turned:
    """How a layer differs from the trained one: rows and columns permuted, some of them negated."""

    def __init__(self, layer: LayerSpec, generator: torch.Generator, device: str) -> None:
        (self._rows, self._row_signs), (self._columns, self._column_signs) = (
            (torch.randperm(k, generator=generator).to(device), _signs(k, generator).to(device))
            for k in (layer.m, layer.n)
        )

    def factors(self, found: Factors) -> Factors:
        return Factors(self._left(found.b), self._right(found.a), found.scale)

    def state(self, held: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The last round's: what the clients were sent from."""
        right = {name: self._right(held[name]) for name in ("vh", "fresh")}
        return {"u": self._left(held["u"]), "s": held["s"], **right}

    def _left(self, tall: Tensor) -> Tensor:
        return tall[self._rows] * self._row_signs[:, None].to(tall.dtype)

    def _right(self, wide: Tensor) -> Tensor:
        return wide[:, self._columns] * self._column_signs.to(wide.dtype)


def _signs(count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, (count,), generator=generator) * 2.0 - 1.0


def planned(model: Model, options: argparse.Namespace, folder: Path) -> Plan:
    return Plan(
        model=model,
        clients=options.clients,
        rank_scale=options.rank_scale,
        seeds=options.seeds,
        dtype=options.dtype,
        seed=options.seed,
        folder=folder,
    )


def about(plan: Plan, device: str) -> Row:
    model = plan.model
    shape = f"{model.layers}x({model.hidden},{model.ffn},{model.key_value})"
    return {
        "name": f"{shape}:{plan.clients}:{plan.dtype}:{device}",
        "device": device,
        "model": asdict(model),
        "layers": len(plan.layers),
        "clients": plan.clients,
        "dtype": plan.dtype,
        "environment": environment() | gpu(device),
    }


def in_dtype(factors: Factors, dtype: str) -> Factors:
    kind = getattr(torch, dtype)
    return Factors(factors.b.to(kind), factors.a.to(kind), factors.scale)
