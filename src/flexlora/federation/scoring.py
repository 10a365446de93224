"""Scores of what was learned: in validated rounds, and of everything at the end."""

from __future__ import annotations

from collections.abc import Mapping

from flexlora.adapters import ranks_in_words
from flexlora.evaluation import Scores, evaluate
from flexlora.federation.kept import Kept, kept_row
from flexlora.federation.observers import Observer
from flexlora.federation.setup import Setup
from flexlora.lowrank import LowRank
from flexlora.rules import Rule, State
from flexlora.rules.promises import require_learned, require_readout
from flexlora.runs.events import Scoring
from flexlora.runs.results import BASE, FULL, START, Row

Update = Mapping[str, LowRank]


def validate(setup: Setup, update: Update) -> Scores | None:
    """The server's scores of W₀ + update on its validation examples; None if it has none."""
    if not setup.examples.validation:
        return None
    setup.model.set_delta(update)
    return evaluate(setup.model, setup.examples.validation, setup.settings.validation)


def score(setup: Setup, update: Update) -> tuple[Scores, Scores | None]:
    """Score W₀ + update by all metrics: on the unseen examples, and on the own test parts."""
    model, examples, settings = setup.model, setup.examples, setup.settings.final
    model.set_delta(update)
    own = evaluate(model, examples.own, settings) if examples.own else None
    return evaluate(model, examples.unseen, settings), own


def score_base(setup: Setup) -> tuple[Scores, Scores | None]:
    """Score the pristine base, once for all setups on the same ground."""
    return setup.ground.once(("base", setup.settings.final), lambda: score(setup, {}))


def final_rows(
    setup: Setup,
    rule: Rule,
    state: State,
    start: State | None,
    observer: Observer,
    kept: Kept,
) -> list[Row]:
    """The final evaluation, the only one that touches the unseen examples.

    Of the base, of what the run began from if it began from anything, of all that was learned, and
    of what each client type is handed. observer: told of each before it is scored; kept: what
    clients remember, where all that was learned is with them.
    """
    types = setup.owners
    observer.told(Scoring(BASE))
    rows = [Row(BASE, "", *score_base(setup), types)]
    if start is not None:
        observer.told(Scoring(START))
        rows.append(Row(START, "full", *score(setup, rule.learned(start)), types))
    observer.told(Scoring(FULL))
    if rule.traits.learned == "clients":
        return [*rows, kept_row(setup, rule, state, kept)]
    learned = require_learned(rule, rule.learned(state), state.spec)
    rows.append(Row(FULL, "full", *score(setup, learned), types))
    if setup.config.evaluation.types_at_end and rule.traits.mixed_ranks:
        for name, ranks in setup.afforded.items():
            observer.told(Scoring(name))
            handed = require_readout(rule, rule.readout(state, ranks), state.spec, ranks)
            update = {n: f.product() for n, f in handed.items()}
            rows.append(Row(name, ranks_in_words(ranks), *score(setup, update), types))
    return rows
