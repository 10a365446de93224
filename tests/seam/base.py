"""What the tests here compare with."""

from __future__ import annotations

from flexlora.federation import Setup
from flexlora.federation.scoring import validate


def base_loss(setup: Setup) -> float:
    """The validation loss of the bare base model."""
    scores = validate(setup, {})
    assert scores is not None
    return scores.mean()["loss"]
