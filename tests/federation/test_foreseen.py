"""The memory that a dry run tells is the planner's, on the run's own data."""

from __future__ import annotations

import pytest

from flexlora.federation.foreseen import peaks
from flexlora.federation.session import Session
from flexlora.federation.setup import prepare
from flexlora.planning.model import Planned
from flexlora.rules import make_rule
from small import small


def test_a_dry_run_tells_what_the_planner_tells() -> None:
    setup = prepare(small(), outline=True)
    rule = make_rule("flexlora")
    told = peaks(setup, rule)
    assert set(told) == set(setup.roster.ranks)
    recipe, model = setup.settings.schedule.recipe, Planned("tiny", setup.config.model.targets)
    for kind, memory in told.items():
        mine = [c for c, its in setup.roster.types.items() if its == kind]
        heaviest = max(
            sum(sorted((len(x.prompt) + len(x.response) for x in data), reverse=True)[:size])
            for data in (setup.examples.train[c] for c in mine)
            for size in (recipe.batch_size,)
        )
        weights = sum(p.numel() for p in setup.model.model.parameters()) * 4
        adapter = 5 * 4 * model.shape.trainable(setup.roster.ranks[kind])
        assert memory.weights == weights
        assert memory.adapter == adapter
        assert memory.pass_ > 4 * heaviest * 128  # At least one number of each width is kept.


def test_a_type_of_higher_rank_takes_more_and_fedit_takes_one() -> None:
    setup = prepare(small(), outline=True)
    low, high = (peaks(setup, make_rule("flexlora"))[kind] for kind in ("low", "high"))
    assert low.adapter < high.adapter
    one = peaks(setup, make_rule("fedit"))
    assert one["low"].adapter == one["high"].adapter == low.adapter


def test_a_preview_has_it() -> None:
    preview = Session.of(small()).preview()
    assert preview.memory["low"].peak == pytest.approx(
        peaks(preview.setup, make_rule("flexlora"))["low"].peak
    )
