"""The tidy table of a comparison: one number a row, and what can be asked of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property

from flexlora.runs.results import BASE, FULL, START

VALIDATION, TRAINING = "validation", "training"
OWN_RANK = "own rank"  # A state: of every client that of its own rank, as clients score it.
TUNED = "own rank, tuned"
KEPT = "own"  # Ranks of a full state of which every client keeps its own part.
ENERGIES = (1, 2, 4, 8, 16, 32)  # Singular values whose share of ‖ΔW‖² is told.


@dataclass(frozen=True)
class Row:
    """One value of one metric. All others say of what; "" where a thing is not told apart.

    learning_rate: of the run's config, 0 for the base model; round: after which the state stood;
    final: whether it is the run's outcome, scored once: its bytes and tokens are then those of the
    whole run, else those up to the round. part: whose examples ("own", "unseen", "validation"), or
    "training" for what describes the training itself (train_loss, cut, effective_rank, energy_k,
    truncation); state: "base", "start", "full", a client type, or "own rank"; clients: a type,
    where only its clients' own examples count; client: the one client, or unseen task, whose
    examples alone count; examples: scored, 0 where that is not told; value: NaN for a run that
    broke down; bytes: sent up and down, to train and to evaluate; tokens: trained on; simulated:
    seconds on the clients' devices, by their profiles, 0 where they have none.
    """

    arm: str
    seed: int
    learning_rate: float
    round: int
    final: bool
    part: str
    state: str
    ranks: str
    clients: str
    category: str
    client: str
    examples: int
    metric: str
    value: float
    bytes_up: int
    bytes_down: int
    tokens: int
    simulated: float = 0.0

    @property
    def bytes(self) -> int:
        return self.bytes_up + self.bytes_down


Shares = Mapping[str, tuple[float, float]]  # Client → its share of the examples, its value.
COLUMNS = tuple(field.name for field in fields(Row))


@dataclass(frozen=True)
class Tidy:
    """rows: all; federated: arms whose clients send anything over a network.

    types_scored: arms that were to score what each client type is handed; higher: metric → whether
    more of it is better, and names: metric as a config names it → its name in scores, both as the
    runs noted it.
    """

    rows: tuple[Row, ...]
    federated: frozenset[str]
    types_scored: frozenset[str]
    higher: Mapping[str, bool]
    names: Mapping[str, str]

    def finals(
        self, part: str, state: str, metric: str, *, clients: str = "", category: str = ""
    ) -> dict[str, dict[int, float]]:
        """Arm → seed → value, of those that are finite.

        The base model is the same in any state. Where every client is handed the full state, that
        stands for each type; where each keeps its own, it stands for its own type's examples
        alone. Of validation any state is the server's score, or the clients' where it has none, but
        those by which clients score, which are each its own.
        """
        found: dict[str, dict[int, float]] = {}
        for row in self._outcomes.get((part, metric, clients, category), ()):
            if self._stands_for(row, state, clients) and math.isfinite(row.value):
                found.setdefault(row.arm, {})[row.seed] = row.value
        return found

    def by_client(self, part: str, state: str, metric: str) -> dict[str, dict[int, Shares]]:
        """Arm → seed → client or unseen task → its share of the examples, and its value.

        Shares add up to 1. Left out are cells where not all values are finite, and those whose
        `finals` are not the mean of these values: a metric that is pooled, summed or finished.
        """
        rows: dict[tuple[str, int], list[Row]] = {}
        for row in self._singles.get((part, metric), ()):
            if self._stands_for(row, state):
                rows.setdefault((row.arm, row.seed), []).append(row)
        means = self.finals(part, state, metric)
        found: dict[str, dict[int, Shares]] = {}
        for (arm, seed), scored in rows.items():
            total = max(1, sum(row.examples for row in scored))
            shares = {row.client: (row.examples / total, row.value) for row in scored}
            mean = math.fsum(share * value for share, value in shares.values())
            shown = means.get(arm, {}).get(seed, math.nan)
            if len(shares) == len(scored) and math.isclose(mean, shown, rel_tol=1e-6, abs_tol=1e-9):
                found.setdefault(arm, {})[seed] = shares
        return found

    def _stands_for(self, row: Row, state: str, clients: str = "") -> bool:
        """Whether what this row scored is what this state is of its arm."""
        if row.part == VALIDATION:
            if state not in (OWN_RANK, TUNED):
                state = FULL if row.arm in self._validated else OWN_RANK
            return row.state == state
        if row.ranks == KEPT and state not in (FULL, clients):
            return False
        handed = FULL if row.arm in self._alike and state != BASE else state
        return handed == row.state or row.arm in self._bare

    @cached_property
    def rates(self) -> dict[str, float]:
        """Arm → its learning rate, of those that are trained."""
        return {row.arm: row.learning_rate for row in self.rows if row.learning_rate > 0}

    @cached_property
    def _outcomes(self) -> dict[tuple[str, str, str, str], list[Row]]:
        found: dict[tuple[str, str, str, str], list[Row]] = {}
        for row in self.rows:
            if row.final and not row.client:
                key = (row.part, row.metric, row.clients, row.category)
                found.setdefault(key, []).append(row)
        return found

    @cached_property
    def _singles(self) -> dict[tuple[str, str], list[Row]]:
        found: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows:
            if row.client:
                found.setdefault((row.part, row.metric), []).append(row)
        return found

    @cached_property
    def _validated(self) -> set[str]:
        """Arms that the server validated."""
        return {row.arm for row in self.rows if row.part == VALIDATION and row.state == FULL}

    @cached_property
    def _bare(self) -> set[str]:
        """Arms that are never trained: all they have is the base model."""
        trained = {row.arm for row in self.rows if row.final and row.state != BASE}
        return {row.arm for row in self.rows} - trained

    @cached_property
    def _alike(self) -> set[str]:
        """Arms without a state of any type, though they were to score them: they have one rank."""
        states = (BASE, START, FULL)
        typed = {
            row.arm
            for row in self.rows
            if row.final and row.part != VALIDATION and row.state not in states
        }
        return set(self.types_scored) - typed
