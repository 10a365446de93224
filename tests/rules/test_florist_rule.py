"""FLoRIST: as many directions as hold the share of the energy, added to the base."""

from __future__ import annotations

import pytest
import torch

from flexlora.rules.florist import FLoRIST
from reference import assert_close, dense
from rules.by_hand import alone, combined, learned, sent, spec, start

# For the contract tests, beside the default.
OPTIONS = [{"energy": 1.0}, {"energy": 0.5}]
SPEC = spec(1, 1, 1, m=3, n=3, alpha=2.0)
# Σ w s B A = diag(4, 2, 1): energies 16, 4 and 1 of 21.
ROUND = (
    (0.5, alone(0, 8.0, 2.0, size=3)),
    (0.25, alone(1, 8.0, 2.0, size=3)),
    (0.25, alone(2, 4.0, 2.0, size=3)),
)


@pytest.mark.parametrize(
    ("energy", "kept"),
    [
        (0.5, [4, 0, 0]),
        (16 / 21 - 1e-3, [4, 0, 0]),
        (16 / 21 + 1e-3, [4, 2, 0]),
        (0.9, [4, 2, 0]),
        (20 / 21 + 1e-3, [4, 2, 1]),
        (1.0, [4, 2, 1]),
    ],
)
def test_directions_are_kept_by_energy_and_added_round_after_round(
    energy: float, kept: list[float]
) -> None:
    rule = FLoRIST(energy=energy)
    state = start(rule, SPEC)
    for round in (1, 2, 3):
        after = combined(rule, SPEC, state, *ROUND, round=round)
        state = after.state
        assert after.step is not None
        assert after.step.width == sum(x > 0 for x in kept)
        assert_close(dense(after.step), torch.diag(torch.tensor(kept).float()), 1e-6)
        wanted = round * torch.diag(torch.tensor(kept).float())
        assert_close(learned(rule, SPEC, state), wanted, 1e-6)
        assert after.frozen is not None
        assert_close(dense(after.frozen), wanted, 1e-6)


def test_every_round_trains_a_fresh_adapter() -> None:
    rule = FLoRIST()
    state = combined(rule, SPEC, start(rule, SPEC), *ROUND).state
    given = sent(rule, SPEC, state, 1)
    assert not bool(given.b.any())
    assert bool(given.a.any())
    assert given.scale == 2.0


def test_a_round_that_learned_nothing_adds_nothing() -> None:
    rule = FLoRIST()
    after = combined(rule, SPEC, start(rule, SPEC), (1.0, alone(0, 0.0, 2.0, size=3)))
    assert after.step is not None
    assert after.step.width == 0
