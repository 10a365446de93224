"""Held to a law: whether an aggregator keeps it, by how much it does not, and where."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, final

import torch
from torch import Tensor

from flexlora.errors import cut_short
from flexlora.laws.aggregator import Make
from flexlora.laws.cases import CASES, Case
from flexlora.laws.laws import LAWS, Law, Trial

TOLERANCE = 1e-5
"""Of the relative error: float32 sums and decompositions of these sizes stay well below it."""
Standing = Literal["holds", "fails", "by design"]
_SHOWN = 20  # Numbers of a matrix that a counterexample shows at most.


@final
@dataclass(frozen=True)
class Verdict:
    """law: its name. error: the worst relative error of all cases; infinity where one raised.

    counterexample: lines of text, of the smallest case that fails; () where none does. excuse: why
    the law is not asked of this aggregator, in words; "" where it is.
    """

    law: str
    error: float
    counterexample: tuple[str, ...] = ()
    excuse: str = ""

    @property
    def standing(self) -> Standing:
        if self.excuse:
            return "by design"
        return "fails" if self.counterexample else "holds"


def hold(
    make: Make,
    law: Law,
    cases: Sequence[Case] = CASES,
    tolerance: float = TOLERANCE,
    excuse: str = "",
) -> Verdict:
    """Try one law in every case. What the aggregator raises is a failure of the law."""
    worst, counterexample = 0.0, tuple[str, ...]()
    mixed = bool(getattr(make(), "mixed_ranks", True))
    for case in (replace(case, mixed=mixed) for case in cases if law.later or not case.later):
        try:
            trials = list(law.tried(make, case))
        except (
            Exception,
            SystemExit,
        ) as error:  # A stranger's code: whatever it raises, the law does not hold.
            said = f"{type(error).__name__}: {cut_short(' '.join(str(error).split()), 200)}"
            worst = math.inf
            counterexample = counterexample or (_where(case, case.ranks), f"it raised {said}")
            continue
        found = max(trials, key=lambda x: x.error if x.error == x.error else math.inf)
        worst = max(worst, found.error)
        if not found.error <= tolerance and not counterexample:
            counterexample = tuple(_told(case, found))
    return Verdict(law.name, worst, counterexample, excuse)


def hold_all(
    make: Make,
    excuses: Mapping[str, str] | None = None,
    tolerance: float = TOLERANCE,
) -> list[Verdict]:
    """Try every law. excuses: law → why it is not asked of this aggregator; see `excuses`."""
    given = excuses or {}
    return [
        hold(make, law, tolerance=tolerance, excuse=given.get(name, ""))
        for name, law in LAWS.items()
    ]


def _where(case: Case, ranks: Mapping[str, int]) -> str:
    listed = ", ".join(f"{client} {rank}" for client, rank in ranks.items())
    when = "the second round" if case.later else "the first round"
    return f"{when} of a layer of {case.m} × {case.n}; ranks: {listed}"


def _told(case: Case, trial: Trial) -> Iterator[str]:
    yield _where(case, trial.ranks)
    for x in trial.sent:
        values = f" ΔW {_matrix(x.product())}"
        yield f"{x.client} sends rank {x.rank}, scale {x.scale:g}, weight {x.weight:g}:{values}"
    yield f"{trial.done}; {trial.client} gets"
    yield f"expected  {_matrix(trial.wanted)}"
    yield f"came      {_matrix(trial.came)}"
    yield f"relative error {trial.error:.2g}"


def _matrix(x: Tensor | str) -> str:
    """Rows of a small one; of a large one its size, norm and first numbers."""
    if isinstance(x, str):
        return x
    if x.numel() <= _SHOWN:
        rows = ("  ".join(f"{value:.3g}" for value in row) for row in x.tolist())
        return "[" + " | ".join(rows) + "]"
    first = "  ".join(f"{value:.3g}" for value in torch.flatten(x)[:4].tolist())
    return f"of {x.shape[0]} × {x.shape[1]}, norm {float(x.norm()):.3g} [{first}  …]"
