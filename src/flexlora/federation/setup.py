"""From a config to everything a federation needs that does not depend on its rule."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any

import torch

from flexlora.allocation import Mix, draw
from flexlora.config.base import load_base
from flexlora.config.config import Config
from flexlora.config.settings import final_settings, recipe_of, validation_settings
from flexlora.errors import DataError, ModelError
from flexlora.evaluation import EvalClient, EvalSettings, Scores, evaluate, require_scorable
from flexlora.evaluation.metrics import resolve_metrics
from flexlora.federation.census import Census
from flexlora.federation.data import (
    deal_clients,
    encode_part,
    eval_clients,
    read_corpus,
    require_context,
    require_unseen,
    some_of,
)
from flexlora.federation.sampling import clients_per_round, sample
from flexlora.federation.schedule import Schedule
from flexlora.federation.streams import Streams
from flexlora.federation.trackers import require_trackers
from flexlora.lowrank import LowRank
from flexlora.models import AdaptedModel, model_fingerprint
from flexlora.rules import Spec
from flexlora.tasks.clients import Client, as_clients
from flexlora.tasks.prompts import Encoded
from flexlora.tasks.source import Corpus
from flexlora.training import CohortSize


@dataclass(frozen=True, eq=False)
class Setup:
    """Model, clients with their data and ranks, unseen clients. Shared by arms that compare rules.

    validation, own: samples of the clients' validation and test parts (or, for validation, of all
    that clients kept out of training hold); held_out: client → what it scores itself, a sample of
    its validation part.
    census: who holds what, as it was dealt; notes: what is missing or was done, in sentences.
    types: client → type name; ranks: type name → (layer → rank).
    at_once: clients trained at once, where it was measured, by what it depends on beside the data.
    left_out: "train", "unseen" → examples that no cut of the input made fit (`skip_too_long`);
    "clients", "unseen_clients" → clients that were left without any.
    """

    config: Config
    model: AdaptedModel
    corpus: Corpus
    train: Mapping[str, Sequence[Encoded]]
    validation: tuple[EvalClient, ...]
    held_out: Mapping[str, Sequence[Encoded]]
    own: tuple[EvalClient, ...]
    unseen: tuple[EvalClient, ...]
    census: Census
    notes: tuple[str, ...]
    types: Mapping[str, str]
    mix: Mix
    ranks: Mapping[str, Mapping[str, int]]
    left_out: Mapping[str, int]
    model_fingerprint: str
    at_once: dict[tuple[object, ...], CohortSize] = field(default_factory=dict)
    _scored: dict[str, tuple[Scores, Scores | None]] = field(default_factory=dict)

    @property
    def spec(self) -> Spec:
        """Layers and the highest and lowest rank among the types that clients really have."""
        present = [self.ranks[name] for name in sorted(set(self.types.values()))]
        training = self.config.training
        return Spec.of(self.model.layers, present, training.alpha, training.scaling)

    def schedule(self) -> Schedule:
        federation, training = self.config.federation, self.config.training
        evaluation = self.config.evaluation
        evaluating = 0
        if evaluation.on_clients != "off":
            evaluating = clients_per_round(
                evaluation.clients, len(self.train), "evaluation.clients"
            )
        return Schedule(
            rounds=federation.rounds,
            clients=clients_per_round(federation.clients_per_round, len(self.train)),
            recipe=recipe_of(self.config),
            decay_factor=training.decay_factor,
            decay_rounds=tuple(training.decay_rounds),
            evaluate_every=evaluation.every,
            patience=federation.patience,
            evaluating_clients=evaluating,
            score_trained=evaluation.on_clients == "tuned",
            metrics=tuple(m.name for m in resolve_metrics(self.validation_settings.metrics)),
        )

    @property
    def validation_settings(self) -> EvalSettings:
        """How a round is scored: by loss and the metric that decides, which may need generation."""
        return validation_settings(self.config)

    def validate(self, update: Mapping[str, LowRank]) -> Scores | None:
        """The server's scores of W₀ + update on its validation examples; None if it has none."""
        if not self.validation:
            return None
        self.model.set_delta(update)
        return evaluate(self.model, self.validation, self.validation_settings)

    def score(self, update: Mapping[str, LowRank]) -> tuple[Scores, Scores | None]:
        """Score W₀ + update by all metrics: on the unseen clients, and on the own test parts."""
        self.model.set_delta(update)
        settings = final_settings(self.config)
        own = evaluate(self.model, self.own, settings) if self.own else None
        return evaluate(self.model, self.unseen, settings), own

    def score_base(self) -> tuple[Scores, Scores | None]:
        """Score the pristine base (once per setup)."""
        how = repr(self.config.evaluation)
        if how not in self._scored:
            self._scored[how] = self.score({})
        return self._scored[how]

    def _encoding_fingerprint(self) -> str:
        """sha256 over all token ids, client by client: another tokenizer, prompt or partition
        gives another run."""
        digest = hashlib.sha256()
        scored = (*self.validation, *self.own, *self.unseen)
        parts = [*self.train.items(), *self.held_out.items(), *((c.id, c.examples) for c in scored)]
        for client, part in parts:
            digest.update(repr((client, len(part))).encode())
            for example in part:
                digest.update(repr((example.prompt, example.response, example.choices)).encode())
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        """What was read, for data.json: counts, fingerprint, what was missing or cut."""
        cut = sum(e.truncated for part in self.train.values() for e in part)
        return {
            "source": self.config.data.source,
            "fingerprint": self.corpus.fingerprint,
            "model_fingerprint": self.model_fingerprint,
            "encoding_fingerprint": self._encoding_fingerprint(),
            "clients": len(self.train),
            "clients_left_out": self.left_out["clients"],
            "training_examples": sum(len(part) for part in self.train.values()),
            "training_examples_truncated": cut,
            "training_examples_left_out": self.left_out["train"],
            "validation_examples": sum(len(c.examples) for c in self.validation),
            "own_test_examples": sum(len(c.examples) for c in self.own),
            "unseen_clients": len(self.unseen),
            "unseen_clients_left_out": self.left_out["unseen_clients"],
            "unseen_examples": sum(len(c.examples) for c in self.unseen),
            "unseen_examples_truncated": sum(e.truncated for c in self.unseen for e in c.examples),
            "unseen_examples_left_out": self.left_out["unseen"],
            "notes": list(self.notes),
            "partition": self.census.to_json(),
        }


