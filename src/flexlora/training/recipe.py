"""How a client trains, in plain values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from flexlora.errors import ConfigError, nearest

Optimiser = Literal["adamw", "sgd"]
LossOn = Literal["response", "all"]


@dataclass(frozen=True)
class Recipe:
    """Local training of one client in one round.

    optimiser: "adamw" or "sgd" (no momentum), fresh in every round, constant learning rate.
    batch_size: examples. epochs: passes over the client's data; max_steps cuts them short.
    clip_norm: the largest norm of the client's whole gradient (None: no clipping).
    dropout: of the adapters' inputs. loss_on: which tokens are learnt.
    Raises ConfigError for a value out of range.
    """

    optimiser: Optimiser
    learning_rate: float
    batch_size: int
    epochs: int = 1
    max_steps: int | None = None
    weight_decay: float = 0.0
    clip_norm: float | None = 1.0
    dropout: float = 0.0
    loss_on: LossOn = "response"

    def __post_init__(self) -> None:
        _one_of("optimiser", self.optimiser, get_args(Optimiser))
        _one_of("loss_on", self.loss_on, get_args(LossOn))
        _number("learning_rate", self.learning_rate, 0.0)
        _number("weight_decay", self.weight_decay, 0.0, inclusive=True)
        if self.clip_norm is not None:
            _number("clip_norm", self.clip_norm, 0.0)
        _number("dropout", self.dropout, 0.0, inclusive=True)
        if self.dropout >= 1.0:
            raise ConfigError(f"dropout is {self.dropout}; give a share of 0 or more, below 1")
        _count("batch_size", self.batch_size)
        _count("epochs", self.epochs)
        if self.max_steps is not None:
            _count("max_steps", self.max_steps)


def _one_of(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{key} is '{value}'; {nearest(str(value), known)}")


def _number(key: str, value: float, least: float, *, inclusive: bool = False) -> None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not good or value < least or (value == least and not inclusive):
        raise ConfigError(
            f"{key} is {value}; give a number {'of 0 or more' if inclusive else 'above 0'}"
        )


def _count(key: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{key} is {value}; give a whole number of 1 or more")
