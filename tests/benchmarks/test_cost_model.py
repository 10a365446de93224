"""What the benchmark of the cost model found is what the pages say; what it scores."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import cost_model


def test_peak_memory_is_within_a_tenth_in_every_cell_that_was_measured() -> None:
    found = json.loads(cost_model.OUT.read_text())
    scored = [row for row in found["cells"].values() if not row["calibration"]]
    assert len(scored) >= 20
    assert {row["dtype"] for row in scored} == {"float32", "bfloat16"}
    assert {row["cohort"] for row in scored} == {1, 8}
    assert {1, 256} <= {row["rank"] for row in scored}
    assert {row["model"] for row in scored} == set(cost_model.MODELS)
    for row in scored:
        assert abs(row["off"]) < 0.1
        assert abs(row["off_training"]) < 0.1
    assert found["summary"] == cost_model.summary(list(found["cells"].values()))


def test_what_was_set_by_a_cell_is_not_scored_on_it() -> None:
    rows = [
        {"off": 0.5, "off_training": 0.5, "calibration": True},
        {"off": -0.01, "off_training": 0.03, "calibration": False},
        {"off": 0.02, "off_training": 0.01, "calibration": False, "off_seconds": -0.2},
    ]
    found = cost_model.summary(rows)
    assert found["cells"] == 2
    assert found["off"] == {"median": pytest.approx(0.015), "worst": 0.02}
    assert found["off_seconds"] == {"median": 0.2, "worst": 0.2}
