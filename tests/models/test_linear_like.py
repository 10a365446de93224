"""What counts as a linear layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from flexlora.models.linear_like import is_matrix, linear_shape
from models.layers import KINDS


def test_linear_like_modules() -> None:
    assert linear_shape(nn.Linear(3, 4)) == (4, 3)
    assert linear_shape(Conv1D(4, 3)) == (4, 3)
    assert linear_shape(nn.Embedding(4, 3)) is None
    assert linear_shape(nn.Conv1d(4, 3, 1)) is None


class Vast(nn.Linear):
    """Of a class of its own, which is asked for a row."""

    def forward(self, x: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_want_of_memory_says_nothing_of_a_module() -> None:
    """Else it would be left out of "all-linear", with no word."""
    with pytest.raises(torch.OutOfMemoryError):
        linear_shape(Vast(3, 4))


def test_what_is_a_matrix_and_nothing_else() -> None:
    assert {kind: is_matrix(make()) for kind, make in KINDS.items()} == {
        "linear": True,
        "conv1d": True,
        "subclass": False,
    }