def prepare(config: Config, threads: int | None = None, device: str | None = None) -> Setup:
    """Load the model and the data, make the clients, draw their types. Deterministic in the seed.

    threads: CPU threads (default: the config's, else torch's own choice). device: where the model
    runs (default: the config's).
    Raises InputErrors for all that can be wrong with model, data or ranks, before anything trains.
    """
    require_trackers(config.run.trackers)
    torch.set_num_threads(threads or config.run.threads or torch.get_num_threads())
    final_settings(config)  # Unknown metrics end here, before anything is read.
    streams = Streams(config.federation.seed)
    corpus = read_corpus(config, streams)
    require_unseen(config, corpus)
    clients, notes = deal_clients(config, corpus, streams)
    base = load_base(config.model, device)
    fingerprint = model_fingerprint(base.model)
    model = AdaptedModel(base, config.model.targets)
    if not model.layers:
        raise ModelError(
            f"model {config.model.name} has no linear layers but its output head; give a "
            "transformer with nn.Linear layers"
        )
    require_context(config, model)
    clients, kept_out = _keep_out(clients, config.evaluation.validation_clients, streams)
    # While tuning, the unseen tasks are not even encoded.
    tested_tasks = corpus.unseen if config.evaluation.unseen else ()
    unseen = as_clients(tested_tasks, seed=streams.derive("split"), unseen=True)
    train = encode_part(model, clients, "train", config)
    own_validation = eval_clients(model, clients, "validation", config)
    validation = some_of(
        eval_clients(model, kept_out, "test", config) if kept_out else own_validation,
        config.evaluation.validation_examples,
        streams.generator("validation"),
    )
    tested = eval_clients(model, unseen, "test", config)
    own = some_of(
        eval_clients(model, clients, "test", config),
        config.evaluation.own_examples,
        streams.generator("own"),
    )
    _require_enough(config, train, validation, own_validation, tested)
    _require_scorable(config, (validation, own_validation), (own, tested))
    mix = config.clients.build_mix()
    types = draw(mix, sorted(train), streams.generator("types"))
    return Setup(
        config=config,
        model=model,
        corpus=corpus,
        train=train,
        validation=validation,
        held_out={
            c.id: some_of(
                [c], config.evaluation.client_examples, streams.generator("held_out", c.id)
            )[0].examples
            for c in own_validation
        },
        own=own,
        unseen=tested,
        census=Census.of(config.partition, clients, kept_out, unseen, types),
        notes=(*corpus.notes, *notes),
        types=types,
        mix=mix,
        ranks={name: mix.types[name].resolve(model.layers) for name in sorted(set(types.values()))},
        left_out={
            "clients": len(clients) - len(train),
            "unseen_clients": len(unseen) - len(tested),
            "train": sum(len(c.train) for c in clients) - sum(map(len, train.values())),
            "unseen": sum(len(c.test) for c in unseen) - sum(len(c.examples) for c in tested),
        },
        model_fingerprint=fingerprint,
    )


