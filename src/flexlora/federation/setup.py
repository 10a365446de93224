"""From a config to everything that a federation needs, made once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from typing import Any

from flexlora.adapters import ranks_in_words
from flexlora.config.config import Config
from flexlora.config.fleet import device_classes
from flexlora.config.settings import Settings, final_settings
from flexlora.errors import ConfigError, DataError
from flexlora.evaluation import EvalClient, require_scorable
from flexlora.evaluation.blank import blank_references
from flexlora.evaluation.metrics import resolve_metrics
from flexlora.federation.allocating import allotted
from flexlora.federation.census import Census
from flexlora.federation.examples import Examples
from flexlora.federation.fleet import Fleet
from flexlora.federation.foresight import Foresight
from flexlora.federation.ground import Gather, Ground
from flexlora.federation.outcomes import Known
from flexlora.federation.pooled import pooled_examples, pooled_roster, pooled_schedule
from flexlora.federation.roster import Roster, own_ranks
from flexlora.federation.streams import Streams
from flexlora.federation.threads import use_threads
from flexlora.models import AdaptedModel
from flexlora.rules import Rule, Spec
from flexlora.tasks.trained import UNTRAINED, Trained


@dataclass(frozen=True, eq=False)
class Setup:
    """All that one config comes to, whatever its rule.

    ground: the model and the clients' examples, shared by setups that differ in other tables;
    examples: as they are trained on, all in one place where the run is centralised; roster: who
    trains at which rank; afforded: client type → its own ranks, whatever the level that it trains
    at, at which it is handed what was learned; owners: client that holds examples → its type, also
    where all train in one place; settings: how they train and are scored; threads: CPU threads that
    this process computes with; fleet: the devices of the clients, where the config names any.
    """

    config: Config
    ground: Ground
    examples: Examples
    roster: Roster
    afforded: Mapping[str, Mapping[str, int]]
    owners: Mapping[str, str]
    settings: Settings
    threads: int
    fleet: Fleet | None = None

    @cached_property
    def foresight(self) -> Foresight:
        """What training takes of memory and time, by the planner's model."""
        recipe = self.settings.schedule.recipe
        return Foresight(self.config, self.model, self.examples.train, recipe)

    @property
    def model(self) -> AdaptedModel:
        return self.ground.model

    @property
    def spec(self) -> Spec:
        """Layers, and the highest and lowest rank among the types that clients really have."""
        training, ranks = self.config.training, list(self.roster.ranks.values())
        return Spec.of(self.model.layers, ranks, training.alpha, training.scaling)

    def trained_ranks(self, rule: Rule) -> dict[str, str]:
        """Type → the ranks that its clients train at under this rule, in words."""
        return {
            name: ranks_in_words(rule.ranks_for(self.spec, ranks))
            for name, ranks in self.roster.ranks.items()
        }

    def known(self) -> Known:
        """What bounds the words of its clients."""
        return self.examples.known(
            self.config.federation.most_examples, self.config.data.max_tokens
        )

    @property
    def streams(self) -> Streams:
        return Streams(self.config.federation.seed)

    @property
    def census(self) -> Census:
        """Who holds what, and of which type they are."""
        return self.examples.census.typed(self.roster.types)

    @property
    def notes(self) -> tuple[str, ...]:
        """What of ranks and data is missing or was done, and what the metrics will pass over."""
        examples, final = self.examples, self.settings.final
        scored = [x for part in (examples.own, examples.unseen) for c in part for x in c.examples]
        return (
            *self.roster.notes,
            *examples.notes,
            *filter(None, [self.config.faults.words()]),
            *blank_references(resolve_metrics(final.metrics), scored),
        )

    def describe(self) -> dict[str, Any]:
        """What was read, for data.json; without the weights' fingerprint where none were loaded.

        The encoding is that of the clients' own examples, also where all train in one place.
        """
        weights = {} if self.ground.outline else {"model_fingerprint": self.ground.fingerprint}
        partition = self.census.to_json()
        return {
            **self.examples.describe(),
            "encoding_fingerprint": self.ground.examples.encoding_fingerprint(),
            **weights,
            "partition": partition,
            **({} if self.fleet is None else self._devices(self.fleet)),
            "notes": list(self.notes),
        }

    def _devices(self, fleet: Fleet) -> dict[str, Any]:
        return {"device_fingerprint": fleet.fingerprint, "devices": fleet.describe()}


