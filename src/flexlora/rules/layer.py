"""What a rule is told of a layer and of a client, and what it keeps of a layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from flexlora.adapters import Delta, LayerSpec, Scaling, lora_scale
from flexlora.lowrank import Certificate, LowRank

LayerState = Mapping[str, Tensor]


@dataclass(frozen=True)
class Spec:
    """What a federation adapts: its layers, the highest and lowest rank per layer, and α."""

    layers: tuple[LayerSpec, ...]
    highest: Mapping[str, int]
    lowest: Mapping[str, int]
    alpha: float = 16.0
    scaling: Scaling = "lora"

    @staticmethod
    def of(
        layers: Sequence[LayerSpec],
        ranks: Sequence[Mapping[str, int]],
        alpha: float = 16.0,
        scaling: Scaling = "lora",
    ) -> Spec:
        """The spec of a federation whose clients train at these ranks (layer name → rank)."""
        highest = {x.name: max(r[x.name] for r in ranks) for x in layers}
        lowest = {x.name: min(r[x.name] for r in ranks) for x in layers}
        return Spec(tuple(layers), highest, lowest, alpha, scaling)

    @property
    def anchor(self) -> int:
        """The lowest rank of any client in any layer, which "anchored" leaves at α/r.

        As the federation began: it does not follow clients that prune themselves, so that a rank
        has one scale for as long as a run goes on.
        """
        return min(self.lowest.values(), default=1)

    def scale(self, rank: int) -> float:
        return lora_scale(self.alpha, rank, self.scaling, self.anchor)

    def at(self, round: int, generator: torch.Generator | None = None) -> Iterator[Layer]:
        """Every layer in order, as a rule sees it in this round; all draw from this generator.

        None: one that is always the same, for what is read out of a state and draws nothing new.
        """
        draws = torch.Generator() if generator is None else generator
        anchor = self.anchor
        for x in self.layers:
            yield Layer(
                name=x.name,
                m=x.m,
                n=x.n,
                highest=self.highest[x.name],
                lowest=self.lowest[x.name],
                alpha=self.alpha,
                scaling=self.scaling,
                anchor=anchor,
                round=round,
                generator=draws,
            )


@dataclass(frozen=True, eq=False)
class Layer:
    """One adapted layer of m outputs and n inputs, as a rule sees it.

    highest, lowest: ranks of the federation's clients here; anchor: `Spec.anchor`. round: the one
    that is prepared or combined, counted from 1 (0 before the first); where a state is read, the
    one it came from. generator: the only source of random numbers.
    """

    name: str
    m: int
    n: int
    highest: int
    lowest: int
    alpha: float
    scaling: Scaling
    anchor: int
    round: int
    generator: torch.Generator

    @property
    def shape(self) -> tuple[int, int]:
        return self.m, self.n

    def scale(self, rank: int) -> float:
        """That of factors of this rank, by the federation's α and scaling."""
        return lora_scale(self.alpha, rank, self.scaling, self.anchor)


@dataclass(frozen=True, eq=False)
class ClientView:
    """What a rule knows of a client that it sends to: its ranks (layer → rank), perhaps its id.

    id: "" for a rule whose sends depend on ranks alone.
    """

    id: str
    ranks: Mapping[str, int]

    def rank(self, layer: Layer) -> int:
        """The rank at which it trains this layer."""
        return self.ranks[layer.name]


@dataclass(frozen=True, eq=False)
class State:
    """The server's whole state after `round` rounds. Immutable; a round makes a new one."""

    spec: Spec
    round: int
    layers: Mapping[str, LayerState]
    delta: Delta = field(default_factory=Delta)

    def after(self, combined: Mapping[str, Combined]) -> State:
        """The state after one round more, whose layers became this; Δ goes on with them.

        A layer without a new Δ keeps the one that it has. Δ is told as patches where every layer
        that has a new one has its step, else whole.
        """
        frozen = {name: x.frozen for name, x in combined.items() if x.frozen is not None}
        steps = {name: x.step for name, x in combined.items() if x.step is not None}
        patch = steps if steps.keys() == frozen.keys() else None
        return State(
            self.spec,
            self.round + 1,
            {name: x.state for name, x in combined.items()},
            self.delta.advanced({**self.delta.layers, **frozen}, patch) if frozen else self.delta,
        )


@dataclass(frozen=True, eq=False)
class Combined:
    """A layer after a round: its state, Δ for it if the rule uses Δ, and the step that led there.

    `frozen` is None where Δ stays as it is.
    `step` is None where Δ cannot be reached from its last version by adding something smaller.
    `certificate` says what the rule cut off the sum to keep its state, if it cuts anything.
    """

    state: LayerState
    frozen: LowRank | None = None
    step: LowRank | None = None
    certificate: Certificate | None = None
