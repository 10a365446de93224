"""The centralised control: the training examples of all clients in one place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from flexlora.config.schedule import Schedule
from flexlora.federation.examples import Examples
from flexlora.federation.roster import Roster
from flexlora.models import AdaptedModel
from flexlora.rules import Spec
from flexlora.tasks.prompts import Encoded

EVERYBODY = "all clients"  # The one client, and its type.


def pooled_examples(examples: Examples) -> Examples:
    """With one client that trains on what all have to train on; what is scored stays as it is."""
    together = tuple(x for client in sorted(examples.train) for x in examples.train[client])
    return replace(examples, train={EVERYBODY: together}, types={})


def pooled_roster(roster: Roster, model: AdaptedModel) -> Roster:
    """It trains each layer at the highest rank that any client has there."""
    highest = Spec.of(model.layers, list(roster.ranks.values())).highest
    return Roster({EVERYBODY: EVERYBODY}, {EVERYBODY: dict(highest)}, roster.notes)


def pooled_schedule(schedule: Schedule, train: Mapping[str, Sequence[Encoded]]) -> Schedule:
    """Its rounds train on as many examples as those of the federation do on average.

    train: the clients' examples before they were pooled. To the nearest whole batch, at least one.
    """
    recipe = schedule.recipe
    size = recipe.batch_size
    most = math.inf if recipe.max_steps is None else recipe.max_steps * size
    seen = sum(min(recipe.epochs * len(part), most) for part in train.values())
    steps = max(1, round(schedule.clients * seen / len(train) / size))
    batches = -(-sum(map(len, train.values())) // size)
    whole = replace(recipe, max_steps=steps, epochs=-(-steps // batches))
    one = replace(schedule, clients=1, min_clients=1, over_sample=1.0, rest_after=0)
    return replace(one, recipe=whole)
