"""The clients' data as a federation uses it: read, made into clients, encoded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date

import torch

from flexlora.config.config import Config
from flexlora.errors import ConfigError, DataError, shown
from flexlora.evaluation import EvalClient
from flexlora.federation.streams import Streams
from flexlora.formats.words import count
from flexlora.models import AdaptedModel
from flexlora.models.context import shorter
from flexlora.tasks import chat
from flexlora.tasks.clients import Client, Part, as_clients
from flexlora.tasks.messages import every_answer
from flexlora.tasks.problems import TOLD
from flexlora.tasks.prompts import Encoded, encode_tasks
from flexlora.tasks.source import SEED, Corpus, open_source

_SHARES = (0.8, 0.1, 0.1)  # train, validation, test
_ALL_TRAIN = (1.0, 0.0, 0.0)


def read_corpus(config: Config, streams: Streams) -> Corpus:
    """Read the source that the config names, with the options of [data] that are given."""
    options = {**config.data.options, SEED: streams.derive("data")}
    return open_source(config.data.source, options).load()


def deal_clients(
    config: Config, corpus: Corpus, streams: Streams
) -> tuple[tuple[Client, ...], tuple[str, ...]]:
    """The training clients as [partition] says, and notes on how they came about.

    Raises ConfigError or DataError for a partition that the data does not allow.
    """
    partition = config.partition.build()
    if partition.groups == "client" and not config.data.options.get("client"):
        raise ConfigError(
            f"partition.by is {partition.by!r}, but data.client names no column; name the "
            "column that says whose a row is, or set partition.by to 'task'"
        )
    tasks, notes = partition.deal(corpus.train, streams.derive("partition"))
    shares = _ALL_TRAIN if corpus.recalled else _SHARES
    return as_clients(tasks, shares=shares, seed=streams.derive("split")), notes


def recalling(clients: Sequence[Client]) -> tuple[Client, ...]:
    """The clients with all that they train on as their validation and test parts."""
    return tuple(replace(client, validation=client.train, test=client.train) for client in clients)


def require_recall(config: Config, clients: Sequence[Client]) -> None:
    """Raise ConfigError where what is trained on is to be scored, but would not be, or in part.

    A sum over some of the facts would stand beside a ceiling of all of them.
    """
    evaluation, source = config.evaluation, config.data.source
    if evaluation.validation_clients:
        raise ConfigError(
            f"evaluation.validation_clients is {evaluation.validation_clients}, but clients of "
            f"source {source!r} are scored on what they are trained on; set it to 0"
        )
    held = sum(len(client.train) for client in clients)
    if evaluation.unseen and evaluation.own_examples < held:
        raise ConfigError(
            f"evaluation.own_examples is {evaluation.own_examples}, but source {source!r} is "
            f"scored whole, all {held} examples; raise it to {held}, or set evaluation.unseen to "
            "false"
        )


def learnt(clients: Sequence[Client], config: Config) -> tuple[Client, ...]:
    """The clients with what `data.learn` says of their training examples."""
    if config.data.learn == "last":
        return tuple(clients)
    return tuple(
        replace(client, train=tuple(answer for x in client.train for answer in every_answer(x)))
        for client in clients
    )


def types_said(clients: Sequence[Client]) -> dict[str, str]:
    """Client → its type, of those whose examples say one. Raises DataError where they differ."""
    said: dict[str, str] = {}
    for client in clients:
        kinds = {x.type for x in (*client.train, *client.validation, *client.test)}
        if len(kinds) > 1:
            some = sorted(kinds)[:2]
            raise DataError(
                f"client {shown(client.id)} holds rows of the types {shown(some[0])} and "
                f"{shown(some[1])}, and a client is of one type; mend the column that data.type "
                "names, or set partition.by to 'client'"
            )
        if kind := "".join(kinds):
            said[client.id] = kind
    return said


def require_unseen(config: Config, corpus: Corpus) -> None:
    """Raise DataError where unseen examples are to be scored, but the source keeps none apart."""
    if not config.evaluation.unseen or corpus.unseen:
        return
    share = config.data.options.get("test_share")
    if share is not None:
        raise DataError(
            f"data.test_share is {share}, but no category holds two rows, one to train on and one "
            "to keep apart; give more rows (data.examples chooses among them), let categories hold "
            "more (data.category), or set evaluation.unseen to false"
        )
    raise DataError(
        f"source {config.data.source!r} keeps nothing apart to score on; set data.test_path, "
        "data.test_share or data.unseen_tasks, or set evaluation.unseen to false"
    )


def require_context(config: Config, model: AdaptedModel) -> None:
    """Raise ConfigError where examples may be longer than the model's context."""
    if config.data.max_tokens > model.context:
        raise ConfigError(
            f"data.max_tokens is {config.data.max_tokens} but {config.model.name} has a context "
            f"of {model.context} tokens{shorter(model.model)}; lower data.max_tokens"
        )


