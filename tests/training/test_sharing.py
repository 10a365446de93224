"""How many clients share a pass: by shapes and memory, and about as fast as the best number."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from flexlora.training import Load, clients_that_share

PLENTY = 10**15
LOAD = Load(tokens=64.0, heaviest=128, width=1000, number_bytes=4, adapter=500, origin=False)
COHORT = Path(__file__).parents[2] / "results" / "benchmarks" / "cohort.json"


def share(load: Load, clients: int = 1000, budget: int = PLENTY) -> int:
    return clients_that_share(load, clients=clients, budget_bytes=budget)


@pytest.mark.parametrize(
    ("tokens", "wanted"),
    [(0.0, 64), (1.0, 64), (64.0, 64), (65.0, 32), (500.0, 8), (1024.0, 4), (2049.0, 1), (1e9, 1)],
)
def test_a_pass_has_at_most_so_many_tokens(tokens: float, wanted: int) -> None:
    assert share(replace(LOAD, tokens=tokens)) == wanted


@pytest.mark.parametrize(("clients", "wanted"), [(1, 1), (3, 3), (4, 4), (63, 63), (900, 64)])
def test_no_more_than_there_are(clients: int, wanted: int) -> None:
    assert share(LOAD, clients=clients) == wanted


def test_no_more_than_fit() -> None:
    peak = 2 * 4 * 1000 * 128 + 4 * 4 * 500
    assert LOAD.peak_bytes == peak
    assert replace(LOAD, origin=True).peak_bytes == peak + 4 * 500
    assert [share(LOAD, budget=n * peak) for n in (1, 2, 3, 4, 9)] == [1, 2, 2, 4, 8]
    assert [share(LOAD, budget=n) for n in (-5, 0, 1, peak - 1)] == [1, 1, 1, 1]


@pytest.mark.parametrize("case", sorted(json.loads(COHORT.read_text())["cases"]))
def test_in_the_cases_that_were_measured_it_is_at_most_a_tenth_slower_than_the_best(
    case: str,
) -> None:
    found = json.loads(COHORT.read_text())["cases"][case]
    ours = [x for x in found["rows"] if x["procedure"] == f"ours, {x['at_once']} at once"]
    took = {x["at_once"]: x["seconds"] for x in ours}
    load = replace(LOAD, tokens=found["tokens_of_an_example"] * found["batch"])
    chosen = share(load, clients=found["clients"])
    assert took[chosen] <= 1.1 * min(took.values())
