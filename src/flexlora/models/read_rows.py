"""Past the last attention only those rows are computed whose logits are read.

A language model's last attention is the last to mix a sequence's tokens: whatever comes after it,
and the queries before it, work on each token's row alone. With a long prompt and a loss on a short
response that leaves most of the last layer undone; the loss and its gradients stay the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from jaxtyping import Int
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class ReadRows:
    """Some of all `total` rows: their places, client after client, and how many each client has."""

    places: Int[Tensor, " p"]
    counts: tuple[int, ...]
    total: int

    def take(self, x: Tensor) -> Tensor:
        """(…, n) of all rows → (1, p, n)."""
        return x.reshape(-1, x.shape[-1]).index_select(0, self.places)[None]

    def put(self, y: Tensor, shape: Sequence[int]) -> Tensor:
        """(1, p, m) → (*shape, m), zero in the rows that are not read."""
        rows = y.new_zeros(self.total, y.shape[-1])
        return rows.index_copy(0, self.places, y[0]).view(*shape, y.shape[-1])


@contextmanager
def narrowed(
    modules: Sequence[nn.Module], read: ReadRows, tell: Callable[[ReadRows | None], None]
) -> Iterator[None]:
    """While the block runs, these modules compute the rows in `read` alone and put zeros elsewhere.

    tell: is called before and after each with what its rows are (None: all).
    """
    shapes: list[Sequence[int]] = []

    def before(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        shapes.append(args[0].shape[:-1])
        tell(read)
        return (read.take(args[0]), *args[1:])

    def after(_module: nn.Module, _args: tuple[Any, ...], y: Tensor) -> Tensor:
        tell(None)
        return read.put(y, shapes.pop())

    with ExitStack() as hooks:
        hooks.callback(tell, None)
        for module in modules:
            hooks.callback(module.register_forward_pre_hook(before).remove)
            hooks.callback(module.register_forward_hook(after).remove)
        yield
