"""The seam of a rule: pure maths in two halves, the server's and the client's.

A rule sees one layer at a time. It does no I/O, knows no model, and draws random numbers only from
the generator it is given. What a rule keeps per layer is a mapping of named tensors, so that any
rule's state can be checkpointed without knowing the rule.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from flexlora.adapters import Adapter, Delta, Factors, LayerSpec, Scaling, lora_scale
from flexlora.errors import AdapterError, RoundError
from flexlora.lowrank import Certificate, LowRank, singular_values

LayerState = Mapping[str, Tensor]
Live = Mapping[str, tuple[Tensor, Tensor]]
_NAMED = 5  # Layers that an error lists at most.


@dataclass(frozen=True)
class Traits:
    """What is true of a rule; the contract tests choose the laws by it.

    needs: "sum" if combining is linear in the contributions, "each" if it must see every one.
    mixed_ranks: clients of different ranks are combined as they are; else all are cut to the
    lowest rank of the federation (the bucket effect).
    restarts: every round trains a fresh adapter; the past lives in Δ.
    prunes: a client may return a lower rank than it was sent, and keeps it.
    compares: whether equal products or only equal factors give equal results.
    """

    needs: Literal["sum", "each"] = "sum"
    mixed_ranks: bool = True
    restarts: bool = False
    prunes: bool = False
    compares: Literal["product", "factors"] = "product"


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

    def scale(self, rank: int) -> float:
        return lora_scale(self.alpha, rank, self.scaling)


@dataclass(frozen=True, eq=False)
class State:
    """The server's whole state after `round` rounds. Immutable; a round makes a new one."""

    spec: Spec
    round: int
    layers: Mapping[str, LayerState]
    delta: Delta = field(default_factory=Delta)


@dataclass(frozen=True, eq=False)
class Contribution:
    """One client's part of one layer: its normalised weight, what it trained, what it was sent.

    `read` fetches what it trained, of this rank, each time anew: whoever combines many holds one
    at a time. `origin` is what the client was sent where Δ already holds that (else None): its
    contribution is trained − origin.
    """

    client: str
    weight: float
    rank: int
    read: Callable[[], Factors]
    origin: Factors | None = None

    @staticmethod
    def of(
        client: str, weight: float, trained: Factors, origin: Factors | None = None
    ) -> Contribution:
        """A contribution that is in memory already."""
        return Contribution(client, weight, trained.rank, lambda: trained, origin)

    @property
    def trained(self) -> Factors:
        return self.read()

    @property
    def width(self) -> int:
        """Inner width of `update`."""
        return self.rank + (self.origin.rank if self.origin is not None else 0)

    def update(self) -> LowRank:
        """trained − origin, of inner width at most 2r."""
        product = self.trained.product()
        return product if self.origin is None else product - self.origin.product()


@dataclass(frozen=True)
class Summary:
    """What a rule may weigh a reply by: training examples, and ‖update‖_F over all layers."""

    client: str
    examples: int
    norm: float


@dataclass(frozen=True, eq=False)
class Combined:
    """A layer after a round: its state, Δ for it if the rule uses Δ, and the step that led there.

    `step` is None where Δ cannot be reached from its last version by adding something smaller.
    `certificate` says what the rule cut off the sum to keep its state, if it cuts anything.
    """

    state: LayerState
    frozen: LowRank | None = None
    step: LowRank | None = None
    certificate: Certificate | None = None


