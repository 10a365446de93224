"""How long, with whom and how fast: what changes from round to round."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from flexlora.training.recipe import Recipe


@dataclass(frozen=True)
class Schedule:
    """Rounds are counted from 1. `clients` is a count per round.

    The learning rate is multiplied by `decay_factor` from each of `decay_rounds` on.
    Every `evaluate_every` rounds the state is validated (0: never; then the last state is the one
    that counts); `patience` validations without gain end the run (0: never). In the same rounds
    `evaluating_clients` clients score the global adapter at their own ranks (0: none) by these
    `metrics`, and with `score_trained` the clients that trained score what they trained.
    """

    rounds: int
    clients: int
    recipe: Recipe
    decay_factor: float = 0.5
    decay_rounds: tuple[int, ...] = ()
    evaluate_every: int = 1
    patience: int = 0
    evaluating_clients: int = 0
    score_trained: bool = False
    metrics: tuple[str, ...] = ("loss",)

    def recipe_for(self, round: int) -> Recipe:
        """The recipe of this round, its learning rate decayed."""
        decays = sum(1 for start in self.decay_rounds if round >= start)
        rate = self.recipe.learning_rate * self.decay_factor**decays
        return replace(self.recipe, learning_rate=rate)

    def validates(self, round: int) -> bool:
        """Every `evaluate_every` rounds, and after the last one."""
        if self.evaluate_every == 0:
            return False
        return round % self.evaluate_every == 0 or round == self.rounds


@dataclass(frozen=True)
class Progress:
    """The best validation so far (lower is better), its round, and how many came without gain."""

    best: float = math.inf
    best_round: int = 0
    stale: int = 0

    def after(self, round: int, value: float) -> Progress:
        if value < self.best:
            return Progress(value, round, 0)
        return replace(self, stale=self.stale + 1)

    def to_json(self) -> dict[str, Any]:
        # JSON has no infinity; before the first validation there is no best.
        return asdict(self) | {"best": self.best if math.isfinite(self.best) else None}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Progress:
        best = math.inf if data["best"] is None else data["best"]
        return Progress(best, data["best_round"], data["stale"])
