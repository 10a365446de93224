"""From a config to everything that a federation needs, made once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import torch

from flexlora.config.config import Config
from flexlora.config.settings import Settings, final_settings
from flexlora.errors import DataError
from flexlora.evaluation import EvalClient, require_scorable
from flexlora.federation.census import Census
from flexlora.federation.examples import Examples
from flexlora.federation.ground import Ground
from flexlora.federation.roster import Roster
from flexlora.federation.streams import Streams
from flexlora.federation.trackers import require_trackers
from flexlora.models import AdaptedModel
from flexlora.rules import Spec


@dataclass(frozen=True, eq=False)
class Setup:
    """All that one config comes to, whatever its rule.

    ground: the model and the clients' examples, shared by setups that differ in other tables;
    roster: who trains at which rank; settings: how they train and are scored.
    """

    config: Config
    ground: Ground
    roster: Roster
    settings: Settings

    @property
    def model(self) -> AdaptedModel:
        return self.ground.model

    @property
    def examples(self) -> Examples:
        return self.ground.examples

    @property
    def spec(self) -> Spec:
        """Layers, and the highest and lowest rank among the types that clients really have."""
        training, ranks = self.config.training, list(self.roster.ranks.values())
        return Spec.of(self.model.layers, ranks, training.alpha, training.scaling)

    @property
    def streams(self) -> Streams:
        return Streams(self.config.federation.seed)

    @property
    def census(self) -> Census:
        """Who holds what, and of which type they are."""
        return self.examples.census.typed(self.roster.types)

    def describe(self) -> dict[str, Any]:
        """What was read, for data.json; without the weights' fingerprint where none were loaded."""
        weights = {} if self.ground.outline else {"model_fingerprint": self.ground.fingerprint}
        return {**self.examples.describe(), **weights, "partition": self.census.to_json()}


def prepare(
    config: Config,
    like: Setup | None = None,
    *,
    threads: int | None = None,
    device: str | None = None,
    outline: bool = False,
    today: date | None = None,
) -> Setup:
    """Load the model and the data, make the clients, draw their types. Deterministic in the seed.

    like: a setup whose model and examples are used again where this config says the same of them,
    so that arms that differ in [rule], [clients], [training] or [run] share them. threads: CPU
    threads (default: the config's, else torch's own choice). device: where the model runs
    (default: the config's). outline: without the model's weights, for looking ahead only.
    today: what chat templates are told that ask for the date (default: see `Ground.of`).
    Raises InputErrors for all that can be wrong with model, data or ranks, before anything trains.
    """
    require_trackers(config.run.trackers)
    torch.set_num_threads(threads or config.run.threads or torch.get_num_threads())
    final_settings(config)  # Unknown metrics end here, before anything is read.
    ground = Ground.of(
        config,
        device=device,
        outline=outline,
        like=None if like is None else like.ground,
        today=today,
    )
    _require_enough(config, ground.examples)
    settings = Settings.of(config, len(ground.examples.train))
    _require_scorable(config, ground.examples, settings)
    roster = Roster.of(
        config.clients,
        ground.examples.train,
        ground.model.layers,
        Streams(config.federation.seed),
    )
    return Setup(config, ground, roster, settings)


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
    lacks = evaluation.validation_examples > 0 and not examples.validation
    lacks = lacks or (evaluation.on_clients != "off" and not examples.own_validation)
    if evaluation.every and lacks:
        raise DataError(
            f"the clients hold no validation examples, but evaluation.every is {evaluation.every}; "
            "raise data.examples_per_task, or set evaluation.every to 0"
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
