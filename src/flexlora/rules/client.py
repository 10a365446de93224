"""What a rule hands around at a client: live factors, memory of its own, what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from flexlora.adapters import Adapter

# Layer → (b, a) as they are trained, or as they were when training began.
Live = Mapping[str, tuple[Tensor, Tensor]]
# Named tensors that a client keeps from round to round.
Memory = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Encoded:
    """What a client returns of an adapter, and what it remembers until it is asked again."""

    adapter: Adapter
    memory: Memory = field(default_factory=dict)
