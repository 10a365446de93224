"""From a config to the plain values that maths takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from flexlora.config.config import Config, RuleConfig, ScreensConfig
from flexlora.evaluation import EvalSettings
from flexlora.rules import Rule, make_rule
from flexlora.screens import Screen, make_screen
from flexlora.training import Recipe

# Host method → the client's optimiser (arXiv 2402.11505: FedAvg trains by SGD, FedIT by AdamW).
HOSTS: Mapping[str, Literal["adamw", "sgd"]] = {"fedavg": "sgd", "fedit": "adamw"}


def rule_of(chosen: RuleConfig) -> Rule:
    """The rule that [rule] names, with its options. Raises ConfigError as `make_rule` does."""
    return make_rule(chosen.name, chosen.options)


def screens_of(chosen: ScreensConfig) -> tuple[Screen, ...]:
    """The screens of [screens], in their order. Raises ConfigError as `make_screen` does."""
    return tuple(make_screen(name, options) for name, options in chosen.chosen.items())


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
        loss_on=training.loss_on,
    )
