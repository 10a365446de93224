"""Findings from numbers that somebody wrote down: no run, no folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from comparing.comparisons import COMPARE
from flexlora.comparing.findings import Findings
from flexlora.comparing.settings import CompareConfig
from flexlora.comparing.table import Row, Tidy


def row(arm: str, seed: int, value: float, **changes: Any) -> Row:
    """A final loss on own examples at the full state, of a run of 3 rounds."""
    given: dict[str, Any] = {
        "learning_rate": 1e-2,
        "round": 3,
        "final": True,
        "part": "own",
        "state": "full",
        "ranks": "full",
        "clients": "",
        "category": "",
        "client": "",
        "examples": 4,
        "metric": "loss",
        "bytes_up": 300,
        "bytes_down": 600,
        "tokens": 90,
    }
    return Row(arm=arm, seed=seed, value=value, **{**given, **changes})


def rounds(arm: str, seed: int, values: Mapping[int, float], **costs: int) -> list[Row]:
    """Validations after these rounds; each round costs so many bytes_up, bytes_down and tokens."""
    spent = {"bytes_up": 100, "bytes_down": 200, "tokens": 30, **costs}
    return [
        row(
            arm,
            seed,
            value,
            round=number,
            final=False,
            part="validation",
            **{name: number * cost for name, cost in spent.items()},
        )
        for number, value in values.items()
    ]


def by_task(arm: str, values: Mapping[str, Sequence[float]], **changes: Any) -> list[Row]:
    """Final losses on unseen tasks of 2 examples each, and their means. values: task → by seed."""
    seeds = range(len(next(iter(values.values()))))
    found = []
    for seed in seeds:
        of = {task: by_seed[seed] for task, by_seed in values.items()}
        given: dict[str, Any] = {"part": "unseen", **changes}
        found.append(row(arm, seed, fmean(of.values()), **{**given, "examples": 2 * len(of)}))
        found += [
            row(arm, seed, value, **{**given, "client": task, "examples": 2})
            for task, value in of.items()
        ]
    return found


def tidy(rows: Sequence[Row], **changes: Any) -> Tidy:
    """All arms are federations that score what each type is handed."""
    arms = frozenset(row.arm for row in rows)
    given: dict[str, Any] = {
        "federated": arms,
        "types_scored": arms,
        "higher": {},
        "names": {},
    }
    return Tidy(tuple(rows), **{**given, **changes})


def findings(
    rows: Sequence[Row],
    arms: Sequence[str] = (),
    controls: Sequence[str] = (),
    of: Tidy | None = None,
    **compare: Any,
) -> Findings:
    """arms: of the config; by default those of the rows; of: the table, by default `tidy(rows)`."""
    named = tuple(arms) or tuple(dict.fromkeys(row.arm for row in rows))
    settings = CompareConfig.model_validate({**COMPARE, **compare})
    return Findings("made up", settings, named, frozenset(controls), of or tidy(rows))
