"""What the laws hold: anything that says what clients get back for what they sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final

import torch
from jaxtyping import Float
from torch import Tensor

from flexlora.adapters import Factors
from flexlora.errors import RuleError, shown


@final
@dataclass(frozen=True, eq=False)
class Sent:
    """What one client sends of one layer of m outputs and n inputs: ΔW = scale · b @ a.

    b: (m, r) and a: (r, n), float32. weight: never negative, say a count of examples; the weights
    of a round need not sum to 1.
    """

    client: str
    b: Float[Tensor, "m r"]
    a: Float[Tensor, "r n"]
    scale: float
    weight: float

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    def product(self) -> Float[Tensor, "m n"]:
        """ΔW in float64."""
        return self.scale * (self.b.double() @ self.a.double())


# What a client gets back: (b, a, scale).
Given = tuple[Any, Any, float]


class Aggregator(Protocol):
    """A server for one layer. A new one has seen no round; each call is the next round.

    One that cannot combine different ranks has an attribute `mixed_ranks` that is False: it is held
    to the laws at one rank for all.
    """

    def aggregate(self, sent: Sequence[Sent], ranks: Mapping[str, int]) -> Mapping[str, Given]:
        """Client → (b, a, scale) that it gets back, for every client in `ranks`.

        sent: of the clients that took part, at least one with a weight above zero. ranks: client →
        its rank, of the whole federation, the same in every round. b (m, r) and a (r, n) are torch
        tensors, numpy arrays or nested lists.
        """
        ...


# A class of aggregators, or whatever else makes a new one.
Make = Callable[[], Aggregator]


def ask(
    aggregator: Aggregator, sent: Sequence[Sent], ranks: Mapping[str, int]
) -> dict[str, Factors]:
    """What every client gets back. Nothing that the aggregator does to its inputs is seen outside.

    Raises RuleError for what is no (b, a, scale) of the layer's shape and finite, by the client.
    """
    copies = [Sent(x.client, x.b.clone(), x.a.clone(), x.scale, x.weight) for x in sent]
    given = aggregator.aggregate(copies, dict(ranks))
    if not isinstance(given, Mapping):
        raise RuleError(
            f"aggregate gave a {type(given).__name__}; give a mapping of client to (b, a, scale)"
        )
    shape = sent[0].b.shape[0], sent[0].a.shape[1]
    return {client: _factors(client, given.get(client), shape) for client in ranks}


def _factors(client: str, given: object, shape: tuple[int, int]) -> Factors:
    m, n = shape
    cure = f"give (b, a, scale) with b {m} × r and a r × {n}"
    if not isinstance(given, Sequence) or len(given) != 3:
        raise RuleError(f"client {client} was given {shown(given)}; {cure}")
    try:
        b, a = (torch.as_tensor(side).detach().cpu().double() for side in given[:2])
        scale = float(given[2])
    except (TypeError, ValueError, RuntimeError) as error:
        raise RuleError(f"client {client} was given no numbers ({error}); {cure}") from error
    if b.ndim != 2 or a.ndim != 2 or (b.shape[0], a.shape[1]) != shape or b.shape[1] != a.shape[0]:
        raise RuleError(f"client {client} was given b {_size(b)} and a {_size(a)}; {cure}")
    factors = Factors(b, a, scale)
    if not factors.finite():
        raise RuleError(f"client {client} was given NaN or infinity; {cure}, all finite")
    return factors


def _size(x: Tensor) -> str:
    return " × ".join(map(str, x.shape)) or "of one number"
