"""What a comparison came to: its tidy table, what is compared in it, and the differences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from flexlora.comparing.cells import Cell, finished
from flexlora.comparing.comparison import read_comparison
from flexlora.comparing.reading import tidy
from flexlora.comparing.settings import CompareConfig
from flexlora.comparing.statistics import (
    Interval,
    P,
    clustered,
    holm,
    interval,
    paired,
    permutation_test,
)
from flexlora.comparing.table import VALIDATION, Shares, Tidy
from flexlora.comparing.unlike import Unlike, unlike
from flexlora.report.runs import Measure
from flexlora.runs.results import BASE, FULL, START


@dataclass(frozen=True)
class Pair:
    """The reference less one arm, paired by seed: on the seeds that both have.

    clustered: the same difference with its interval over clients, or unseen tasks; None where the
    arms were not scored on the same ones, or the mean is not that of their values. p: of the exact
    paired permutation test; corrected: the same after Holm, over all pairs but the primary one,
    whose p stands as it is.
    """

    arm: str
    difference: Interval | None
    clustered: Interval | None = None
    p: P | None = None
    corrected: float | None = None


@dataclass(frozen=True)
class Findings:
    """name: of the comparison; arms: all of its config, in order, those without a cell too;
    controls: those that bound the others and are not what is asked about; metric: by which all is
    told, "" for the one that the config compares; unlike: see `unlike`; models: of the finished
    cells, by name, and how their weights are held."""

    name: str
    settings: CompareConfig
    arms: tuple[str, ...]
    controls: frozenset[str]
    tidy: Tidy
    metric: str = ""
    unlike: Unlike = field(default_factory=dict)
    models: tuple[tuple[str, str], ...] = ()

    @staticmethod
    def of(out: Path) -> Findings:
        """Of what is finished in OUT by now. Raises RunError for no comparison, or damaged cells.

        No weights are loaded.
        """
        comparison = read_comparison(out)
        arms = tuple(arm.name for arm in comparison.arms)
        controls = frozenset(arm.name for arm in comparison.arms if arm.control is not None)
        cells = finished(out)
        models = [cell.config.model for cell in cells if cell.config is not None]
        return Findings(
            out.resolve().name,
            comparison.settings,
            arms,
            controls,
            tidy(cells),
            unlike=unlike(cells),
            models=tuple(dict.fromkeys((model.name, model.precision) for model in models)),
        )

    @cached_property
    def measure(self) -> Measure:
        """Of the metric. One in a file goes by the name that its runs noted."""
        asked = self.metric or self.settings.metric
        return Measure.of(self.tidy.names.get(asked, asked.rpartition(":")[2]), self.tidy.higher)

    def others(self) -> list[Findings]:
        """The same by each other metric that the compared part was scored by."""
        part, own = self.settings.part, self.measure.name
        found = dict.fromkeys(r.metric for r in self.tidy.rows if r.final and r.part == part)
        return [replace(self, metric=metric) for metric in found if metric != own]

    @property
    def reference(self) -> str:
        """The arm that all others are held against: the first of the primary comparison, else the
        first that is no control."""
        asked = [arm for arm in self.arms if arm not in self.controls]
        return (self.settings.primary or asked or self.arms)[0]

    @cached_property
    def seeds(self) -> dict[str, set[int]]:
        """Arm → its finished seeds."""
        found: dict[str, set[int]] = {arm: set() for arm in self.arms}
        for row in self.tidy.rows:
            found[row.arm].add(row.seed)
        return found

    @cached_property
    def broken(self) -> list[str]:
        """Finished cells in which the compared number is none, in words."""
        found = self.values(self.settings.part, self.settings.state)
        return [
            f"{arm}, seed {seed}"
            for arm, seeds in self.seeds.items()
            for seed in sorted(seeds - set(found.get(arm, {})))
        ]

    @property
    def parts(self) -> list[str]:
        """The parts that are shown, the compared one first."""
        first = self.settings.part
        return [first, *(part for part in ("own", "unseen") if part != first)]

    @cached_property
    def types(self) -> dict[str, str]:
        """Client type → the ranks that it is handed, "" where arms differ in them."""
        found: dict[str, set[str]] = {}
        for row in self.tidy.rows:
            if row.final and row.part != VALIDATION and row.state not in (BASE, START, FULL):
                found.setdefault(row.state, set()).add(row.ranks)
        return {name: ranks.pop() if len(ranks) == 1 else "" for name, ranks in found.items()}

    def values(
        self, part: str, state: str, *, clients: str = "", category: str = ""
    ) -> dict[str, dict[int, float]]:
        """Arm → seed → the metric. See `Tidy.finals`."""
        metric = self.measure.name
        return self.tidy.finals(part, state, metric, clients=clients, category=category)

    def categories(self, part: str) -> list[str]:
        found = (r.category for r in self.tidy.rows if r.part == part and r.category)
        return sorted(set(found))

    def pairs(self, part: str, state: str) -> dict[str, Pair]:
        """Arm → the reference against it. Tested only where it is what the config fixed."""
        found = self.values(part, state)
        singles = self.tidy.by_client(part, state, self.measure.name)
        asked = self.settings
        fixed = not self.metric and (part, state) == (asked.part, asked.state)
        tested = bool(asked.primary) and fixed
        made = {
            arm: _pair(arm, self.reference, found, singles, tested=tested)
            for arm in self.arms
            if arm != self.reference
        }
        rest = {
            arm: pair.p.value
            for arm, pair in made.items()
            if pair.p is not None and arm not in asked.primary
        }
        for arm, p in zip(rest, holm(list(rest.values())), strict=True):
            made[arm] = replace(made[arm], corrected=p)
        return made

    def all_pairs(self, part: str, state: str) -> dict[tuple[str, str], Pair]:
        """(One arm, an arm before it) → the first less the second. Nothing is tested."""
        found = self.values(part, state)
        singles = self.tidy.by_client(part, state, self.measure.name)
        return {
            (one, other): _pair(other, one, found, singles, tested=False)
            for i, one in enumerate(self.arms)
            for other in self.arms[:i]
        }


def score(cell: Cell, settings: CompareConfig) -> float | None:
    """What is compared, of one cell; None where it has no finite value of it."""
    found = Findings("", settings, (cell.arm,), frozenset(), tidy([cell]))
    return found.values(settings.part, settings.state).get(cell.arm, {}).get(cell.seed)


def _pair(
    arm: str,
    reference: str,
    values: Mapping[str, Mapping[int, float]],
    singles: Mapping[str, Mapping[int, Shares]],
    *,
    tested: bool,
) -> Pair:
    differences = paired(values.get(reference, {}), values.get(arm, {}))
    p = permutation_test(differences) if tested else None
    by_client = _by_client(singles.get(reference, {}), singles.get(arm, {}))
    whole = len(by_client) == len(differences)
    return Pair(arm, interval(differences), clustered(by_client) if whole else None, p)


def _by_client(one: Mapping[int, Shares], other: Mapping[int, Shares]) -> list[Shares]:
    """Of each seed on which both were scored on the same examples: one − other."""
    found: list[Shares] = []
    for seed in sorted(one.keys() & other.keys()):
        if _held(one[seed]) == _held(other[seed]):
            pairs = ((client, one[seed][client], other[seed][client]) for client in one[seed])
            found.append({client: (a[0], a[1] - b[1]) for client, a, b in pairs})
    return found


def _held(shares: Shares) -> dict[str, float]:
    return {client: share for client, (share, _) in shares.items()}