def prepare(
    config: Config,
    like: Setup | None = None,
    *,
    threads: int | None = None,
    device: str | None = None,
    outline: bool = False,
    today: date | None = None,
    types: Mapping[str, str] | None = None,
    gather: Gather | None = None,
    before: Trained = UNTRAINED,
) -> Setup:
    """Load the model and the data, make the clients, draw their types. Deterministic in the seed.

    like: a setup whose model and examples are used again where this config says the same of them,
    so that arms that differ in [rule], [clients], [training] or [run] share them. threads: CPU
    threads (default: the config's, else torch's own choice). device: where the model runs
    (default: the config's). outline: without the model's weights, for looking ahead only.
    today: what chat templates are told that ask for the date (default: see `Ground.of`).
    types: client → the type that it was of before, which it keeps where the mix still has it.
    gather, before: see `Ground.of`.
    Raises InputErrors for all that can be wrong with model, data or ranks, before anything trains.
    """
    threads = use_threads(threads or config.run.threads)
    final_settings(config)  # Unknown metrics end here, before anything is read.
    if gather is None:
        device_classes(config)  # And a file of devices; those that clients bring are known later.
    ground = Ground.of(
        config,
        device=device,
        outline=outline,
        like=None if like is None else like.ground,
        today=today,
        gather=gather,
        before=before,
    )
    _require_enough(config, ground.examples)
    examples, centralised = ground.examples, config.federation.mode == "centralised"
    settings = Settings.of(config, len(examples.train), len(examples.scorers))
    _require_scorable(config, examples, settings)
    if not outline:
        ground.rehearsed(config, (*settings.validation.metrics, *settings.final.metrics))
    fleet, roster = _clients(config, ground, settings, types)
    afforded, owners = roster.ranks, roster.types
    roster = roster.at_level(config.clients.level, ground.model.layers)
    if centralised:
        schedule = pooled_schedule(settings.schedule, examples.train)
        examples, settings = pooled_examples(examples), replace(settings, schedule=schedule)
        roster = pooled_roster(roster, ground.model)
    return Setup(config, ground, examples, roster, afforded, owners, settings, threads, fleet)


def _clients(
    config: Config, ground: Ground, settings: Settings, before: Mapping[str, str] | None
) -> tuple[Fleet | None, Roster]:
    """Their devices, where any are named, and who trains at which rank."""
    asked, examples, layers = config.clients, ground.examples, ground.model.layers
    streams, said = Streams(config.federation.seed), examples.types
    names, brought = sorted(examples.train), examples.devices
    fleet = Fleet.dealt(config, names, streams, said=said, before=before, brought=brought)
    if fleet is None:
        roster = Roster.of(asked, examples.train, layers, streams, said=said, before=before)
        return None, roster
    foresight = Foresight(config, ground.model, examples.train, settings.schedule.recipe)
    named = own_ranks(asked, examples.train, said, fleet.classes)
    fleet = allotted(fleet, config, foresight, named, settings.schedule.clients)
    return fleet, Roster.on(fleet, asked, names, layers, streams, said=said)


def _require_enough(config: Config, examples: Examples) -> None:
    """Raise for what would otherwise end a run halfway: too little to train on, or to score."""
    evaluation = config.evaluation
    needed = {"training": len(examples.train)}
    if evaluation.unseen:
        needed["unseen"] = len(examples.unseen)
    for words, count in needed.items():
        if not count:
            raise DataError(
                f"the {words} clients of source {config.data.source} hold no example that fits "
                f"{config.data.max_tokens} tokens; raise data.max_tokens"
            )
    if config.federation.mode == "centralised" and evaluation.on_clients != "off":
        raise ConfigError(
            f"federation.mode is 'centralised', but evaluation.on_clients is "
            f"'{evaluation.on_clients}', and there are no clients that could score; set it to 'off'"
        )
    if not evaluation.every:
        return
    kept_out = evaluation.validation_clients
    asked, cure = f"evaluation.every is {evaluation.every}", "set evaluation.every to 0"
    if evaluation.validation_examples and not examples.validation:
        if kept_out:
            raise DataError(
                f"the clients kept out of training ({kept_out}) hold no example that fits "
                f"{config.data.max_tokens} tokens, but {asked}; raise data.max_tokens or "
                f"evaluation.validation_clients, or {cure}"
            )
        raise DataError(
            f"the clients hold no validation examples, but {asked}; give each client more "
            f"examples, or {cure}"
        )
    if evaluation.on_clients != "off" and not examples.scorers:
        raise DataError(
            "the clients that train hold no validation examples, but evaluation.on_clients is "
            f"'{evaluation.on_clients}'; give each client more examples, or set it to 'off'"
        )


def _require_scorable(config: Config, examples: Examples, settings: Settings) -> None:
    """Raise DataError now for examples that a metric could not score later."""

    def require(parts: Sequence[Sequence[EvalClient]], by: Any) -> None:
        for part in filter(None, parts):
            require_scorable(part, by)

    if config.evaluation.every:
        require((examples.validation, examples.own_validation), settings.validation)
    if config.evaluation.unseen:
        require((examples.own, examples.unseen), settings.final)
