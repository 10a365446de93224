"""Every value is in one bin, whatever the values are."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexlora.report.histograms import binned, histogram

NUMBERS = st.floats(-1e12, 1e12)
GRID = st.integers(-3000, 3000).map(lambda i: i * 0.1)  # On edges, up to rounding.


@given(st.lists(NUMBERS | GRID, min_size=1, max_size=6), st.floats(-1e-9, 1e-9), st.booleans())
def test_every_value_is_counted_once(values: list[float], apart: float, whole: bool) -> None:
    if whole:
        values = [float(round(x)) for x in values]
    else:
        values = [*values, values[0] * (1 + apart)]
    of = {"a": values[:1], "b": values[1:] or values}
    edges, bins = binned(of, 1.0 if whole else 0.0)
    for name, found in of.items():
        assert sum(n for run, *_, n in bins if run == name) == len(found)
    assert all(low < high for low, high in itertools.pairwise(edges))
    assert len(edges) < 60


@pytest.mark.parametrize(
    "values",
    [
        [50.3 - 50.0, 20.3 - 20.0],  # The same change, up to rounding.
        [100 / 3, 200 / 3 - 100 / 3],
    ],
)
def test_changes_that_are_all_but_equal_are_shown(values: list[float]) -> None:
    runs = {"a": values[:1], "b": values[1:]}
    _, bins = histogram(runs, x="x", y="y", series=["a", "b"], whole=False)
    assert sum(n for *_, n in bins) == 2
