"""The increment form of FlexLoRA: what a client was not sent is left as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, final

from flexlora.adapters import Factors
from flexlora.lowrank import LowRank, Split
from flexlora.options import MANY, Option, require
from flexlora.rules.contributions import Contributions
from flexlora.rules.directions import Directions, sent_directions
from flexlora.rules.kinds import Kept
from flexlora.rules.layer import ClientView, Combined, Layer, LayerState
from flexlora.rules.spectral import held_in, warm_state
from flexlora.rules.traits import Traits
from flexlora.rules.uncut import grown, sendable


@final
@dataclass(frozen=True, eq=False)
class FlexLoRAIncrement(Kept):
    """ΔW ← ΔW + Σ w_k (s_k B'_k A'_k − s_k B_k A_k), B_k A_k being what client k was sent.

    Every direction that a client was not sent is multiplied by exactly 1, so nothing collapses to
    the smallest rank. The whole ΔW is frozen in the clients' base as Δ (all of it, or its best
    `frozen_rank`): a client computes with W₀ + Δ + trainable − origin, sees all that it cannot
    train, and learns only what is missing. By default the rows of A that it trains are new each
    round and B is zero, as in `flora`: a client of low rank learns another thing every time.
    The state is never cut (increments below its last singular value would vanish every round); it
    is factored while that is smaller, then the matrix itself with its largest triplets.
    `frozen_rank` bounds the bytes down. A layer's Δ is never cut below the highest rank of a
    client, whose origin it must hold.

    Published since as FedHera (ICML 2026, here `fedhera`), with a dense server and a byte budget;
    ours adds the factored state, Δ for clients that were away, and what clients train
    (`directions`). Before it: FedHL (arXiv 2505.18494).
    """

    name = "flexlora-increment"
    source = "this project; published since as FedHera, ICML 2026"
    traits = Traits(delta="origin")

    frozen_rank: Annotated[
        int | None,
        Option("largest rank per layer of the Δ that travels; all without it", least=1, most=MANY),
    ] = None
    split: Annotated[
        Split,
        Option("where singular values go: all into what is sent as B, as in flexlora, or half"),
    ] = "left"

    directions: Annotated[
        Directions,
        Option(
            "what clients train: the top of what was learned; drawn by singular value; half top, "
            "half new; or new directions alone (the last three anew each round)"
        ),
    ] = "fresh"

    def __post_init__(self) -> None:
        require(self, "rule")

    def warm_start_layer(self, layer: Layer, start: LowRank) -> Combined:
        state = warm_state(layer, start)
        return Combined(state, frozen=self._frozen(layer, state))

    def send_layer(self, layer: Layer, state: LayerState, client: ClientView) -> Factors:
        learned = sendable(state)
        return sent_directions(layer, state, client, learned, self.directions, self.split)

    def combine_layer(
        self, layer: Layer, state: LayerState, contributions: Contributions
    ) -> Combined:
        step = contributions.sum()
        after = grown(layer, state, step, self._largest_sent(layer))
        patch = step if self.frozen_rank is None and isinstance(step, LowRank) else None
        return Combined(after, self._frozen(layer, after), patch)

    def _largest_sent(self, layer: Layer) -> int:
        """The highest rank per layer that is ever cut out of the state to be sent."""
        return max(self.frozen_rank or 0, layer.highest)

    def _frozen(self, layer: Layer, state: LayerState) -> LowRank:
        if self.frozen_rank is None:
            return held_in(state).low_rank()
        return sendable(state).truncate(self._largest_sent(layer)).kept.low_rank()
