"""The server's own step: how far it goes where a round points, and by what clients weigh."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, final

import torch
from torch import Tensor

from flexlora.adapters import Factors
from flexlora.errors import ConfigError
from flexlora.lowrank import Dense, LowRank, Matrix, Spectrum
from flexlora.options import Option, require
from flexlora.rules.contributions import Contribution, Contributions
from flexlora.rules.layer import Combined, LayerState
from flexlora.rules.spectral import added, exact_state, held_in, named, plus, unnamed
from flexlora.rules.traits import Traits
from flexlora.rules.weights import Summary, normalised

Weighing = Literal["examples", "uniform", "rank", "examples_rank"]

_WEIGHTS: dict[Weighing, Callable[[Summary], float]] = {
    "examples": lambda s: float(s.examples),
    "uniform": lambda _: 1.0,
    "rank": lambda s: s.rank,
    "examples_rank": lambda s: s.examples * s.rank,
}


@final
@dataclass(frozen=True)
class Server:
    """V ← μ V + (Σ − held); the rule is given held + η V in place of its round's sum Σ.

    held is what the sum would replace: all that was learned, the factors that a mean replaces, or
    nothing where Σ is a change already (Δ holds the rest). At η = 1 and μ = 0 that is Σ itself.
    Linear in what clients send, so it is for every rule that needs sums alone; V is kept in
    factored form while that is smaller.

    Source: FedAvgM (Hsu et al. 2019, arXiv 1909.06335), server step of FedOpt (Reddi et al., ICLR
    2021), here on products. A step above 1 makes up for the mean: of K clients that taught
    disjoint things, each keeps 1/K of what it taught.
    """

    step: Annotated[float, Option("η: the server's step", above=0.0, most=100.0)] = 1.0
    momentum: Annotated[float, Option("μ: of the server", least=0.0, most=0.999)] = 0.0
    weights: Annotated[
        Weighing,
        Option("by what clients weigh: examples, alike, their mean rank, or examples times rank"),
    ] = "examples"

    def __post_init__(self) -> None:
        require(self, "server")

    @property
    def moves(self) -> bool:
        """Whether it does more than take the sum as it is."""
        return self.step != 1.0 or self.momentum != 0.0

    def require_goes_with(self, rule: str, traits: Traits, *, weighs: bool) -> None:
        """Raise ConfigError for a rule whose round is no sum, or that weighs (`weighs`) itself."""
        if self.moves and (traits.needs != "sum" or traits.delta == "residual"):
            asked = "step" if self.step != 1.0 else "momentum"
            raise ConfigError(
                f"server.{asked} is {getattr(self, asked)}, but what rule {rule} makes of a round "
                "is no sum that a step could go along; leave it out, or choose another rule"
            )
        if self.weights != "examples" and weighs:
            raise ConfigError(
                f"server.weights is {self.weights!r}, but rule {rule} weighs by a measure of its "
                "own; leave it out"
            )

    def weigh(self, summaries: Sequence[Summary]) -> dict[str, float]:
        """Client → weight. Raises RoundError where all are zero."""
        return normalised({s.client: _WEIGHTS[self.weights](s) for s in summaries})

    def combined(
        self,
        combine: Callable[[LayerState, Contributions], Combined],
        state: LayerState,
        contributions: Contributions,
        held: LowRank | None,
    ) -> Combined:
        """What the rule combines of the moved sum. held: what the sum replaces, None: nothing.

        V stands in the layer's state beside the rule's own tensors.
        """
        moved = _Moved(self, contributions, state, held)
        after = combine(state, moved)
        kept = {k: x for k, x in after.state.items() if not k.startswith("velocity.")}
        return replace(after, state={**kept, **moved.velocity})


@dataclass
class _Moved(Contributions):
    """Contributions whose sum, or mean of factors, the server has moved."""

    server: Server
    whole: Contributions
    state: LayerState
    held: LowRank | None
    velocity: LayerState = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.shape, self.width = self.whole.shape, self.whole.width

    def sum(self, rank: int | None = None) -> Matrix:
        whole, step = self.whole.sum(rank), self.server.step
        if self.server.momentum == 0.0:
            moved = _scaled(whole, step)
            return moved if self.held is None else added(moved, self.held.scaled(1.0 - step))
        change = whole if self.held is None else added(whole, self.held.scaled(-1.0))
        before = unnamed("velocity", self.state)
        start = _times(held_in(before), self.server.momentum) if before else _zero(self.shape)
        velocity = plus(start, change)
        none = torch.zeros(0, self.shape[1])
        self.velocity = named("velocity", exact_state(none, velocity))
        moved = _scaled(velocity.low_rank() if isinstance(velocity, Spectrum) else velocity, step)
        return moved if self.held is None else added(moved, self.held)

    def mean_factors(self) -> Factors:
        mean, sides = self.whole.mean_factors(), {}
        for side, new in (("b", mean.b), ("a", mean.a)):
            sides[side] = new
            if not new.is_meta:
                sides[side] = self._side(side, new)
        return Factors(sides["b"], sides["a"], mean.scale)

    def _side(self, side: str, new: Tensor) -> Tensor:
        held = self.state.get(side, new)
        before = self.state.get(f"velocity.{side}", torch.zeros_like(held))
        velocity = self.server.momentum * before + (new - held)
        if self.server.momentum > 0.0:
            self.velocity = {**self.velocity, f"velocity.{side}": velocity}
        return held + self.server.step * velocity

    def shares(self, rank: int) -> Tensor:
        return self.whole.shares(rank)

    def each(self) -> Sequence[Contribution]:
        return self.whole.each()


def _zero(shape: tuple[int, int]) -> Spectrum:
    return Spectrum.zero(*shape)


def _scaled(matrix: Matrix, factor: float) -> Matrix:
    if isinstance(matrix, LowRank):
        return matrix.scaled(factor)
    return Dense(matrix.matrix * factor, matrix.magnitude * abs(factor))


def _times(held: Spectrum | Dense, factor: float) -> Spectrum | Dense:
    if isinstance(held, Spectrum):
        return Spectrum(held.u, held.s * factor, held.vh)
    return Dense(held.matrix * factor, held.magnitude * factor)
