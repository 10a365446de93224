"""Scores where nothing leaves the clients: each of them with the adapter that it keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, zip_longest

from flexlora.engines.memories import Memories
from flexlora.evaluation import EvalClient, EvalSettings, Scores, evaluate
from flexlora.federation.setup import Setup
from flexlora.lowrank import LowRank
from flexlora.rules import Rule, State
from flexlora.runs.results import FULL, Row


def validate_kept(setup: Setup, rule: Rule, state: State, memories: Memories) -> Scores | None:
    """As `scoring.validate`, each client with what it keeps after the state's round."""
    clients = setup.examples.validation
    if not clients:
        return None
    return scores_kept(setup, rule, state, memories, clients, setup.settings.validation)


def kept_row(setup: Setup, rule: Rule, state: State, memories: Memories) -> Row:
    """The full state's row: own test parts with what their clients keep; unseen clients, for whom
    nobody has an adapter, with what all began from."""
    setup.model.set_delta(rule.learned(state))
    settings, own = setup.settings.final, setup.examples.own
    unseen = evaluate(setup.model, setup.examples.unseen, settings)
    kept = scores_kept(setup, rule, state, memories, own, settings) if own else None
    return Row(FULL, "own", unseen, kept)


def scores_kept(
    setup: Setup,
    rule: Rule,
    state: State,
    memories: Memories,
    clients: Sequence[EvalClient],
    settings: EvalSettings,
) -> Scores:
    """One client after the other, W₀ + what it keeps. Who never trained has what all began from."""
    found = []
    for client in clients:
        setup.model.set_delta(_update(setup, rule, state, memories, client.id))
        found.append(evaluate(setup.model, [client], settings))
    texts = chain.from_iterable(zip_longest(*(scores.predictions for scores in found)))
    first = [text for text in texts if text is not None][: settings.predictions]
    return replace(
        found[0],
        clients=tuple(row for scores in found for row in scores.clients),
        predictions=tuple(first),
        cells=tuple(row for scores in found for row in scores.cells),
        notes=tuple(dict.fromkeys(note for scores in found for note in scores.notes)),
    )


def _update(
    setup: Setup, rule: Rule, state: State, memories: Memories, client: str
) -> Mapping[str, LowRank]:
    kind = setup.roster.types.get(client)
    if kind is None:  # It was kept out of training.
        return rule.learned(state)
    begun = rule.readout(state, setup.roster.ranks[kind])
    adapter = rule.receive(begun, memories.after(client, state.round))
    return {name: factors.product() for name, factors in adapter.items()}
