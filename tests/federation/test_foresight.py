"""What is foreseen of examples that are elsewhere: their owner's word counts up to a limit."""

from __future__ import annotations

import pytest

from flexlora.config.settings import recipe_of
from flexlora.federation.absent import Absent
from flexlora.federation.foresight import Foresight
from flexlora.federation.ground import Ground
from small import small

MOST = 3


@pytest.fixture(scope="module")
def foresight() -> Foresight:
    """One client of few examples, one that claims 10¹⁸, and one whose examples are here."""
    config = small(
        data={"max_tokens": 96},
        federation={"most_examples": MOST},
        training={"max_steps": None, "epochs": 1, "batch_size": 2},
    )
    ground = Ground.of(config)
    held = {
        "few": Absent(2, 0, 0, ""),
        "greedy": Absent(10**18, 0, 0, ""),
        "here": max(ground.examples.train.values(), key=len),
    }
    return Foresight(config, ground.model, held, recipe_of(config))


def test_more_examples_than_may_be_count_as_many_as_may_be(foresight: Foresight) -> None:
    assert foresight.lengths("few") == [96] * 2
    assert foresight.lengths("greedy") == [96] * MOST
    assert (foresight.steps("few"), foresight.steps("greedy")) == (1, 2)


def test_examples_that_are_here_count_as_they_are(foresight: Foresight) -> None:
    held = foresight.held["here"]
    assert len(held) > MOST
    assert foresight.lengths("here") == [len(x.prompt) + len(x.response) for x in held]
    assert foresight.steps("here") == -(-len(held) // 2)
