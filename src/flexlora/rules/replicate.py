"""Replication: what a client lacks is filled up with what the strongest clients trained."""

from __future__ import annotations

from typing import final

from flexlora.rules.contributions import Contributions
from flexlora.rules.kinds import Padded
from flexlora.rules.layer import Combined, Layer, LayerState
from flexlora.rules.padded import row_sums
from flexlora.rules.traits import Traits


@final
class Replicate(Padded):
    """b_j ← Σ_{k: r_k ≥ j} w_k b_kj + (1 − Σ_{k: r_k ≥ j} w_k) b*_j, and so a_j; a client is sent
    the first r_k rows.

    b*_j is the weighted mean over the round's clients of the highest rank: their rows are copied
    into the adapters of those that lack them, where HetLoRA pads with zeros.
    Source: Byun and Lee, NAACL 2025 (arXiv 2406.17477), whose strong clients are of one rank. Rows
    that no client of the round owns stay as they are. Deviation: one scale for all, α of the
    federation's highest rank.
    """

    name = "replicate"
    source = "Byun and Lee, NAACL 2025, arXiv 2406.17477"
    traits = Traits(needs="each", scales="rule", compares="factors")

    def combine_layer(
        self, layer: Layer, state: LayerState, contributions: Contributions
    ) -> Combined:
        rank = state["a"].shape[0]
        all_ = row_sums(contributions, rank)
        strongest = row_sums(contributions, rank, least=all_.owned)
        copied = strongest.mean(all_.mean(state))  # A strongest client of no weight is no source.
        missing = (1.0 - all_.shares).clamp(min=0.0).float()
        b, a = all_.b + missing * copied["b"], all_.a + missing[:, None] * copied["a"]
        return Combined({"b": b, "a": a})