class Rule(abc.ABC):
    """How clients' adapters of different ranks become one update, and what each client is sent.

    `origin` (class constant): True if Δ holds what is sent to be trained, so that the client
    computes with W₀ + Δ + trainable − origin.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    traits: ClassVar[Traits]
    origin: ClassVar[bool] = False

    # --- the server's half -------------------------------------------------------------------

    @abc.abstractmethod
    def init_layer(self, spec: Spec, layer: LayerSpec, generator: torch.Generator) -> LayerState:
        """The layer's state before round 1. A client that trains nothing must leave the base."""

    @abc.abstractmethod
    def warm_start_layer(
        self, spec: Spec, layer: LayerSpec, start: LowRank, generator: torch.Generator
    ) -> Combined:
        """The layer before round 1 of a federation that begins at W₀ + start.

        Afterwards `learned_layer` is `start` itself where the state holds any rank, else the best
        approximation of the rank that it holds. A rule that uses Δ has it frozen here already. A
        start of zero gives the state of `init_layer`. `start` is finite and float32.
        """

    @abc.abstractmethod
    def send_layer(
        self, spec: Spec, state: LayerState, rank: int, generator: torch.Generator
    ) -> Factors:
        """What a client of this rank is sent to train."""

    @abc.abstractmethod
    def combine_layer(
        self,
        spec: Spec,
        layer: LayerSpec,
        state: LayerState,
        contributions: Sequence[Contribution],
        generator: torch.Generator,
    ) -> Combined:
        """The layer after a round; contributions come in client order, their weights sum to 1.

        What a client trained is read when it is asked for: go through them once and hold none, and
        memory does not grow with their number.
        """

    @abc.abstractmethod
    def learned_layer(self, spec: Spec, layer: LayerSpec, state: LayerState) -> LowRank:
        """All that the federation has learned for this layer: the server's full update."""

    @abc.abstractmethod
    def readout_layer(self, spec: Spec, layer: LayerSpec, state: LayerState, rank: int) -> Factors:
        """The adapter of exactly this rank that the rule hands out for use (not for training)."""

    def singular_values_layer(self, spec: Spec, layer: LayerSpec, state: LayerState) -> Tensor:
        """The singular values (k,) of all that was learned for this layer, descending."""
        return singular_values(self.learned_layer(spec, layer, state))

    def weigh(self, summaries: Sequence[Summary]) -> dict[str, float]:
        """Client → weight, non-negative, summing to 1: by training examples (FedAvg).

        Raises RoundError where all weights are zero.
        """
        return normalised({s.client: float(s.examples) for s in summaries})

    # --- the client's half -------------------------------------------------------------------

    def penalty(self, live: Live) -> Tensor | None:
        """A term added to the client's loss: layer → (b, a) as they are trained. None: no term."""
        return None

    def encode(self, trained: Adapter, sent: Adapter) -> Adapter:
        """What the client returns, given what it trained and what it was sent."""
        return trained

    # --- whole models, from the layers above -------------------------------------------------

    @final
    def init(self, spec: Spec, generator: torch.Generator) -> State:
        """The state before round 1."""
        layers = {x.name: self.init_layer(spec, x, generator) for x in spec.layers}
        return State(spec, 0, layers)

    @final
    def warm_start(
        self, spec: Spec, start: Mapping[str, LowRank], generator: torch.Generator
    ) -> State:
        """The state before round 1 at W₀ + start; layers that `start` lacks begin at zero.

        Δ is at version 1 for rules that use it. Raises AdapterError for a layer that the spec
        lacks, another shape, and values that float32 does not hold.
        """
        _require_fit(spec, start)
        layers, frozen = {}, {}
        for x in spec.layers:
            given = start.get(x.name, LowRank.zero(x.m, x.n))
            begun = self.warm_start_layer(
                spec, x, LowRank(given.left.float(), given.right.float()), generator
            )
            layers[x.name] = begun.state
            if begun.frozen is not None:
                frozen[x.name] = begun.frozen
        return State(spec, 0, layers, Delta().advanced(frozen, None) if frozen else Delta())

    @final
    def send(self, state: State, ranks: Mapping[str, int], generator: torch.Generator) -> Adapter:
        """What a client of these ranks (layer → rank) is sent to train."""
        spec = state.spec
        return Adapter(
            {
                x.name: self.send_layer(spec, state.layers[x.name], ranks[x.name], generator)
                for x in spec.layers
            }
        )

    @final
    def ranks_for(self, spec: Spec, ranks: Mapping[str, int]) -> dict[str, int]:
        """The ranks a client trains at under this rule: its own, or the federation's lowest."""
        return dict(ranks if self.traits.mixed_ranks else spec.lowest)

    @final
    def learned(self, state: State) -> dict[str, LowRank]:
        """Layer → the server's full update, to be added to the pristine base."""
        spec = state.spec
        return {x.name: self.learned_layer(spec, x, state.layers[x.name]) for x in spec.layers}

    @final
    def singular_values(self, state: State) -> dict[str, Tensor]:
        """Layer → the singular values of all that was learned, descending."""
        spec = state.spec
        return {
            x.name: self.singular_values_layer(spec, x, state.layers[x.name]) for x in spec.layers
        }

    @final
    def readout(self, state: State, ranks: Mapping[str, int]) -> Adapter:
        """The adapter of these ranks (layer → rank) that stands for the whole learned update."""
        spec = state.spec
        return Adapter(
            {
                x.name: self.readout_layer(spec, x, state.layers[x.name], ranks[x.name])
                for x in spec.layers
            }
        )


def _require_fit(spec: Spec, start: Mapping[str, LowRank]) -> None:
    shapes = {x.name: (x.m, x.n) for x in spec.layers}
    odd = [name for name in start if name not in shapes]
    if odd:
        named = ", ".join(odd[:_NAMED]) + (f", … ({len(odd)} in all)" if len(odd) > _NAMED else "")
        raise AdapterError(
            f"the start has layers that are not adapted: {named}; add them to model.targets, or "
            "start from an adapter without them"
        )
    for name, matrix in start.items():
        if matrix.shape != shapes[name]:
            (m, n), (wanted_m, wanted_n) = matrix.shape, shapes[name]
            raise AdapterError(
                f"layer {name} of the start is {m} × {n}, expected {wanted_m} × {wanted_n}; "
                "it was made for another base model"
            )
        finite = all(bool(torch.isfinite(x.float()).all()) for x in (matrix.left, matrix.right))
        if not finite or not matrix.norm() <= torch.finfo(torch.float32).max:
            raise AdapterError(
                f"layer {name} of the start holds NaN or infinity in float32; give an adapter of "
                "finite values"
            )


def normalised(weights: Mapping[str, float]) -> dict[str, float]:
    """Weights divided by their sum.

    Raises RoundError for a negative or non-finite one, and for a zero sum.
    """
    total = sum(weights.values())
    for client, weight in weights.items():
        if not 0.0 <= weight < math.inf:
            raise RoundError(
                f"client {client} has weight {weight}; weights are finite and never negative"
            )
    if total <= 0.0:
        raise RoundError(
            f"the weights of all {len(weights)} clients are zero; at least one client needs data"
        )
    return {client: weight / total for client, weight in weights.items()}
