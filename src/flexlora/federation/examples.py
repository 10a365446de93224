"""Who holds which examples, encoded for one tokenizer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import chain
from typing import Any

from flexlora.allocation.devices import Device
from flexlora.config.config import Config
from flexlora.errors import DataError
from flexlora.evaluation import EvalClient
from flexlora.federation.absent import add_to, answer_tokens, bounded, truncated
from flexlora.federation.census import Census
from flexlora.federation.data import (
    asks_for_the_date,
    deal_clients,
    encode_part,
    eval_clients,
    learnt,
    read_corpus,
    recalling,
    require_context,
    require_recall,
    require_unseen,
    some_of,
    too_long_notes,
    types_said,
)
from flexlora.federation.hostile import hostile_of, mislabelled, note
from flexlora.federation.outcomes import Known
from flexlora.federation.sampling import sample
from flexlora.federation.streams import Streams
from flexlora.models import AdaptedModel
from flexlora.tasks.clients import Client, as_clients
from flexlora.tasks.duplicates import Parted, parted
from flexlora.tasks.prompts import Encoded
from flexlora.tasks.source import Corpus
from flexlora.tasks.special_text import special_text_notes
from flexlora.tasks.task import Example, Task
from flexlora.tasks.trained import UNTRAINED, Trained


@dataclass(frozen=True, eq=False)
class Examples:
    """Clients with their encoded examples, which may be absent, and groups of unseen ones.

    unseen: those groups, which may be rows of clients that train.
    source: its name, and fingerprint: of all that it gave; recalled: see `Corpus`. validation, own:
    samples of the clients' validation and test parts (of data that is recalled, of their training
    parts; or, for validation, of all that clients kept out of training hold);
    held_out: client → what it scores itself, a sample of its validation part; own_validation:
    clients that have one. types: client → the type that the data says it is of. census: who holds
    what, as it was dealt; notes: what is missing or was done, in sentences. left_out: "train",
    "unseen" → examples that no cut of the input made fit (`skip_too_long`); "clients",
    "unseen_groups" → clients and groups that were left without any. hostile: the clients that
    attack, where the run is a rehearsal of that. devices: client → the one that it told of itself;
    None where clients tell nothing.
    trained: all that is trained on, here or by what the run begins from, as far as it is known.
    """

    source: str
    fingerprint: str
    recalled: bool
    train: Mapping[str, Sequence[Encoded]]
    validation: tuple[EvalClient, ...]
    own_validation: tuple[EvalClient, ...]
    held_out: Mapping[str, Sequence[Encoded]]
    own: tuple[EvalClient, ...]
    unseen: tuple[EvalClient, ...]
    types: Mapping[str, str]
    census: Census
    notes: tuple[str, ...]
    left_out: Mapping[str, int]
    hostile: tuple[str, ...] = ()
    devices: Mapping[str, Device] | None = None
    trained: Trained = UNTRAINED

    @property
    def scorers(self) -> list[str]:
        """Clients that train and hold what to score on, in order of id."""
        return sorted(client for client in self.held_out if client in self.train)

    def known(self, most: int, max_tokens: int) -> Known:
        """How many examples each client has to train and to score on, and the latter's tokens.

        most: examples that count at most of a client who alone knows how many there are; none of
        these has more than `max_tokens`.
        """
        train, held_out = (
            {client: bounded(part, len(part), most) for client, part in parts.items()}
            for parts in (self.train, self.held_out)
        )
        tokens = {
            client: bounded(part, answer_tokens(part), max_tokens * held_out[client])
            for client, part in self.held_out.items()
        }
        return Known(train, held_out, tokens)

    def encoding_fingerprint(self) -> str:
        """sha256 over all token ids, client by client: another tokenizer, prompt or partition
        gives another run."""
        digest = hashlib.sha256()
        scored = (*self.validation, *self.own, *self.unseen)
        parts = [*self.train.items(), *self.held_out.items(), *((c.id, c.examples) for c in scored)]
        for client, part in parts:
            digest.update(repr((client, len(part))).encode())
            add_to(digest, part)
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        """What was read, for data.json: counts, fingerprints, what was missing or cut."""
        return {
            "source": self.source,
            "fingerprint": self.fingerprint,
            "encoding_fingerprint": self.encoding_fingerprint(),
            "clients": len(self.train),
            "clients_left_out": self.left_out["clients"],
            "training_examples": sum(len(part) for part in self.train.values()),
            "training_examples_truncated": sum(map(truncated, self.train.values())),
            "training_examples_left_out": self.left_out["train"],
            "validation_examples": sum(len(c.examples) for c in self.validation),
            "own_test_examples": sum(len(c.examples) for c in self.own),
            "unseen_groups": len(self.unseen),
            "unseen_groups_left_out": self.left_out["unseen_groups"],
            "unseen_examples": sum(len(c.examples) for c in self.unseen),
            "unseen_examples_truncated": sum(e.truncated for c in self.unseen for e in c.examples),
            "unseen_examples_left_out": self.left_out["unseen"],
            "notes": list(self.notes),
        }


@dataclass(frozen=True, eq=False)
class Dealt:
    """A source's corpus, and the clients that [partition] makes of it, not yet encoded."""

    corpus: Corpus
    clients: tuple[Client, ...]
    notes: tuple[str, ...]

    @staticmethod
    def of(config: Config) -> Dealt:
        """Read the source and deal. Raises InputErrors for all that can be wrong with it."""
        streams = Streams(config.federation.seed)
        corpus = read_corpus(config, streams)
        require_unseen(config, corpus)
        clients, notes = deal_clients(config, corpus, streams)
        if corpus.recalled:
            require_recall(config, clients)
        return Dealt(corpus, clients, (*corpus.notes, *notes))

    def parts(self, config: Config, tested: Sequence[Task], before: Trained = UNTRAINED) -> Parted:
        """Who trains, who only validates, and these tested tasks, less what [data] leaves out.

        before: what was trained on by what the run begins from."""
        streams = Streams(config.federation.seed)
        clients, kept_out = _keep_out(self.clients, config.evaluation.validation_clients, streams)
        unseen = as_clients(tested, seed=streams.derive("split"), unseen=True)
        # Only now, so that all of a chat is in one part, and scores are of last answers.
        return parted(learnt(clients, config), kept_out, unseen, config.data.duplicates, before)

    def encoded(
        self, config: Config, model: AdaptedModel, today: date, before: Trained = UNTRAINED
    ) -> Examples:
        """With the model's tokenizer, on that day where its template asks for it. before: see
        `parts`.

        Raises ConfigError, DataError for what does not fit it.
        """
        require_context(config, model)
        streams, evaluation = Streams(config.federation.seed), config.evaluation
        # While tuning, the unseen tasks are not even encoded.
        parts = self.parts(config, self.corpus.unseen if evaluation.unseen else (), before)
        clients, kept_out, unseen = parts.clients, parts.kept_out, parts.unseen
        hostile = hostile_of(config, [client.id for client in clients])
        taught = mislabelled(clients, config.hostile, hostile)
        train = encode_part(model, taught, "train", config, today)
        scored = recalling(clients) if self.corpus.recalled else clients
        own_validation = eval_clients(model, scored, "validation", config, today)
        validating = own_validation
        if kept_out:
            validating = eval_clients(model, kept_out, "test", config, today)
        tested = eval_clients(model, unseen, "test", config, today)
        own = eval_clients(model, scored, "test", config, today)
        too_long = too_long_notes(
            config,
            [
                (clients, "train", train),
                (clients, "validation", _by_id(own_validation)),
                (clients, "test", _by_id(own)),
                (kept_out, "test", _by_id(validating)),
                (unseen, "test", _by_id(tested)),
            ],
        )
        return Examples(
            source=config.data.source,
            fingerprint=self.corpus.fingerprint,
            recalled=self.corpus.recalled,
            train=train,
            validation=some_of(
                validating, evaluation.validation_examples, streams.generator("validation")
            ),
            own_validation=own_validation,
            held_out={
                c.id: some_of([c], evaluation.client_examples, streams.generator("held_out", c.id))[
                    0
                ].examples
                for c in own_validation
            },
            own=some_of(own, evaluation.own_examples, streams.generator("own")),
            unseen=tested,
            types=types_said(clients),
            census=Census.of(config.partition, clients, kept_out, unseen),
            notes=(
                *self.notes,
                *parts.notes,
                *too_long,
                *special_text_notes(model.tokenizer, _held(clients, kept_out, unseen)),
                *_day_notes(config, model, today),
                *note(config.hostile, hostile),
            ),
            left_out={
                "clients": len(clients) - len(train),
                "unseen_groups": len(unseen) - len(tested),
                "train": sum(len(c.train) for c in clients) - sum(map(len, train.values())),
                "unseen": sum(len(c.test) for c in unseen) - sum(len(c.examples) for c in tested),
            },
            hostile=hostile,
            trained=parts.trained,
        )


