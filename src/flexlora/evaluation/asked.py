"""What a way to continue rows of tokens is asked for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from torch import Tensor

from flexlora.evaluation.owners import Owners
from flexlora.evaluation.padding import Evaluated
from flexlora.evaluation.reading import Row

Look = Callable[[Sequence[int], Tensor], None]


@dataclass(frozen=True)
class Asked:
    """Rows to continue. limits: tokens of each at most; stops: what ends each; owners: of the
    rows, where the model carries adapters; look: is told, for each token, the rows and their logits
    (rows, vocabulary) that it was chosen from. Rows are equally long where the model cannot be
    given others.
    """

    rows: Sequence[Row]
    limits: Sequence[int]
    stops: Sequence[Collection[int]]
    owners: Owners | None = None
    look: Look | None = None


Way = Callable[[Evaluated, Asked], list[list[int]]]
