"""How many clients share one forward pass, by shapes and memory alone: the same each time."""

from __future__ import annotations

from dataclasses import dataclass

LARGEST = 64  # Clients at once, by whatever way the number is found.
# A pass of a few thousand tokens keeps two cores busy, and half of it each of two processes: in the
# cases measured there, from 64 tokens a batch at 6M parameters to 512 at 110M, the choice by it was
# at most a tenth slower than the best (results/benchmarks/cohort.json, held by its test).
_TOKENS = 4096
# Of what a token leaves for the backward pass, beside what goes in and out of the linear layers:
# 1.1 (6M parameters) to 1.7 times that was measured.
_KEPT = 2
_COPIES = 5  # Of an adapter, in float32: as it came, weights, gradient, AdamW's two moments.


@dataclass(frozen=True)
class Load:
    """What one client takes of a pass.

    tokens: of its batch, in the mean over all batches of all clients; heaviest: of the largest
    batch that any client can have; width: numbers that go in and out of the base's linear layers
    for one token; number_bytes: bytes of each; adapter: numbers of the largest adapter; origin:
    whether its start is kept beside it.
    """

    tokens: float
    heaviest: int
    width: int
    number_bytes: int
    adapter: int
    origin: bool

    @property
    def peak_bytes(self) -> int:
        """What training it takes on top of the model; an estimate from above."""
        activations = _KEPT * self.number_bytes * self.width * self.heaviest
        return activations + 4 * (_COPIES + self.origin) * self.adapter


def clients_that_share(load: Load, *, clients: int, budget_bytes: int, processes: int = 1) -> int:
    """The largest power of two whose batches make a pass of at most 4,096 tokens and fit, or all
    `clients` where these are fewer; at least 1, at most 64.

    clients, budget_bytes: of one process. processes: that share the processor, and so the tokens.
    """
    tokens = _TOKENS / (processes * max(load.tokens, 1.0))
    room = min(tokens, budget_bytes / max(load.peak_bytes, 1), LARGEST)
    share = 1
    while 2 * share <= room:
        share *= 2
    return max(1, min(share, clients))