def _held(*groups: Sequence[Client]) -> Iterator[Example]:
    """Every example of these clients, once."""
    for client in chain(*groups):
        yield from (*client.train, *client.validation, *client.test)


def _by_id(clients: Sequence[EvalClient]) -> dict[str, Sequence[Encoded]]:
    return {client.id: client.examples for client in clients}


def _day_notes(config: Config, model: AdaptedModel, today: date) -> tuple[str, ...]:
    if config.model.date is not None or not asks_for_the_date(config, model):
        return ()
    return (
        f"the chat template writes the date, {today.isoformat()}, which this run keeps; set "
        "model.date to have it on any day",
    )


def _keep_out(
    clients: Sequence[Client], count: int, streams: Streams
) -> tuple[tuple[Client, ...], tuple[Client, ...]]:
    """(those that train, those that only validate): `count` of them, all that they hold to score.

    Raises DataError where nobody would be left to train.
    """
    if not clients:
        raise DataError(
            "there is no client to train: the data has no training examples; give some, or raise "
            "data.train_tasks where it is 0"
        )
    if count >= len(clients):
        raise DataError(
            f"evaluation.validation_clients is {count}, but there are {len(clients)} clients; "
            "lower it"
        )
    draw = streams.generator("validation_clients")
    chosen = set(sample([client.id for client in clients], count, draw))
    kept_out = (
        Client(c.id, (), (), c.train + c.validation + c.test) for c in clients if c.id in chosen
    )
    return tuple(c for c in clients if c.id not in chosen), tuple(kept_out)
