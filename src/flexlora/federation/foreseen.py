"""What clients of a run will take of a device's memory, by the planner's model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from flexlora.allocation.memory import Memory, Setting, training_memory
from flexlora.allocation.shape import Footprint, ModelShape
from flexlora.errors import ModelError
from flexlora.federation.setup import Setup
from flexlora.models.base import quiet
from flexlora.models.shape import shape_of
from flexlora.models.weights import outline
from flexlora.rules import Rule
from flexlora.training.foreseen import footprint_of

Peaks = Mapping[str, Memory]
"""Client type → bytes at the peak of training one of its clients, on the largest batch that any of
them can have. Empty for a model whose passes cannot be played without numbers."""


def peaks(setup: Setup, rule: Rule) -> Peaks:
    """Of every type that clients have."""
    shape = _shape(setup)
    found = {}
    for kind, held in setup.roster.ranks.items():
        clients = [client for client, its in setup.roster.types.items() if its == kind]
        setting = _setting(setup, rule, clients)
        try:
            footprint = _footprint(setup, setting)
        except ModelError:
            return {}
        ranks = rule.ranks_for(setup.spec, held)
        found[kind] = training_memory(shape, footprint, ranks, setting)
    return found


def cohort_peak(setup: Setup, rule: Rule, clients: int) -> float | None:
    """Bytes on top of the model while so many train in one pass, each at the highest rank and on
    the largest batch that any of them has; None where it cannot be foreseen."""
    spec = setup.spec
    setting = replace(_setting(setup, rule, list(setup.examples.train)), cohort=clients)
    try:
        footprint = _footprint(setup, setting)
    except ModelError:
        return None
    ranks = spec.highest if rule.traits.mixed_ranks else spec.lowest
    return training_memory(_shape(setup), footprint, ranks, setting).training


def _setting(setup: Setup, rule: Rule, clients: Sequence[str]) -> Setting:
    """How one of these clients trains on the largest batch that any of them has."""
    recipe, model = setup.settings.schedule.recipe, setup.config.model
    batch, tokens = _largest_batch(setup, clients, recipe.batch_size)
    return Setting(
        batch=batch,
        length=-(-tokens // batch),
        dtype=model.dtype,
        optimiser=recipe.optimiser,
        checkpointing=model.checkpointing,
        quantise=model.quantise,
        origin=rule.traits.origin,
    )


def _shape(setup: Setup) -> ModelShape:
    """That of the bare model, with the layers that are adapted here."""
    owner: Any = setup.model.model
    with quiet():
        whole = shape_of(outline(owner.config, setup.model.base.name, None), setup.model.base.name)
    return replace(whole, layers=tuple(setup.model.layers))


def _largest_batch(setup: Setup, clients: Sequence[str], size: int) -> tuple[int, int]:
    """(examples, tokens) of the batch of the most tokens that one of these clients can have."""
    best = 1, 1
    for client in clients:
        examples = setup.examples.train[client]
        lengths = sorted((len(x.prompt) + len(x.response) for x in examples), reverse=True)[:size]
        best = max(best, (len(lengths), sum(lengths)), key=lambda held: held[1])
    return best


def _footprint(setup: Setup, setting: Setting) -> Footprint:
    owner: Any = setup.model.model
    kind: Any = type(owner.config)
    with quiet():
        return _footprint_of(
            kind,
            owner.config.to_json_string(),
            setup.model.base.name,
            setting.dtype,
            setting.length,
            setting.checkpointing,
            tuple(setup.config.model.targets),
            setting.tokens == setting.length,
        )


@lru_cache(maxsize=64)
def _footprint_of(
    kind: Any,
    config: str,
    name: str,
    dtype: str,
    length: int,
    checkpointing: bool,
    targets: tuple[str, ...],
    alone: bool,
) -> Footprint:
    return footprint_of(
        kind.from_dict(json.loads(config)),
        name,
        dtype=dtype,
        length=length,
        checkpointing=checkpointing,
        targets=targets,
        alone=alone,
    )