def _keep_out(
    clients: Sequence[Client], count: int, streams: Streams
) -> tuple[tuple[Client, ...], tuple[Client, ...]]:
    """(those that train, those that only validate): `count` of them, all that they hold to score.

    Raises DataError where nobody would be left to train.
    """
    if count >= len(clients):
        raise DataError(
            f"evaluation.validation_clients is {count}, but there are {len(clients)} clients; "
            "lower it"
        )
    chosen = set(
        sample([client.id for client in clients], count, streams.generator("validation_clients"))
    )
    kept_out = (
        Client(c.id, (), (), c.train + c.validation + c.test) for c in clients if c.id in chosen
    )
    return tuple(c for c in clients if c.id not in chosen), tuple(kept_out)


def _require_enough(
    config: Config,
    train: Mapping[str, Sequence[Encoded]],
    validation: Sequence[EvalClient],
    own_validation: Sequence[EvalClient],
    unseen: Sequence[EvalClient],
) -> None:
    """Raise for what would otherwise end a run halfway: too little to train on, or to score."""
    evaluation = config.evaluation
    needed: dict[str, Sized] = {"training": train}
    if evaluation.unseen:
        needed["unseen"] = unseen
    for words, part in needed.items():
        if not part:
            raise DataError(
                f"the {words} clients of source {config.data.source} hold no example that fits "
                f"{config.data.max_tokens} tokens; raise data.max_tokens"
            )
    lacks = evaluation.validation_examples > 0 and not validation
    lacks = lacks or (evaluation.on_clients != "off" and not own_validation)
    if evaluation.every and lacks:
        raise DataError(
            f"the clients hold no validation examples, but evaluation.every is {evaluation.every}; "
            "raise data.examples_per_task, or set evaluation.every to 0"
        )
    clients_per_round(config.federation.clients_per_round, len(train))
    if evaluation.on_clients != "off":
        clients_per_round(evaluation.clients, len(train), "evaluation.clients")


def _require_scorable(
    config: Config,
    validated: Sequence[Sequence[EvalClient]],
    scored: Sequence[Sequence[EvalClient]],
) -> None:
    """Raise DataError now for examples that a metric could not score later."""
    if config.evaluation.every:
        for part in filter(None, validated):
            require_scorable(part, validation_settings(config))
    if config.evaluation.unseen:
        for part in filter(None, scored):
            require_scorable(part, final_settings(config))
