"""How long, with whom and how fast: what changes from round to round."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from flexlora.adapters import Wire
from flexlora.errors import ConfigError
from flexlora.training.recipe import Recipe

MOST_EXAMPLES = 10_000  # Of a client of which the server knows nothing but its own word.
NORM_LIMIT = 1e5  # Honest updates of a round differ by far less, whatever their ranks and steps.


@dataclass(frozen=True)
class Schedule:
    """Rounds are counted from 1. `clients` is a count per round.

    The learning rate is multiplied by `decay_factor` from each of `decay_rounds` on.
    Every `evaluate_every` rounds the state is validated (0: never; then the last state is the one
    that counts); `patience` validations without gain end the run (0: never). In the same rounds
    `evaluating_clients` clients score the global adapter at their own ranks (0: none) by these
    `metrics`, and with `score_trained` the clients that trained score what they trained. An update
    of more than `norm_limit` times its round's median norm is quarantined. `agreement`: whether
    rounds tell how much clients agree. `over_sample`, `min_clients`, `min_share`, `attempts`,
    `rest_after`, `rest_rounds`, `wire`: as in [federation]. `leave_out`: the share of the state's
    energy that what a client is sent may leave out (0: it is always sent its own ranks), by which
    ranks are chosen every `leave_out_every` rounds.
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
    norm_limit: float = NORM_LIMIT
    agreement: bool = False
    over_sample: float = 1.0
    min_clients: int = 1
    min_share: float = 0.0
    attempts: int = 1
    rest_after: int = 3
    rest_rounds: int = 5
    leave_out: float = 0.0
    leave_out_every: int = 1
    wire: Wire = "exact"

    def asks(self, there: int) -> int:
        """How many clients a round asks, of so many that it can."""
        return min(there, math.ceil(round(self.clients * self.over_sample, 9)))

    def quorum(self, asked: int) -> int:
        """How many of those asked have to count; never more than a round has clients."""
        share = math.ceil(round(self.min_share * asked, 9))
        return min(self.clients, max(self.min_clients, share))

    def recipe_for(self, round: int) -> Recipe:
        """The recipe of this round, its learning rate decayed."""
        decays = sum(1 for start in self.decay_rounds if round >= start)
        rate = self.recipe.learning_rate * self.decay_factor**decays
        return replace(self.recipe, learning_rate=rate)

    def validates(self, round: int) -> bool:
        """Every `evaluate_every` rounds, and after the last one."""
        return validates(round, self.evaluate_every, self.rounds)


def validates(round: int, every: int, rounds: int) -> bool:
    """Whether this round of so many is validated, every so many (0: none is) and the last one."""
    return every > 0 and (round % every == 0 or round == rounds)


def validations(after: int, every: int, rounds: int) -> int:
    """How many rounds beyond `after` are validated; in no more time for many than for few."""
    if not every or after >= rounds:
        return 0
    return rounds // every - after // every + (rounds % every > 0)


def clients_per_round(
    amount: int | float,
    clients: int,
    key: str = "federation.clients_per_round",
    who: str = "clients",
) -> int:
    """A count as it is, or a fraction in (0, 1] of all clients, rounded down (5 % of 1,613 is the
    paper's 80), at least 1.

    Raises ConfigError, naming the config's `key` and `who` they are, for more than there are.
    """
    if isinstance(amount, float):
        return max(1, math.floor(round(amount * clients, 9)))  # 0.29 · 100 is 28.999…
    if amount > clients:
        raise ConfigError(
            f"{key} is {amount} but there are {clients} {who}; lower it or give a fraction"
        )
    return amount
