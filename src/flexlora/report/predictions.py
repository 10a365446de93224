"""What the model writes: kept answers of the full state beside the base model's and right ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flexlora.errors import cut_short
from flexlora.report.blocks import Block, Note, Section, Table
from flexlora.report.common import SCOPE_WORDS
from flexlora.report.runs import SCOPES, Prediction, ReportRun, measures
from flexlora.runs.results import BASE, FULL

KEPT = 12  # Answers that are shown of a run and scope at most.
LETTERS = 600  # Characters of a text that are shown at most.


def predictions(runs: Sequence[ReportRun]) -> Section:
    blocks: list[Block] = [
        _table(run, scope, scored.predictions, folded=len(runs) > 1)
        for run in runs
        for scope in SCOPES
        if (scored := run.scored(FULL, scope)) and scored.predictions
    ]
    if not blocks:
        words = "No generated answers were kept; evaluation.predictions says how many to keep."
        blocks.append(Note(words))
    return Section("predictions", "Answers", tuple(blocks))


def _table(run: ReportRun, scope: str, found: Sequence[Prediction], *, folded: bool) -> Table:
    base = run.scored(BASE, scope)
    before = {(p.client, p.example): p.text for p in base.predictions} if base else {}
    scores = measures([run], [name for prediction in found for name in prediction.values])
    rows: list[list[Any]] = [
        [
            prediction.client,
            _shown(prediction.reference),
            _shown(before.get((prediction.client, prediction.example))),
            _shown(prediction.text),
            *(prediction.values.get(measure.name) for measure in scores),
        ]
        for prediction in found
    ]
    return Table.of(
        f"{run.label}: answers on {SCOPE_WORDS[scope]}",
        ["client", "right answer", "base model", "full state", *(m.heading for m in scores)],
        rows,
        digits={measure.heading: measure.digits for measure in scores},
        limit=KEPT,
        folded=folded,
    )


def _shown(text: str | None) -> str | None:
    """An empty answer is said to be one; a long one is cut."""
    if text is None:
        return None
    return cut_short(text, LETTERS) if text.strip() else "(empty)"
