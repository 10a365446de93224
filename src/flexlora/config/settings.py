"""From a config to the plain values that maths takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from flexlora.config.config import Config, RuleConfig, ScreensConfig
from flexlora.config.rule_file import load_rule, read_rule_file
from flexlora.config.schedule import Schedule, clients_per_round
from flexlora.errors import ConfigError
from flexlora.evaluation import EvalSettings
from flexlora.evaluation.metric_file import read_metric_file
from flexlora.evaluation.metrics import resolve_metrics
from flexlora.extras import EXTRAS
from flexlora.formats.user_file import UserFile
from flexlora.formats.words import count
from flexlora.models.places import names_gguf
from flexlora.rules import Rule, make_rule
from flexlora.rules.alone import Alone
from flexlora.screens import Screen, make_screen
from flexlora.tasks.source import SOURCES
from flexlora.training import Recipe

# Host method → the client's optimiser (arXiv 2402.11505: FedAvg by SGD, FedIT and SLoRA by AdamW).
HOSTS: Mapping[str, Literal["adamw", "sgd"]] = {
    "fedavg": "sgd",
    "fedit": "adamw",
    "slora": "adamw",
}


def extras_of(config: Config) -> list[tuple[str, str]]:
    """What of this config asks for which extra; see `extras.require_extras`."""
    asked = [(f"run.trackers has {name}", name) for name in config.run.trackers if name in EXTRAS]
    source = config.data.source
    if extra := getattr(SOURCES[source], "extra", ""):
        asked.append((f"data.source is {source}", extra))
    if names_gguf(config.model.name):
        asked.append((f"model.name is {config.model.name}, a GGUF file", "gguf"))
    if config.model.quantise != "none":
        asked.append((f"model.quantise is {config.model.quantise}", "quant"))
    return asked


@dataclass(frozen=True)
class Settings:
    """How a federation of so many clients trains and is scored.

    validation: each validated round; by loss and the metric that decides, which may need
    generation. final: the unseen examples, once.
    """

    schedule: Schedule
    validation: EvalSettings
    final: EvalSettings

    @staticmethod
    def of(config: Config, clients: int, scorers: int) -> Settings:
        """clients: those that train; scorers: those of them that hold what to score on.

        Raises ConfigError for unknown metrics, and for more clients than there are.
        """
        federation, training = config.federation, config.training
        evaluation, validation = config.evaluation, validation_settings(config)
        evaluating = 0
        if evaluation.on_clients != "off":
            evaluating = clients_per_round(
                evaluation.clients,
                scorers,
                "evaluation.clients",
                "clients that hold validation examples",
            )
        per_round = clients_per_round(federation.clients_per_round, clients)
        _require_quorum(federation.min_clients, per_round)
        _require_seen(config, per_round)
        schedule = Schedule(
            rounds=federation.rounds,
            clients=per_round,
            recipe=recipe_of(config),
            decay_factor=training.decay_factor,
            decay_rounds=tuple(training.decay_rounds),
            evaluate_every=evaluation.every,
            patience=federation.patience,
            evaluating_clients=evaluating,
            score_trained=evaluation.on_clients == "tuned",
            metrics=tuple(m.name for m in resolve_metrics(validation.metrics)),
            norm_limit=federation.norm_limit,
            agreement=federation.agreement,
            over_sample=federation.over_sample,
            min_clients=federation.min_clients,
            min_share=federation.min_share,
            attempts=federation.attempts,
            rest_after=federation.rest_after,
            rest_rounds=federation.rest_rounds,
            leave_out=(config.clients.leave_out or 0.0) if federation.mode == "federated" else 0.0,
            leave_out_every=config.clients.leave_out_every,
            wire=federation.wire,
        )
        return Settings(schedule, validation, final_settings(config))


def _require_quorum(least: int, clients: int) -> None:
    if least > clients:
        raise ConfigError(
            f"federation.min_clients is {least}, but a round has {count(clients, 'client')}; lower "
            "it, or raise federation.clients_per_round"
        )


def _require_seen(config: Config, clients: int) -> None:
    """Raise ConfigError for a screen that a whole round is too small for."""
    for screen in played_screens(config) if config.federation.mode == "federated" else ():
        if (needed := screen.needed(clients)) > clients:
            raise ConfigError(
                f"screens.{screen.name} needs {needed} clients a round, and a round has {clients}; "
                "raise federation.clients_per_round, or leave it out"
            )


def rule_of(chosen: RuleConfig) -> Rule:
    """The rule that [rule] names, with its options; of a file: see `load_rule`.

    Raises ConfigError as `make_rule` and `load_rule` do.
    """
    make = load_rule if chosen.in_file else make_rule
    return make(chosen.name, chosen.options)


def played_rule(config: Config) -> Rule:
    """What a run of this config plays: the rule of [rule], unless every client trains alone.

    Raises ConfigError as `rule_of` does, and for weights that the rule does not take.
    """
    rule = rule_of(config.rule).weighed(config.federation.weights)
    return Alone() if config.federation.mode == "local" else rule


def require_error_budget(config: Config, rule: Rule) -> None:
    """Raise ConfigError for ranks by error under a rule that does not send the best of its state,
    rank by rank, to whoever has whichever ranks in this round. Controls have none."""
    traits, share = rule.traits, config.clients.leave_out
    if config.federation.mode != "federated":
        return
    spectral = traits.compares == "product" and traits.delta in ("none", "origin")
    free = traits.mixed_ranks and not (traits.prunes or traits.memory)
    if share is not None and not (spectral and free):
        raise ConfigError(
            f"clients.leave_out is {share}, but under rule {rule.name} a rank in one round says "
            "nothing of what is left out, or has to stay; leave it out, or choose flexlora"
        )


def code_files(config: Config, *, metrics: bool = True) -> list[UserFile]:
    """The files of a rule and of metrics that a config names, as they are now. None is run.

    Raises ConfigError for one that cannot be read.
    """
    files = [read_rule_file(config.rule.name)] if config.rule.in_file else []
    return [*files, *_metric_files(config).values()] if metrics else files


def rule_fingerprint(chosen: RuleConfig) -> str:
    """sha256 of the file that the rule is in, as it is now; "" for a registered rule.

    Raises ConfigError for a file that cannot be read.
    """
    return read_rule_file(chosen.name).fingerprint if chosen.in_file else ""


def metric_fingerprints(config: Config) -> dict[str, str]:
    """Each metric of [evaluation] that is in a file → sha256 of that file, as it is now.

    Raises ConfigError for a file that cannot be read.
    """
    return {name: file.fingerprint for name, file in _metric_files(config).items()}


def _metric_files(config: Config) -> dict[str, UserFile]:
    asked = (*config.evaluation.metrics, config.evaluation.metric)
    return {name: read_metric_file(name) for name in asked if ":" in name}


def screens_of(chosen: ScreensConfig) -> tuple[Screen, ...]:
    """The screens of [screens], in their order. Raises ConfigError as `make_screen` does."""
    return tuple(make_screen(name, options) for name, options in chosen.chosen.items())


def played_screens(config: Config) -> tuple[Screen, ...]:
    """Those that a run of this config has: none where every client trains alone.

    Raises ConfigError as `screens_of` does.
    """
    screens = screens_of(config.screens)
    return () if config.federation.mode == "local" else screens


def eval_settings(config: Config, metrics: Sequence[str], predictions: int = 0) -> EvalSettings:
    """How [evaluation] scores by these metrics. Raises ConfigError for one that is unknown."""
    settings = config.evaluation
    return EvalSettings(settings.batch_size, settings.max_new_tokens, tuple(metrics), predictions)


def validation_settings(config: Config) -> EvalSettings:
    return eval_settings(config, ("loss", config.evaluation.metric))


def final_settings(config: Config) -> EvalSettings:
    settings = config.evaluation
    return eval_settings(config, (*settings.metrics, settings.metric), settings.predictions)


def recipe_of(config: Config) -> Recipe:
    """The client's recipe: the host method fixes the optimiser, the rest is the config's."""
    training = config.training
    return Recipe(
        optimiser=HOSTS[training.host],
        learning_rate=training.learning_rate,
        batch_size=training.batch_size,
        epochs=training.epochs,
        max_steps=training.max_steps,
        weight_decay=training.weight_decay,
        clip_norm=training.clip_norm or None,
        dropout=training.dropout,
        proximal=training.proximal,
        loss_on=training.loss_on,
    )
