"""The clients' data as a federation uses it: read, made into clients, encoded."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from flexlora.errors import ConfigError
from flexlora.evaluation import EvalClient
from flexlora.federation.config import Config
from flexlora.federation.streams import Streams
from flexlora.models import AdaptedModel
from flexlora.tasks.clients import Client, Part
from flexlora.tasks.prompts import Encoded, encode_tasks
from flexlora.tasks.source import Corpus, open_source


def read_corpus(config: Config, streams: Streams) -> Corpus:
    """Read the source that the config names, with the options of [data] that it has."""
    data = config.data
    options = {
        "path": data.path or None,
        "train_tasks": data.train_tasks,
        "unseen_tasks": data.unseen_tasks,
        "examples_per_task": data.examples_per_task,
        "unseen_examples_per_task": data.unseen_examples_per_task,
        "share": data.share,
        "min_examples": data.min_examples,
        "unseen": data.unseen,
        "seed": streams.derive("data"),
    }
    given = {key: value for key, value in options.items() if value is not None}
    return open_source(data.source, given).load()


def require_context(config: Config, model: AdaptedModel) -> None:
    """Raise ConfigError where examples may be longer than the model's context."""
    if config.data.max_tokens > model.context:
        raise ConfigError(
            f"data.max_tokens is {config.data.max_tokens} but {config.model.name} has a context "
            f"of {model.context} tokens; lower data.max_tokens"
        )


def encode_part(
    model: AdaptedModel, clients: Sequence[Client], part: Part, config: Config
) -> dict[str, tuple[Encoded, ...]]:
    """Client → its encoded examples of this part; clients left with none by `skip_too_long` go."""
    encoded = encode_tasks(
        model.tokenizer,
        [client.task(part) for client in clients],
        style=config.model.prompt,
        max_tokens=config.data.max_tokens,
        skip_too_long=config.data.skip_too_long,
    )
    return {name: examples for name, examples in encoded.items() if examples}


def eval_clients(
    model: AdaptedModel, clients: Sequence[Client], part: Part, config: Config
) -> tuple[EvalClient, ...]:
    encoded = encode_part(model, clients, part, config)
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
