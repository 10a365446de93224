"""What an adapted model carries: the trainables of K clients, and whose rows are whose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from flexlora.errors import AdapterError
from flexlora.models.joined import Joined, Joiner
from flexlora.models.read_rows import ReadRows
from flexlora.models.trainable import Pair, Trainable


@dataclass(frozen=True, eq=False)
class Stacked:
    """One layer's factors and gradients of K clients, as views with the clients on axis 0."""

    a: Float[Tensor, "k r n"]
    bt: Float[Tensor, "k r m"]
    grad_a: Float[Tensor, "k r n"] | None
    grad_bt: Float[Tensor, "k r m"] | None
    scales: Float[Tensor, "k 1 1"]
    origin: tuple[Tensor, Tensor] | None


class Carried:
    """The clients that a model computes for, in the order in which their rows come.

    shares: rows of client k in proportion, all equal at first (see `share`). seeds: of client k's
    dropout in this forward pass. read: the rows that layers get at the moment, where not all are
    computed (see `narrow`). stacked: keep all vectors in one matrix, so that rows in equal
    blocks go through one batched product; their trainables must have the same layout.
    """

    def __init__(
        self, trainables: Sequence[Trainable], *, dropout: float = 0.0, stacked: bool = False
    ) -> None:
        self.dropout = dropout
        # Some input of the layers' autograd node must want a gradient, or it is left out.
        self.anchor = torch.zeros((), requires_grad=True)
        self.stacked = stacked
        self.trainables: list[Trainable] = []
        self.shares: tuple[int, ...] = ()
        self.own: tuple[int, ...] = ()
        self.seeds: tuple[int, ...] = ()
        self.read: ReadRows | None = None
        self._rows: tuple[Tensor, Tensor, Tensor] | None = None
        self._views: dict[str, Stacked] = {}
        self._joiner: Joiner | None = None
        self._joins = False
        self._set(list(trainables))

    def keep(self, places: Sequence[int]) -> None:
        """Go on with these clients alone, in this order."""
        self._set([self.trainables[place] for place in places])

    def share(
        self, shares: Sequence[int], own: Sequence[int] | None = None, *, joins: bool = True
    ) -> None:
        """Client k's rows are the next shares[k] of sum(shares), or as many times that.

        own: how many of its share are the client's own, padding coming after them (default: all).
        joins: frozen factors may be joined for them (see `joined`); not for many rows a client.
        """
        if len(shares) != len(self.trainables):
            raise ValueError(
                f"shares are {len(shares)} for {len(self.trainables)} clients; give one for each"
            )
        self.shares = tuple(shares)
        self.own = self.shares if own is None else tuple(own)
        self._joins = joins and self._joiner is not None
        if self._joiner is not None and joins:
            self._joiner.share(self.shares)

    def sow(self, seeds: Sequence[int]) -> None:
        """Draw dropout from these seeds, one a client, until the next call."""
        if len(seeds) != len(self.trainables):
            raise ValueError(
                f"seeds are {len(seeds)} for {len(self.trainables)} clients; give one for each"
            )
        self.seeds = tuple(seeds)

    def narrow(self, read: ReadRows | None) -> None:
        """Until the next call, layers get these rows alone; None: all."""
        self.read = read

    def rows(self, total: int, layer: str) -> list[int]:
        """Rows of each client among `total`. Raises AdapterError where they do not come out even.

        Layers that see some of the rows only (experts) cannot tell whose they are.
        """
        if self.read is not None and total == sum(self.read.counts):
            return list(self.read.counts)
        each, rest = divmod(total, max(1, sum(self.shares)))
        if rest or (each == 0 and total):
            raise AdapterError(
                f"layer {layer} got {total} rows for {len(self.shares)} clients that share "
                f"{sum(self.shares)}; give every client its rows, or train one at a time"
            )
        return [each * share for share in self.shares]

    def pairs(self, layer: str) -> list[Pair]:
        return [trainable.pairs[layer] for trainable in self.trainables]

    def stack(self, layer: str) -> Stacked | None:
        """The layer's factors as batched views, or None where clients are held apart."""
        if self._rows is None:
            return None
        if layer not in self._views:
            self._views[layer] = self._view(layer, *self._rows)
        return self._views[layer]

    def freeze(self) -> None:
        """Until `keep`, the factors change no more, want no gradients, and see no dropout.

        Those of clients with rows are then held a second time (see `joined`).
        """
        self.dropout = 0.0
        self._joiner = Joiner(self.pairs)
        self.share(self.shares, self.own)

    def joined(self, layer: str, rows: int) -> Joined | None:
        """The layer's factors side by side, where `rows` is one for each unit of the shares.

        None where they are not frozen, and for more rows: most of such a product is thrown away.
        """
        if self._joiner is None or not self._joins or rows != sum(self.shares):
            return None
        if torch.is_grad_enabled():
            return None
        return self._joiner.join(layer)

    def _set(self, trainables: list[Trainable]) -> None:
        self.trainables, self.seeds = trainables, ()
        self._rows, self._views, self._joiner = None, {}, None
        self.share((1,) * len(trainables))
        if self.stacked and trainables:
            values = torch.stack([x.vector.detach() for x in trainables])
            gradients = torch.stack([x.gradient for x in trainables])
            frozen = torch.stack([x.frozen for x in trainables])
            self._rows = values, gradients, frozen
            for k, trainable in enumerate(trainables):
                trainable.place(values[k], gradients[k], frozen[k])

    def _view(self, layer: str, values: Tensor, gradients: Tensor, frozen: Tensor) -> Stacked:
        pairs = self.pairs(layer)
        first = pairs[0]
        origins = [pair.origin for pair in pairs if pair.origin is not None]

        def view(matrix: Tensor, of_first: Tensor) -> Tensor:
            """All rows, at the places that this view of the first row has there."""
            begin = of_first.storage_offset() - matrix.storage_offset()
            place = slice(begin, begin + of_first.numel())
            return matrix[:, place].view(len(pairs), *of_first.shape)

        return Stacked(
            a=view(frozen if first.grad_a is None else values, first.a),
            bt=view(frozen if first.grad_bt is None else values, first.bt),
            grad_a=None if first.grad_a is None else view(gradients, first.grad_a),
            grad_bt=None if first.grad_bt is None else view(gradients, first.grad_bt),
            scales=values.new_tensor([pair.scale for pair in pairs]).view(-1, 1, 1),
            origin=(
                (torch.stack([x for x, _ in origins]), torch.stack([x for _, x in origins]))
                if origins
                else None
            ),
        )
