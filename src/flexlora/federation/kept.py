"""Scores where what is learned stays with the clients: each with the adapter that it keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, zip_longest

from flexlora.engines.memories import Memories
from flexlora.evaluation import EvalClient, EvalSettings, Scores, evaluate
from flexlora.federation.setup import Setup
from flexlora.lowrank import LowRank
from flexlora.rules import Memory, Rule, State
from flexlora.runs.results import FULL, Row
from flexlora.runs.store import ClientStore

# Client → what it remembers.
Kept = Callable[[str], Memory]


def kept_by(memories: Memories, store: ClientStore) -> Kept:
    """What each client remembers of the round that it answered last, as the store has it."""
    return lambda client: memories.read(client, store.answered.get(client))


def validate_kept(setup: Setup, rule: Rule, state: State, kept: Kept) -> Scores | None:
    """As `scoring.validate`, each client with what it keeps after the state's round."""
    clients = setup.examples.validation
    if not clients:
        return None
    return scores_kept(setup, rule, state, kept, clients, setup.settings.validation)


def kept_row(setup: Setup, rule: Rule, state: State, kept: Kept) -> Row:
    """The full state's row: own test parts with what their clients keep; unseen clients, for whom
    nobody has an adapter, with what all began from."""
    setup.model.set_delta(rule.learned(state))
    settings, own = setup.settings.final, setup.examples.own
    unseen = evaluate(setup.model, setup.examples.unseen, settings)
    scores = scores_kept(setup, rule, state, kept, own, settings) if own else None
    return Row(FULL, "own", unseen, scores, setup.owners)


def scores_kept(
    setup: Setup,
    rule: Rule,
    state: State,
    kept: Kept,
    clients: Sequence[EvalClient],
    settings: EvalSettings,
) -> Scores:
    """One client after the other, W₀ + what it keeps. Who never trained has what all began from."""
    found = []
    for client in clients:
        setup.model.set_delta(_update(setup, rule, state, kept, client.id))
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
    setup: Setup, rule: Rule, state: State, kept: Kept, client: str
) -> Mapping[str, LowRank]:
    kind = setup.roster.types.get(client)
    if kind is None:  # It was kept out of training.
        return rule.learned(state)
    begun = rule.readout(state, rule.ranks_for(state.spec, setup.roster.ranks[kind]))
    adapter = rule.receive(begun, kept(client))
    return {name: factors.product() for name, factors in adapter.items()}
