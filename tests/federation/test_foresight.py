"""What is foreseen of examples that are elsewhere: their owner's word counts up to a limit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flexlora.config.settings import recipe_of
from flexlora.federation.absent import Absent
from flexlora.federation.foresight import Foresight
from flexlora.federation.ground import Ground
from flexlora.rules import make_rule
from flexlora.seeds import seeded
from flexlora.training.batches import plan
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


@pytest.mark.parametrize(
    ("examples", "epochs", "most", "wanted"),
    [
        (1, 1, None, [(1, 1)]),
        (4, 2, None, [(4, 2)]),
        (9, 1, None, [(4, 2), (1, 1)]),
        (9, 3, None, [(4, 6), (1, 3)]),
        (9, 3, 5, [(4, 4), (1, 1)]),
        (9, 3, 2, [(4, 2)]),
        (3, 3, 2, [(3, 2)]),
    ],
)
def test_the_last_batch_of_an_epoch_counts_for_what_it_holds(
    foresight: Foresight,
    examples: int,
    epochs: int,
    most: int | None,
    wanted: list[tuple[int, int]],
) -> None:
    """Batches of four, as training deals them out; where it is cut short, as much at least."""
    recipe = replace(foresight.recipe, batch_size=4, epochs=epochs, max_steps=most)
    config = foresight.config.model_copy(
        update={"federation": foresight.config.federation.model_copy(update={"most_examples": 99})}
    )
    held = {"few": Absent(examples, 0, 0, "")}
    found = Foresight(config, foresight.model, held, recipe)
    parts = found.parts(make_rule("flexlora"), "few")
    assert [(setting.batch, count) for setting, count in parts] == wanted
    assert all(setting.length == 96 for setting, _ in parts)
    assert sum(count for _, count in parts) == found.steps("few")
    dealt = sorted(map(len, plan([96] * examples, 4, epochs, seeded(0), most)))
    told = sorted(batch for batch, count in wanted for _ in range(count))
    assert dealt == told if most is None else sum(dealt) <= sum(told)
