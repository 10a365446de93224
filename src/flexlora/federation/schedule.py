"""How long, with whom and how fast: what changes from round to round."""

from __future__ import annotations

from dataclasses import dataclass, replace

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
