"""The seam of a rule: pure maths in two halves, the server's and the client's.

A rule sees one layer at a time. It does no I/O, knows no model, and draws random numbers only from
the generator it is given. What a rule keeps per layer is a mapping of named tensors, so that any
rule's state can be checkpointed without knowing the rule.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import ClassVar, final

import torch
from torch import Tensor

from flexlora.adapters import Adapter, Delta, Factors, Sides
from flexlora.errors import ConfigError, RuleError
from flexlora.hooks import watch
from flexlora.lowrank import LowRank, singular_values
from flexlora.rules.client import Encoded, Live, Memory
from flexlora.rules.contributions import Contributions, SumsOf
from flexlora.rules.layer import ClientView, Combined, Layer, LayerState, Spec, State
from flexlora.rules.start import require_fit
from flexlora.rules.traits import Traits
from flexlora.rules.weighing import Weighing, weighed_by
from flexlora.rules.weights import ExamplesOf, Summary, require_weights

# What a rule is made of: whatever calls them may rely on `hooks.watch`.
HOOKS = frozenset(
    {
        "init_layer",
        "warm_start_layer",
        "send_layer",
        "combine_layer",
        "learned_layer",
        "readout_layer",
        "singular_values_layer",
        "settle",
        "weigh",
        "trains",
        "returns",
        "receive",
        "penalty",
        "encode",
    }
)


class Rule(abc.ABC):
    """How clients' adapters of different ranks become one update, and what each client is sent."""

    name: ClassVar[str]
    source: ClassVar[str]
    traits: ClassVar[Traits]
    # Law of flexlora.laws → why this method does not keep it, where no trait says so.
    by_design: ClassVar[Mapping[str, str]] = {}
    _weighing: Weighing = "examples"  # See `weighed`.

    def __init_subclass__(cls, **more: object) -> None:
        """What a hook raises names rule, method, layer and line; none changes what it is given."""
        super().__init_subclass__(**more)
        watch(cls, HOOKS, "rule", Layer)

    # --- the server's half -------------------------------------------------------------------

    @abc.abstractmethod
    def init_layer(self, layer: Layer) -> LayerState:
        """The layer's state before round 1. A client that trains nothing must leave the base."""

    @abc.abstractmethod
    def warm_start_layer(self, layer: Layer, start: LowRank) -> Combined:
        """The layer before round 1 of a federation that begins at W₀ + start.

        Afterwards `learned_layer` is `start` itself where the state holds any rank, else the best
        approximation of the rank that it holds. A rule that uses Δ has it frozen here already. A
        start of zero gives the state of `init_layer`. `start` is finite and float32.
        """

    @abc.abstractmethod
    def send_layer(self, layer: Layer, state: LayerState, client: ClientView) -> Factors:
        """What this client is sent to train, at its rank of this layer. A side may be absent, where
        `receive` fills it."""

    @abc.abstractmethod
    def combine_layer(
        self, layer: Layer, state: LayerState, contributions: Contributions
    ) -> Combined:
        """The layer after a round. The traits say what may be asked of the contributions."""

    @abc.abstractmethod
    def learned_layer(self, layer: Layer, state: LayerState) -> LowRank:
        """All that the federation has learned for this layer: the server's full update."""

    @abc.abstractmethod
    def readout_layer(self, layer: Layer, state: LayerState, rank: int) -> Factors:
        """The adapter of exactly this rank that the rule hands out for use (not for training)."""

    def singular_values_layer(self, layer: Layer, state: LayerState) -> Tensor:
        """The singular values (k,) of all that was learned for this layer, descending."""
        return singular_values(self.learned_layer(layer, state))

    def settle(self, spec: Spec, combined: Mapping[str, Combined]) -> Mapping[str, Combined]:
        """All layers after a round, or of a warm start: for a rule that shares out something among
        them. What it changes is Δ and steps, never a layer's state.
        """
        return combined

    def weigh(self, summaries: Sequence[Summary]) -> dict[str, float]:
        """Client → weight, non-negative, summing to 1: by training examples (FedAvg), or alike.

        The examples are those that it holds: `max_steps` does not change them. The traits say what
        may be asked of a summary. Raises RoundError where all weights are zero.
        """
        return weighed_by(self._weighing, summaries)

    def trains(self, round: int) -> Sides:
        """The sides that clients train in this round; the other one stays as it was received."""
        return "both"

    def returns(self, round: int) -> Sides:
        """The sides that clients return: those that they train.

        To the server, what is not returned is what it sent where nobody changed that, else absent.
        """
        return self.trains(round)

    # --- the client's half -------------------------------------------------------------------

    def receive(self, sent: Adapter, memory: Memory) -> Adapter:
        """What the client trains, or evaluates, both sides of it, given what came.

        memory: what its last `encode` left, in an earlier round; empty at first.
        """
        return sent

    def penalty(self, live: Live, sent: Live) -> Tensor | None:
        """A term added to the client's loss, or None for none.

        live: layer → (b, a) as they are trained; sent: as they were received, at the same rank,
        dtype and device. A side that is not trained has no gradient.
        """
        return None

    def encode(self, trained: Adapter, sent: Adapter, memory: Memory) -> Encoded:
        """What the client returns and remembers, given what it trained and what it received.

        Of what it returns, the sides that `returns` names travel.
        """
        return Encoded(trained, memory)

    # --- whole models, from the layers above -------------------------------------------------

    @final
    def init(self, spec: Spec, generator: torch.Generator) -> State:
        """The state before round 1."""
        return State(spec, 0, {x.name: self.init_layer(x) for x in spec.at(0, generator)})

    @final
    def warm_start(
        self, spec: Spec, start: Mapping[str, LowRank], generator: torch.Generator
    ) -> State:
        """The state before round 1 at W₀ + start; layers that `start` lacks begin at zero.

        Δ is at version 1 for rules that use it. Raises AdapterError for a layer that the spec
        lacks, another shape, and values that float32 does not hold.
        """
        require_fit(spec, start)
        begun = {}
        for x in spec.at(0, generator):
            given = start.get(x.name, LowRank.zero(x.m, x.n))
            whole = LowRank(given.left.float(), given.right.float())
            begun[x.name] = self.warm_start_layer(x, whole)
        settled = self.settle(spec, begun)
        layers = {name: x.state for name, x in settled.items()}
        frozen = {name: x.frozen for name, x in settled.items() if x.frozen is not None}
        return State(spec, 0, layers, Delta().advanced(frozen, None) if frozen else Delta())

    @final
    def send(
        self,
        state: State,
        ranks: Mapping[str, int],
        generator: torch.Generator,
        client: str = "",
    ) -> Adapter:
        """What a client of these ranks (layer → rank) is sent to train in the round that comes.

        client: its id, which only a rule that sends by client gets to see.
        """
        view = ClientView(client if self.traits.sends == "client" else "", ranks)
        layers = state.spec.at(state.round + 1, generator)
        return Adapter({x.name: self.send_layer(x, state.layers[x.name], view) for x in layers})

    @final
    def weights(self, summaries: Sequence[Summary]) -> dict[str, float]:
        """`weigh`, with no more in reach than the traits say; in the order of the summaries.

        Raises RuleError for asking more, and for what cannot be weights of these clients.
        """
        asked = summaries
        if self.traits.needs == "sum":
            asked = [ExamplesOf(summary, self.name) for summary in summaries]
        return require_weights(self.weigh(asked), summaries, self.name)

    @final
    def combine(self, layer: Layer, state: LayerState, contributions: Contributions) -> Combined:
        """`combine_layer`, with no more in reach than the traits say. RuleError for asking more."""
        if self.traits.needs == "sum":
            contributions = SumsOf(contributions, self.name)
        return self.combine_layer(layer, state, contributions)

    @final
    def weighed(self, by: Weighing) -> Rule:
        """The same rule, its clients weighed by this. Raises ConfigError where it has a measure of
        its own."""
        if by != "examples" and type(self).weigh is not Rule.weigh:
            raise ConfigError(
                f"federation.weights is {by!r}, but rule {self.name} weighs by a measure of its "
                "own; leave it out"
            )
        made = object.__new__(type(self))  # A copy may be made by code of its own.
        vars(made).update(vars(self), _weighing=by)
        for kind in type(self).__mro__:
            for slot in vars(kind).get("__slots__", ()):
                if hasattr(self, slot) and not slot.startswith("__"):
                    object.__setattr__(made, slot, getattr(self, slot))
        return made

    @final
    def reply(self, round: int, trained: Adapter, sent: Adapter, memory: Memory) -> Encoded:
        """`encode`, with the sides that travel alone. RuleError for what is no `Encoded`, and for a
        memory that the traits do not declare."""
        encoded = self.encode(trained, sent, memory)
        if not isinstance(encoded, Encoded) or not isinstance(encoded.adapter, Adapter):
            raise RuleError(
                f"encode of rule {self.name} gives no flexlora.rules.Encoded of a flexlora.Adapter"
            )
        if encoded.memory and not self.traits.memory:
            raise RuleError(
                f"encode of rule {self.name} gives a memory, but its traits say memory=False, so "
                "that nothing would be remembered; declare memory=True"
            )
        return Encoded(encoded.adapter.only(self.returns(round)), encoded.memory)

    @final
    @property
    def penalises(self) -> bool:
        """Whether it adds anything to a client's loss."""
        return type(self).penalty is not Rule.penalty

    @final
    def leaves_the_rest(self, round: int) -> bool:
        """Whether what clients do not return is still as it was sent."""
        return not self.traits.memory and self.trains(round) == self.returns(round)

    @final
    def ranks_for(self, spec: Spec, ranks: Mapping[str, int]) -> dict[str, int]:
        """The ranks a client trains at under this rule: its own, or the federation's lowest."""
        return dict(ranks if self.traits.mixed_ranks else spec.lowest)

    @final
    def learned(self, state: State) -> dict[str, LowRank]:
        """Layer → the server's full update, to be added to the pristine base."""
        layers = state.spec.at(state.round)
        return {x.name: self.learned_layer(x, state.layers[x.name]) for x in layers}

    @final
    def singular_values(self, state: State) -> dict[str, Tensor]:
        """Layer → the singular values of all that was learned, descending."""
        layers = state.spec.at(state.round)
        return {x.name: self.singular_values_layer(x, state.layers[x.name]) for x in layers}

    @final
    def readout(self, state: State, ranks: Mapping[str, int]) -> Adapter:
        """The adapter of these ranks (layer → rank) that stands for the whole learned update."""
        layers = state.spec.at(state.round)
        return Adapter(
            {x.name: self.readout_layer(x, state.layers[x.name], ranks[x.name]) for x in layers}
        )
