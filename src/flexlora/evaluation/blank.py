"""What metrics pass over in the references that they score against, told before it misleads."""

from __future__ import annotations

from collections.abc import Iterable

from flexlora.evaluation.metric import Metric
from flexlora.tasks.prompts import Encoded


def blank_references(metrics: Iterable[Metric], examples: Iterable[Encoded]) -> tuple[str, ...]:
    """A sentence for each metric that passes over some of what these references say."""
    examples, notes = tuple(examples), []
    for metric in metrics:
        found = [(example.id, words) for example in examples if (words := _lost(metric, example))]
        if found:
            first, words = found[0]
            notes.append(
                f"{metric.name} passes over some of a reference in {len(found):,} of "
                f"{len(examples):,} examples, {first!r} first: {words}"
            )
    return tuple(notes)


def _lost(metric: Metric, example: Encoded) -> str:
    if metric.blank is None:
        return ""
    return next(filter(None, map(metric.blank, example.references)), "")
