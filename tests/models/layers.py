"""One adapted layer by itself, of several kinds of base, and clients of mixed ranks for it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from flexlora.adapters import Adapter, Factors
from flexlora.models.carried import Carried
from flexlora.models.lora import LoRALinear
from flexlora.models.trainable import Trainable

M, N = 7, 5
STACKED = {"loop": False, "batched": True}
KERNELS = pytest.mark.parametrize("stacked", STACKED.values(), ids=STACKED)


class Bent(nn.Linear):
    """Linear-like, but not what its weight and bias alone would make."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x[..., :1].tanh()


KINDS = {
    "linear": lambda: nn.Linear(N, M),
    "conv1d": lambda: Conv1D(M, N),
    "subclass": lambda: Bent(N, M),
}


def make(kind: str = "linear", dtype: torch.dtype = torch.float64, index: int = 0) -> LoRALinear:
    torch.manual_seed(3)
    module = KINDS[kind]()
    nn.init.normal_(module.bias)
    return LoRALinear(module.to(dtype).requires_grad_(False), "layer", index)


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def factors(rank: int, seed: int, scale: float = 2.0) -> Factors:
    return Factors(draw(M, rank, seed=seed), draw(rank, N, seed=seed + 50), scale)


CLIENTS = (factors(3, 1, 2.0), factors(1, 2, 0.5), factors(4, 3, 1.25))


def carry(
    layer: LoRALinear,
    clients: Sequence[Factors],
    *,
    stacked: bool = False,
    origin: bool = False,
    dropout: float = 0.0,
) -> Carried:
    """What `AdaptedModel.start` does, for one layer."""
    pad = {layer.name: max(x.rank for x in clients)} if stacked else None
    trainables = [
        Trainable(
            Adapter({layer.name: x}),
            dtype=layer.dtype,
            device=torch.device("cpu"),
            pad=pad,
            origin=origin,
        )
        for x in clients
    ]
    carried = Carried(trainables, dropout=dropout, stacked=stacked)
    layer.carry(carried)
    return carried
