"""A round's changes by their inner products alone: lengths, angles and distances, nothing dense."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from flexlora.adapters import change, turned
from flexlora.lowrank import LowRank
from flexlora.rules import Contribution
from flexlora.screens.verdict import Verdict

# Layer after layer, every client's contribution, in the order of the clients.
Layers = Callable[[], Iterable[Sequence[Contribution]]]
_WIDE = 2048  # Of inner width that is held at once, on each side of a product.


@final
class Products:
    """Every client's change: trained − sent as products, over all layers together (see `change`).

    as_factors: beside its product a change has the step of its factors side by side (see `turned`),
    for rules that average factors: under these a small product can be a large change. clients: in
    the order of `weights`. examples and weights: of each; the weights sum to 1. Who
    returned what it was sent has a change of exactly zero. Where a client returns one side alone
    and the other is not known, its change is that of the one side. Lengths and inner products are
    computed when they are first asked for, from the factors, block by block of clients and layer by
    layer: memory is that of two blocks of one layer's factors.
    """

    def __init__(
        self,
        examples: Mapping[str, int],
        weights: Mapping[str, float],
        layers: Layers,
        *,
        as_factors: bool = False,
    ) -> None:
        self.clients = tuple(weights)
        self.examples = {client: examples[client] for client in self.clients}
        self.weights = dict(weights)
        self._measured = _Measured(self.clients, layers, as_factors)
        self._places = list(range(len(self.clients)))
        self._shrinks = [1.0] * len(self.clients)

    @property
    def norms(self) -> dict[str, float]:
        """Client → ‖change‖_F."""
        found = self._measured.norms
        pairs = zip(self._places, self._shrinks, strict=True)
        return dict(zip(self.clients, (found[x] * s for x, s in pairs), strict=True))

    @property
    def gram(self) -> Float[Tensor, "k k"]:
        """⟨change_i, change_j⟩ of clients i and j in order, float64."""
        shrinks = torch.tensor(self._shrinks, dtype=torch.float64)
        places = torch.tensor(self._places, dtype=torch.long)
        found = self._measured.gram[places][:, places]
        return found * shrinks[:, None] * shrinks

    @property
    def distances(self) -> Float[Tensor, "k k"]:
        """‖change_i − change_j‖² of clients i and j in order, float64, never negative."""
        gram = self.gram
        squares = gram.diagonal()
        return (squares[:, None] + squares - 2.0 * gram).clamp_(min=0.0)

    def after(self, verdicts: Mapping[str, Verdict], weights: Mapping[str, float]) -> Products:
        """The round once these are carried out; what was computed already stays known.

        weights: of those who are left, summing to 1: the rule weighs what is left, perhaps anew.
        """
        kept = [k for k, c in enumerate(self.clients) if c not in verdicts or verdicts[c].weight]
        left = object.__new__(Products)
        left.clients = tuple(self.clients[k] for k in kept)
        left.examples = {client: self.examples[client] for client in left.clients}
        left.weights = {client: weights[client] for client in left.clients}
        left._measured = self._measured
        left._places = [self._places[k] for k in kept]
        left._shrinks = [
            self._shrinks[k] * (verdicts[c].shrink if (c := self.clients[k]) in verdicts else 1.0)
            for k in kept
        ]
        return left


class _Measured:
    """What is known of the changes as they came."""

    def __init__(self, clients: Sequence[str], layers: Layers, as_factors: bool) -> None:
        self._clients, self._told = tuple(clients), layers
        self._as_factors = as_factors

    def _layers(self) -> Iterator[Sequence[Contribution]]:
        for layer in self._told():
            assert tuple(c.client for c in layer) == self._clients, "clients in another order"
            yield layer

    @cached_property
    def norms(self) -> list[float]:
        if "gram" in self.__dict__:
            return [math.sqrt(max(square, 0.0)) for square in self.gram.diagonal().tolist()]
        squares: list[float] = []
        for layer in self._layers():
            squares = squares or [0.0] * len(layer)
            for k, contribution in enumerate(layer):
                parts = _parts(contribution, _width(layer), self._as_factors)
                squares[k] += sum(part.norm() ** 2 for part in parts)
        return [math.sqrt(square) for square in squares]

    @cached_property
    def gram(self) -> Tensor:
        found = torch.zeros(0, 0, dtype=torch.float64)
        for layer in self._layers():
            if not len(found):
                found = torch.zeros(len(layer), len(layer), dtype=torch.float64)
            blocks = list(_blocks(layer))
            for at, rows in enumerate(blocks):
                one = _Block(layer, rows, self._as_factors)
                for columns in blocks[at:]:
                    other = one if columns is rows else _Block(layer, columns, self._as_factors)
                    part = one.inner(other)
                    found[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] += part
                    if columns is not rows:
                        found[columns[0] : columns[-1] + 1, rows[0] : rows[-1] + 1] += part.T
        return found


class _Block:
    """Some clients' changes of one layer, part by part, all clients' side by side."""

    def __init__(self, layer: Sequence[Contribution], clients: range, as_factors: bool) -> None:
        told = [_parts(layer[k], _width(layer), as_factors) for k in clients]
        self._parts = [_Beside(part) for part in zip(*told, strict=True)]

    def inner(self, other: _Block) -> Tensor:
        """⟨change_i, change_j⟩ for all clients i here and j there."""
        pairs = zip(self._parts, other._parts, strict=True)
        return torch.stack([one.inner(two) for one, two in pairs]).sum(dim=0)


class _Beside:
    """Matrices of one shape, one a client. owners: of each column of the left sides."""

    def __init__(self, given: Sequence[LowRank]) -> None:
        self._clients = len(given)
        self._left = torch.cat([x.left.double() for x in given], dim=1)
        self._right = torch.cat([x.right.double() for x in given])
        widths = torch.tensor([x.width for x in given])
        self._owners = torch.arange(len(given)).repeat_interleave(widths)

    def inner(self, other: _Beside) -> Tensor:
        """⟨L_i R_i, L_j R_j⟩ = Σ (L_iᵀ L_j) ∘ (R_i R_jᵀ), for all clients i here and j there."""
        parts = (self._left.T @ other._left) * (self._right @ other._right.T)
        rows = parts.new_zeros(self._clients, parts.shape[1]).index_add_(0, self._owners, parts)
        return rows.new_zeros(self._clients, other._clients).index_add_(1, other._owners, rows)


def _parts(given: Contribution, width: int, as_factors: bool) -> list[LowRank]:
    """What its change consists of, each read once."""
    trained = given.trained
    product = change(trained, given.sent)
    return [product, turned(trained, given.sent, width)] if as_factors else [product]


def _width(layer: Sequence[Contribution]) -> int:
    """The widest rank that was sent, or came back, of a layer."""
    return max(max(c.rank, c.sent.rank) for c in layer)


def _blocks(layer: Sequence[Contribution]) -> Iterator[range]:
    """Clients in order, as many together as are not too wide; at least one."""
    begin, width = 0, 0
    for k, contribution in enumerate(layer):
        mine = contribution.rank + contribution.sent.rank
        if k > begin and width + mine > _WIDE:
            yield range(begin, k)
            begin, width = k, 0
        width += mine
    yield range(begin, len(layer))
