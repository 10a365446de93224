"""Many options of one test: each two values of two options meet in `make test`, all in `make soak`.

What goes wrong with options that should not touch each other goes wrong with two of them, as a
rule; all combinations take minutes where a dozen cases hold all pairs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import combinations, product
from typing import Any

import pytest

Values = Mapping[str, Any] | Iterable[Any]


def pairs(**options: Values) -> pytest.MarkDecorator:
    """options: argument → its values; where their names should not be `str` of them, name → value.

    The values that come first are those of the first case.
    """
    named = [_named(values) for values in options.values()]
    short = covering([len(values) for values in named])
    return pytest.mark.parametrize(
        list(options),
        [
            pytest.param(
                *(values[k][1] for values, k in zip(named, case, strict=True)),
                id="-".join(values[k][0] for values, k in zip(named, case, strict=True)),
                marks=() if case in short else pytest.mark.soak,
            )
            for case in product(*(range(len(values)) for values in named))
        ],
    )


def covering(counts: Sequence[int]) -> Collection[tuple[int, ...]]:
    """Few cases in which each two values of two options meet; the same ones everywhere.

    counts: of the values of each option; a case has one place in each.
    """
    cases = list(product(*map(range, counts)))
    left = {pair for case in cases for pair in _met(case)}
    found: dict[tuple[int, ...], None] = {}
    while left:
        case = max(cases, key=lambda case: len(left & _met(case)))  # Of equals, the first.
        found[case] = None
        left -= _met(case)
    return found.keys()


def _met(case: tuple[int, ...]) -> set[tuple[tuple[int, int], tuple[int, int]]]:
    return set(combinations(enumerate(case), 2))


def _named(values: Values) -> list[tuple[str, Any]]:
    if isinstance(values, Mapping):
        return list(values.items())
    return [(str(value).removeprefix("torch."), value) for value in values]
