"""The increment form of FlexLoRA: what a client was not sent is left as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from flexlora.adapters import Factors, LayerSpec
from flexlora.errors import ConfigError
from flexlora.lowrank import LowRank, Spectrum, svd
from flexlora.rules.base import Combined, Contribution, LayerState, Rule, Spec, Traits
from flexlora.rules.spectral import (
    empty_state,
    factors_of,
    spectral_state,
    spectrum_of,
    warm_state,
)


@final
class FlexLoRAIncrement(Rule):
    """ΔW ← ΔW + Σ w_k (s_k B'_k A'_k − s_k B_k A_k), B_k A_k being what client k was sent.

    Every direction that a client was not sent is multiplied by exactly 1, so nothing collapses to
    the smallest rank. The whole ΔW is frozen in the clients' base as Δ (all of it, or its best
    `frozen_rank`), and what a client trains starts as the top of it: the client computes with
    W₀ + Δ + trainable − origin, sees the tail it cannot train, and learns only what is missing.
    The state is never cut (increments below its last singular value would vanish every round).

    Ours; nearest published: FedHL (arXiv 2505.18494).
    """

    name = "flexlora-increment"
    source = "this project; nearest: FedHL, arXiv 2505.18494"
    traits = Traits()
    origin = True

    def __init__(self, frozen_rank: int | None = None) -> None:
        """`frozen_rank`: largest rank per layer of the Δ that travels; None sends all of it.

        It bounds the bytes down. A layer's Δ is never cut below the highest rank of a client,
        whose origin it must hold.
        """
        if frozen_rank is not None and (not isinstance(frozen_rank, int) or frozen_rank < 1):
            raise ConfigError(
                f"rule.frozen_rank is {frozen_rank}; give a whole number of 1 or more, or leave "
                "it out"
            )
        self.frozen_rank = frozen_rank

    def init_layer(self, spec: Spec, layer: LayerSpec, generator: torch.Generator) -> LayerState:
        return empty_state(spec, layer, generator)

    def warm_start_layer(
        self, spec: Spec, layer: LayerSpec, start: LowRank, generator: torch.Generator
    ) -> Combined:
        state = warm_state(spec, layer, start, generator)
        return Combined(state, frozen=self._frozen(spec, layer, spectrum_of(state)))

    def send_layer(
        self, spec: Spec, state: LayerState, rank: int, generator: torch.Generator
    ) -> Factors:
        return factors_of(spectrum_of(state), rank, spec.scale(rank), fill=state["fresh"])

    def combine_layer(
        self,
        spec: Spec,
        layer: LayerSpec,
        state: LayerState,
        contributions: Sequence[Contribution],
    ) -> Combined:
        step = LowRank.weighted_sum(
            [c.update() for c in contributions], [c.weight for c in contributions]
        )
        spectrum = svd(spectrum_of(state).low_rank() + step)
        after = spectral_state(state["fresh"], spectrum)
        frozen = self._frozen(spec, layer, spectrum)
        return Combined(after, frozen, step if self.frozen_rank is None else None)

    def learned_layer(self, spec: Spec, layer: LayerSpec, state: LayerState) -> LowRank:
        return spectrum_of(state).low_rank()

    def singular_values_layer(self, spec: Spec, layer: LayerSpec, state: LayerState) -> Tensor:
        return state["s"]

    def readout_layer(self, spec: Spec, layer: LayerSpec, state: LayerState, rank: int) -> Factors:
        return factors_of(spectrum_of(state), rank, spec.scale(rank))

    def _frozen(self, spec: Spec, layer: LayerSpec, spectrum: Spectrum) -> LowRank:
        if self.frozen_rank is None:
            return spectrum.low_rank()
        cap = max(self.frozen_rank, spec.highest[layer.name])
        return spectrum.truncate(cap).kept.low_rank()
