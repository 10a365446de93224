"""The examples of a session whose clients are on other machines, by what they tell of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from typing import Any

from flexlora.allocation.devices import Device
from flexlora.config.config import Config
from flexlora.errors import seen
from flexlora.federation.absent import Absent
from flexlora.federation.census import Census, Holding
from flexlora.federation.data import eval_clients, read_corpus, require_context, require_unseen
from flexlora.federation.examples import Examples
from flexlora.federation.hostile import hostile_of, note
from flexlora.federation.streams import Streams
from flexlora.flower.described import Described
from flexlora.flower.profiles import facts_device
from flexlora.formats.json_fields import table, texts
from flexlora.formats.words import count
from flexlora.models import AdaptedModel
from flexlora.runs.fields import truth
from flexlora.tasks.clients import Client, as_clients
from flexlora.tasks.duplicates import parted
from flexlora.tasks.trained import UNTRAINED, Trained

UNTOLD = "not told"
"""The label of examples whose client keeps its labels to itself."""
NOT_HELD = (
    "unseen examples were not held against what clients train on, which stays with them: some may "
    "be trained on, too"
)


def examples_of(
    config: Config,
    model: AdaptedModel,
    day: date,
    told: Mapping[str, Described],
    noted: tuple[str, ...] = (),
    before: Trained = UNTRAINED,
) -> Examples:
    """The clients' examples, absent, and the unseen ones, which the server has itself.

    noted: what else there is to say of who came. before: what was trained on by what the run begins
    from. What the clients train on is not told: of that no unseen example can be kept.
    """
    require_context(config, model)
    groups, notes = _unseen(config, before)
    notes += noted
    unseen = eval_clients(model, groups, "test", config, day)
    held = {name: one for name, one in told.items() if one.held_out}
    digest = hashlib.sha256()
    for name, one in told.items():
        digest.update(repr((name, one.train_digest, one.held_out_digest)).encode())
    notes += _capped(told, config.federation.most_examples)
    silent = [name for name, one in told.items() if one.labels is None]
    hostile = hostile_of(config, told)
    notes += note(config.hostile, hostile)
    if silent:
        notes += (f"labels stay with {count(len(silent), 'client')}: {', '.join(silent)}",)
    return Examples(
        source=config.data.source,
        fingerprint=digest.hexdigest(),
        recalled=False,
        train={
            name: Absent(one.fitting, 0, one.truncated, one.train_digest)
            for name, one in told.items()
        },
        validation=(),
        own_validation=(),
        held_out={
            name: Absent(one.held_out, one.tokens, 0, one.held_out_digest)
            for name, one in held.items()
        },
        own=(),
        unseen=unseen,
        types={name: str(one.rank) for name, one in told.items() if one.rank is not None},
        census=replace(
            Census.of(config.partition, (), (), groups),
            clients=tuple(_holding(one) for one in told.values()),
        ),
        notes=notes,
        left_out={
            "clients": 0,
            "unseen_groups": len(groups) - len(unseen),
            "train": sum(one.train - one.fitting for one in told.values()),
            "unseen": sum(len(c.test) for c in groups) - sum(len(c.examples) for c in unseen),
        },
        hostile=hostile,
        trained=before | Trained(whole=False),
        devices={name: one.device for name, one in told.items() if one.device is not None},
    )


def _capped(told: Mapping[str, Described], most: int) -> tuple[str, ...]:
    """Whose word is more than it may be."""
    return tuple(
        f"client {seen(name)} says that it has {max(one.fitting, one.held_out):,} examples, of "
        f"which {most:,} count at most; see federation.most_examples"
        for name, one in told.items()
        if max(one.fitting, one.held_out) > most
    )


def _holding(one: Described) -> Holding:
    total = one.train + one.validation + one.test
    labels = {UNTOLD: total} if one.labels is None else dict(one.labels)
    return Holding(one.name, "", one.train, one.validation, one.test, labels)


def _unseen(config: Config, before: Trained) -> tuple[tuple[Client, ...], tuple[str, ...]]:
    """The server's own examples to score at the end, and notes on them."""
    if not config.evaluation.unseen:
        return (), ()
    streams = Streams(config.federation.seed)
    data = config.data.without_training()
    corpus = read_corpus(config.model_copy(update={"data": data}), streams)
    require_unseen(config, corpus)
    unseen = as_clients(corpus.unseen, seed=streams.derive("split"), unseen=True)
    parts = parted((), (), unseen, config.data.duplicates, before)
    held = () if config.data.duplicates == "keep" else (NOT_HELD,)
    return parts.unseen, (*corpus.notes, *parts.notes, *held)


def devices_told(data: Mapping[str, Any]) -> dict[str, Device]:
    """Client → the device that it told of when a run began, out of its data.json.

    Raises ValueError for what is none.
    """
    classes = table(data, "devices") if "devices" in data else {}
    return {
        client: facts_device(told)
        for name in classes
        if truth(told := table(classes, name), "brought")
        for client in texts(told, "clients")
    }


def names_of(data: Mapping[str, Any]) -> list[str]:
    """The clients of a run, out of its data.json."""
    return [str(client["id"]) for client in data["partition"]["clients"]]
