"""The tests' own check of shapes sees what it is there for, and leaves the rest alone."""

from __future__ import annotations

import ast
from pathlib import Path

import jaxtyping
import pytest
import torch

from flexlora.lowrank import LowRank
from flexlora.lowrank.lapack import lapack_svd
from reference import as_in_production
from shapes import decorated

SOURCES = Path(__file__).resolve().parent.parent / "src" / "flexlora"


def test_a_wrong_shape_is_refused_and_told() -> None:
    with pytest.raises(jaxtyping.TypeCheckError, match=r"lapack_svd"):
        lapack_svd(torch.zeros(3))
    # One letter, two lengths; and a dataclass, whose fields are checked as it is made.
    with pytest.raises(jaxtyping.TypeCheckError, match=r"LowRank"):
        LowRank(torch.zeros(3, 2), torch.zeros(4, 5))
    with as_in_production(), pytest.raises(RuntimeError, match=r"at least 2 dimensions"):
        lapack_svd(torch.zeros(3))


def test_a_wrong_result_is_refused() -> None:
    source = """
from jaxtyping import Float
from torch import Tensor

def turned(x: Float[Tensor, "m n"]) -> Float[Tensor, "n m"]:
    return x
"""
    tree, count = decorated(source)
    assert count == 1
    made: dict[str, object] = {}
    exec(compile(tree, "made", "exec"), made)
    turned = made["turned"]
    assert callable(turned)
    assert turned(torch.zeros(2, 2)).shape == (2, 2)
    with pytest.raises(jaxtyping.TypeCheckError, match=r"return value"):
        turned(torch.zeros(2, 3))


def test_no_module_that_writes_shapes_is_left_unchecked() -> None:
    """By a module's text alone, not as `decorated` looks for them."""
    for path in sorted(SOURCES.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        _, count = decorated(text)
        written = "from jaxtyping import" in text
        assert (count > 0) == written, path


def test_what_writes_no_shape_is_as_it_was() -> None:
    source = "class A:\n    x: int\n\n    def f(self, y: float) -> list[str]:\n        return []\n"
    tree, count = decorated(source)
    assert (ast.unparse(tree), count) == (ast.unparse(ast.parse(source)), 0)