def today_of(config: Config) -> date:
    """The day that chat templates are told: the config's, or the one it is."""
    return date.today() if config.model.date is None else date.fromisoformat(config.model.date)


def asks_for_the_date(config: Config, model: AdaptedModel) -> bool:
    """Whether what is encoded may depend on the day."""
    return config.model.prompt == "chat" and chat.asks_for_the_date(model.tokenizer)


def encode_part(
    model: AdaptedModel, clients: Sequence[Client], part: Part, config: Config, today: date
) -> dict[str, tuple[Encoded, ...]]:
    """Client → its encoded examples of this part; clients left with none by `skip_too_long` go.

    Raises DataError, beside what `encode_tasks` raises, for a token without an embedding.
    """
    encoded = encode_tasks(
        model.tokenizer,
        [client.task(part) for client in clients],
        style=config.model.prompt,
        max_tokens=config.data.max_tokens,
        skip_too_long=config.data.skip_too_long,
        today=today,
    )
    _require_embeddings(model, encoded, config)
    return {name: examples for name, examples in encoded.items() if examples}


def too_long_notes(
    config: Config,
    parts: Iterable[tuple[Sequence[Client], Part, Mapping[str, Sequence[Encoded]]]],
) -> tuple[str, ...]:
    """What `skip_too_long` left out, the first ten by id. parts: who holds what, and what fits."""
    found: list[str] = []
    for clients, part, kept in parts:
        for client in clients:
            fitting = {x.id for x in kept.get(client.id, ())}
            found += [x.id for x in client.task(part).examples if x.id not in fitting]
    if not found:
        return ()
    names = ", ".join(map(shown, found[:TOLD])) + (", …" if len(found) > TOLD else "")
    return (
        f"left out as too long for data.max_tokens = {config.data.max_tokens}: "
        f"{count(len(found), 'example')}: {names}",
    )


def _require_embeddings(
    model: AdaptedModel, encoded: Mapping[str, Sequence[Encoded]], config: Config
) -> None:
    """Raise DataError, with the first such example, for a token that the model cannot read."""
    tokenizer, known = model.tokenizer, model.embeddings
    if max(tokenizer.get_vocab().values()) < known:
        return
    for client, examples in encoded.items():
        for x in examples:
            beyond = [i for part in (x.prompt, x.response, *x.choices) for i in part if i >= known]
            if beyond:
                token = tokenizer.convert_ids_to_tokens(beyond[0])
                raise DataError(
                    f"client {client!r}, example {x.id!r} has the token {token!r}, which is number "
                    f"{beyond[0]} in the tokenizer of {config.model.name}, but the model has "
                    f"{known} embeddings, numbers 0 to {known - 1}; enlarge them with "
                    "resize_token_embeddings and save the model again, or copy the tokenizer that "
                    "belongs to it"
                )


def eval_clients(
    model: AdaptedModel, clients: Sequence[Client], part: Part, config: Config, today: date
) -> tuple[EvalClient, ...]:
    encoded = encode_part(model, clients, part, config, today)
    return tuple(EvalClient(c.id, encoded[c.id]) for c in clients if c.id in encoded)


def some_of(
    clients: Sequence[EvalClient], count: int, generator: torch.Generator
) -> tuple[EvalClient, ...]:
    """At most `count` examples over all clients, drawn uniformly; clients left with none go."""
    places = [(i, j) for i, client in enumerate(clients) for j in range(len(client.examples))]
    chosen = {places[i] for i in torch.randperm(len(places), generator=generator)[:count].tolist()}
    kept = (
        EvalClient(c.id, tuple(e for j, e in enumerate(c.examples) if (i, j) in chosen))
        for i, c in enumerate(clients)
    )
    return tuple(client for client in kept if client.examples)
