"""A comparison that was really played, once for all tests that only read it."""

from __future__ import annotations

from pathlib import Path

import pytest

from comparing.comparisons import comparison, played

READ = comparison(
    {"mine, |a| *b*": {"rule": {"name": "flora"}}},
    {
        "federation": {"rounds": 3},
        "evaluation": {"types_at_end": True, "metrics": ["loss", "token_loss"]},
    },
    controls=["base"],
    seeds=[0, 1, 2],
    primary=["flexlora", "fedit"],
    level=0.5,
    target=5.0,
)


@pytest.fixture(scope="session")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compared") / "out"
    played(READ, out)
    return out
